package script

import (
	"slices"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/explain"
)

// Complete returns the lines that begin with what was typed; own are words that begin lines
// besides those of the language.
func Complete(line string, own []string) (lines []string) {
	before, last := "", line
	if i := strings.LastIndexByte(line, ' '); i >= 0 {
		before, last = line[:i+1], line[i+1:]
	}
	var words []string
	switch first := strings.Fields(before); {
	case len(first) == 0:
		words = slices.Concat(Names(), verbs, own)
	case len(first) > 1:
	case strings.EqualFold(first[0], "select"):
		words = []string{"mf"}
		for _, a := range explain.Applications {
			words = append(words, a.Name)
		}
	case strings.EqualFold(first[0], "manage-channel"):
		words = []string{"open", "close"}
	case first[0] == ".explain":
		words = []string{"on", "off"}
	}
	for _, w := range words {
		if strings.HasPrefix(w, strings.ToLower(last)) {
			lines = append(lines, before+w)
		}
	}
	slices.Sort(lines)
	return lines
}
