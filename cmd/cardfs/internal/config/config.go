// Package config reads the configuration file of a mount, which is in TOML:
//
//	[mount]               # flags of `cardfs mount`
//	allow-other = true
//	mode = "0660"
//
//	[[attach]]            # a reader that nothing announces, as ctl takes it
//	driver = "vpcd"
//	device = "127.0.0.1:35963"
//	timeout = "5m"
//
//	[[reader]]            # who may use readers whose name in by-id fits
//	by-id = "usb-SCM_*"
//	group = "payment"
//	mode = "0640"
//
//	[[quirk]]             # what a CCID reader gets wrong
//	usb = "08E6:3437"
//	no-pinpad = true
//
// It knows the file's form. What the words mean, the program has to check; each knows its
// line, so that an error can name it.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxSize bounds a file that is not meant to be one, such as /dev/zero.
const maxSize = 1 << 20

// File is what a configuration file says.
type File struct {
	Name    string
	Mount   []Option
	Attach  []Attach
	Readers []Reader
	Quirks  []Quirk
}

// Option is a key of [mount].
type Option struct {
	Name   string
	Values []string // several if the value is a list
	Line   int
}

// Attach is an [[attach]].
type Attach struct {
	Driver, Device string
	Params         map[string]string
	Line           int
}

// Key is equal for lines that say the same.
func (a Attach) Key() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%q %q", a.Driver, a.Device)
	for _, name := range slices.Sorted(maps.Keys(a.Params)) {
		fmt.Fprintf(&out, " %q=%q", name, a.Params[name])
	}
	return out.String()
}

// Reader is a [[reader]].
type Reader struct {
	ByID, Group, Mode string // "" for what is not given
	Line              int
}

// Quirk is a [[quirk]].
type Quirk struct {
	Vendor, Product uint16
	Settings        map[string]string
	Lines           map[string]int // of Settings
	Line            int
}

// Error is one thing that is wrong in a file.
type Error struct {
	File string
	Line int // 0: the file as a whole
	Err  error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Errors is all that is wrong, in the order of the lines.
type Errors []*Error

func (e Errors) Error() string {
	var lines []string
	for _, err := range e {
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

// Add adds what is wrong in a line.
func (e *Errors) Add(file string, line int, err error) { *e = append(*e, &Error{file, line, err}) }

// Sorted is e by line, and nil where nothing is wrong.
func (e Errors) Sorted() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	return e
}

// Read reads a file. An error is of type Errors.
func Read(name string) (*File, error) {
	text, err := readAll(name)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err // its name is there already
		}
		return nil, Errors{{File: name, Err: err}}
	}
	return Parse(name, text)
}

func readAll(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(text) > maxSize {
		err = fmt.Errorf("larger than %d bytes", maxSize)
	}
	return text, err
}

// Parse is Read for a text.
func Parse(name string, text []byte) (*File, error) {
	tables, errs := tablesOf(name, text)
	f := &File{Name: name}
	for _, t := range tables {
		r := &rest{table: t, file: name, errs: &errs}
		switch {
		case t.name == "mount" && !t.array:
			for _, k := range t.keys {
				f.Mount = append(f.Mount, Option{strings.ReplaceAll(k.name, "_", "-"), k.values, k.line})
			}
		case t.name == "attach" && t.array:
			a := Attach{Driver: r.word("driver"), Device: r.word("device"), Params: make(map[string]string), Line: t.line}
			if a.Driver == "" {
				r.add(t.line, errors.New(`[[attach]] wants a driver: driver = "vpcd"`))
			}
			for _, k := range r.others("driver", "device") {
				a.Params[k.name] = r.one(k)
			}
			f.Attach = append(f.Attach, a)
		case t.name == "reader" && t.array:
			f.Readers = append(f.Readers, Reader{ByID: r.word("by-id"), Group: r.word("group"), Mode: r.word("mode"), Line: t.line})
			for _, k := range r.others("by-id", "group", "mode") {
				r.add(k.line, fmt.Errorf("[[reader]] has no key %q; there are by-id, group, mode", k.name))
			}
		case t.name == "quirk" && t.array:
			q := Quirk{Settings: make(map[string]string), Lines: make(map[string]int), Line: t.line}
			usb := r.word("usb")
			var err error
			if q.Vendor, q.Product, err = parseID(usb); err != nil {
				r.add(cmp.Or(r.line("usb"), t.line), err)
			}
			for _, k := range r.others("usb") {
				q.Settings[k.name], q.Lines[k.name] = r.one(k), k.line
			}
			f.Quirks = append(f.Quirks, q)
		default:
			r.add(t.line, fmt.Errorf("no table %s; there are [mount], [[attach]], [[reader]], [[quirk]]", t))
		}
	}
	if err := errs.Sorted(); err != nil {
		return nil, err
	}
	return f, nil
}

