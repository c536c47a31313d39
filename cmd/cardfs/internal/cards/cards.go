// Package cards names cards by their ATR, from the list that pcsc-tools has.
//
// smartcard_list.txt holds an ATR a line, in spaced upper-case hex or as a regular
// expression of it, and below it the cards that have this ATR, a line each after a tab:
//
//	3B 6. 00 FF
//		Example card (Bank)
//		https://example.org/
//
// The file is not part of cardfs and need not be there. Its size and what is in it are not
// trusted: what does not fit the format is passed over.
package cards

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Bounds of what is kept of a list. Debian's has 480 kB, 4,041 ATRs, 254 of them patterns,
// and names of up to 300 bytes.
const (
	maxFile     = 8 << 20
	maxLine     = 4096
	maxPatterns = 4096
	maxName     = 400
	maxNames    = 64     // of an ATR
	maxKnown    = 10_000 // ATRs whose names are remembered
)

// List is a list of cards. Its methods may be called at the same time.
type List struct {
	read func() *index // the file, read when the first name is asked for

	mu    sync.Mutex
	known map[string][]string // answers by the ATR in hex
}

// index is what a file says.
type index struct {
	exact    map[string][]string // by the ATR in spaced upper-case hex
	patterns []pattern
}

type pattern struct {
	atr   *regexp.Regexp
	names []string
}

// Load is the list that is installed, or an empty one. The file is not read before the
// first name is asked for.
func Load() *List { return load(paths()) }

func load(paths []string) *List {
	return &List{
		known: make(map[string][]string),
		read: sync.OnceValue(func() *index {
			for _, path := range paths {
				if i, ok := readFile(path); ok {
					return i
				}
			}
			return &index{}
		}),
	}
}

// paths are the places where ATR_analysis (pcsc-tools 1.6.2) looks, in its order: the
// user's copy, which it updates, comes first.
func paths() (list []string) {
	home, _ := os.UserHomeDir()
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" && home != "" {
		cache = filepath.Join(home, ".cache")
	}
	if cache != "" {
		list = append(list, filepath.Join(cache, "smartcard_list.txt"))
	}
	if home != "" {
		list = append(list, filepath.Join(home, ".smartcard_list.txt"))
	}
	return append(list, "/usr/local/pcsc/smartcard_list.txt", "/usr/share/pcsc/smartcard_list.txt", "/usr/local/share/pcsc/smartcard_list.txt")
}

// readFile reports false for what cannot be read, or names no card: ATR_analysis leaves an
// empty file where it could not download one.
func readFile(path string) (*index, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // the open of a FIFO would wait
	if err != nil {
		return nil, false
	}
	defer f.Close()
	i := &index{}
	if about, err := f.Stat(); err == nil && about.Mode().IsRegular() {
		i = parse(f)
	}
	return i, len(i.exact)+len(i.patterns) > 0
}

// parse reads a list up to its end, to a read that fails, or to maxFile.
func parse(r io.Reader) *index {
	i := &index{exact: make(map[string][]string)}
	var atr string
	var names []string
	entry := func() {
		if atr != "" && len(names) > 0 {
			i.add(atr, names)
		}
		atr, names = "", nil
	}
	in := bufio.NewReaderSize(io.LimitReader(r, maxFile), maxLine)
	for {
		line, err := in.ReadSlice('\n')
		long := err == bufio.ErrBufferFull
		for err == bufio.ErrBufferFull {
			_, err = in.ReadSlice('\n')
		}
		switch {
		case long: // longer than any that makes sense
		case bytes.HasPrefix(line, []byte("#")):
		case bytes.HasPrefix(line, []byte("\t")):
			if name := clean(line); name != "" && atr != "" {
				names = append(names, name)
			}
		default:
			entry()
			atr = string(bytes.TrimSpace(line))
		}
		if err != nil {
			entry()
			return i
		}
	}
}

// clean is a name as it may go to a terminal, "" for what is none, as an address in the web.
func clean(line []byte) string {
	name := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return -1
		}
		return r
	}, string(line))
	name = strings.Join(strings.Fields(name), " ")
	if strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") {
		return ""
	}
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return name
}

func (i *index) add(atr string, names []string) {
	if b, err := hex.DecodeString(strings.ReplaceAll(atr, " ", "")); err == nil {
		key := fmt.Sprintf("% X", b)
		i.exact[key] = append(i.exact[key], names...)
		return
	}
	if len(i.patterns) >= maxPatterns || !strings.HasPrefix(atr, "3") {
		return
	}
	// Anchored, as ATR_analysis does it. RE2 has no pattern for which
	// the time explodes.
	if re, err := regexp.Compile(`^(?i:` + atr + `)$`); err == nil {
		i.patterns = append(i.patterns, pattern{re, names})
	}
}

// Name returns the cards that have this ATR, none if it is not in the list. The entry that
// spells the ATR out comes first. The four bytes H1 to H4 of a memory card are looked up as
// PC/SC part 3 makes an ATR of them.
func (l *List) Name(atr []byte) []string {
	if len(atr) == 0 {
		return nil
	}
	key := fmt.Sprintf("% X", atr)
	l.mu.Lock()
	defer l.mu.Unlock()
	names, ok := l.known[key]
	if !ok {
		names = l.read().find(key)
		if len(atr) == 4 && atr[0] != 0x3B && atr[0] != 0x3F {
			names = append(names, l.read().find("3B 04 "+key)...)
		}
		if len(l.known) >= maxKnown {
			clear(l.known)
		}
		l.known[key] = names
	}
	return slices.Clone(names)
}

func (i *index) find(atr string) []string {
	names := slices.Clone(i.exact[atr])
	for _, p := range i.patterns {
		if p.atr.MatchString(atr) {
			names = append(names, p.names...)
		}
	}
	// Cards of the same name are listed below several ATRs.
	var once []string
	for _, name := range names {
		if len(once) < maxNames && !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once
}
