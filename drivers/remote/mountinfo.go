package remote

import (
	"bufio"
	"bytes"
	"os"
	"strings"
)

// mountSource is what by-id calls a machine whose name was not given: the source of the network
// file system at dir, as in alice@lab:/mnt/cards, or dir itself. It looks at no file below dir.
func mountSource(dir string) string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil {
		if source := sourceOf(text, dir); strings.Contains(source, ":") {
			return source
		}
	}
	return strings.TrimPrefix(dir, "/")
}

// sourceOf finds the source of the last mount that covers dir in a table as proc(5) describes
// /proc/PID/mountinfo.
func sourceOf(table []byte, dir string) (source string) {
	best := -1
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 2 {
			continue
		}
		point := unescape(left[4])
		covers := dir == point || strings.HasPrefix(dir, strings.TrimSuffix(point, "/")+"/")
		if covers && len(point) >= best {
			best, source = len(point), unescape(right[1])
		}
	}
	return source
}

// unescape undoes mountinfo's \040 and the like.
var unescaper = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescape(s string) string { return unescaper.Replace(s) }