// parseID reads the IDs of a USB device as lsusb shows them, VENDOR:PRODUCT in hex.
func parseID(text string) (vendor, product uint16, err error) {
	v, p, _ := strings.Cut(text, ":")
	a, errA := strconv.ParseUint(v, 16, 16)
	b, errB := strconv.ParseUint(p, 16, 16)
	if errA != nil || errB != nil || len(v) != 4 || len(p) != 4 {
		return 0, 0, errors.New(`[[quirk]] wants the IDs of a device: usb = "08E6:3437"`)
	}
	return uint16(a), uint16(b), nil
}

// table is a table of the file.
type table struct {
	name  string
	array bool // [[name]]
	line  int
	keys  []key
}

func (t table) String() string {
	if t.array {
		return "[[" + t.name + "]]"
	}
	return "[" + t.name + "]"
}

type key struct {
	name   string
	values []string
	list   bool
	line   int
}

// rest takes keys out of a table.
type rest struct {
	table
	file string
	errs *Errors
}

func (r *rest) add(line int, err error) { r.errs.Add(r.file, line, err) }

func (r *rest) find(name string) *key {
	if i := slices.IndexFunc(r.keys, func(k key) bool { return k.name == name }); i >= 0 {
		return &r.keys[i]
	}
	return nil
}

func (r *rest) line(name string) int {
	if k := r.find(name); k != nil {
		return k.line
	}
	return 0
}

// word is the value of a key, "" if there is none.
func (r *rest) word(name string) string {
	if k := r.find(name); k != nil {
		return r.one(*k)
	}
	return ""
}

// one is the value of a key that has one.
func (r *rest) one(k key) string {
	if k.list {
		r.add(k.line, fmt.Errorf("%s is a list; one value is wanted", k.name))
		return ""
	}
	return k.values[0]
}

// others are the keys but those.
func (r *rest) others(but ...string) (list []key) {
	for _, k := range r.keys {
		if !slices.Contains(but, k.name) {
			list = append(list, k)
		}
	}
	return list
}

// tablesOf splits a file into its tables. What TOML forbids is found by Unmarshal, which
// does not tell where a value was; the parser below it does.
func tablesOf(file string, text []byte) (tables []table, errs Errors) {
	var all map[string]any
	if err := toml.Unmarshal(text, &all); err != nil {
		line := 0
		var where *toml.DecodeError
		if errors.As(err, &where) {
			line, _ = where.Position()
		}
		errs.Add(file, line, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "toml: ")))
		return nil, errs
	}
	var p unstable.Parser
	p.Reset(text)
	lost := false // the keys that follow are in no table
	for p.NextExpression() {
		e := p.Expression()
		name, dotted, at := keyOf(e)
		line := p.Shape(at).Start.Line
		if dotted {
			errs.Add(file, line, fmt.Errorf("%s: keys with dots mean nothing here", name))
			lost = lost || e.Kind != unstable.KeyValue
			continue
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			tables = append(tables, table{name: name, array: e.Kind == unstable.ArrayTable, line: line})
			lost = false
		case unstable.KeyValue:
			k, err := newKey(name, e.Value(), line)
			switch {
			case lost:
			case len(tables) == 0:
				errs.Add(file, line, fmt.Errorf("%s is in no table; a line with [mount] has to be before it", name))
			case err != nil:
				errs.Add(file, line, fmt.Errorf("%s: %w", name, err))
			default:
				t := &tables[len(tables)-1]
				t.keys = append(t.keys, k)
			}
		}
	}
	return tables, errs
}

// keyOf is the name in front of an expression, and where it is.
func keyOf(e *unstable.Node) (name string, dotted bool, at unstable.Range) {
	var parts []string
	for k := e.Key(); k.Next(); {
		if len(parts) == 0 {
			at = k.Node().Raw
		}
		parts = append(parts, string(k.Node().Data))
	}
	return strings.Join(parts, "."), len(parts) > 1, at
}

func newKey(name string, value *unstable.Node, line int) (key, error) {
	k := key{name: name, line: line}
	if value.Kind != unstable.Array {
		text, err := textOf(value)
		k.values = []string{text}
		return k, err
	}
	k.list = true
	for v := value.Children(); v.Next(); {
		text, err := textOf(v.Node())
		if err != nil {
			return k, err
		}
		k.values = append(k.values, text)
	}
	return k, nil
}

// textOf is a value as it would be on a command line. An octal number, 0o660, keeps its
// digits: it is a mode.
func textOf(value *unstable.Node) (string, error) {
	text := string(value.Data)
	switch value.Kind {
	case unstable.String, unstable.Bool:
		return text, nil
	case unstable.Integer:
		text = strings.ReplaceAll(text, "_", "")
		if digits, octal := strings.CutPrefix(text, "0o"); octal {
			return "0" + digits, nil
		}
		n, err := strconv.ParseInt(text, 0, 64)
		return strconv.FormatInt(n, 10), err
	}
	return "", errors.New("a string, a whole number, true or false is wanted")
}
