package explain

import (
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
)

// short is how many bytes of a value stand in the line of its tag.
const short = 16

// Node is a data object in words.
type Node struct {
	Tag      string `json:"tag"`             // in hex
	Name     string `json:"name"`            // "" if it has none here
	Value    string `json:"value,omitempty"` // in spaced hex, where there are no children
	Words    string `json:"words,omitempty"` // what the value says, where that is known
	Children []Node `json:"children,omitempty"`

	value []byte
}

// nodes names the objects, which stand in that context.
func nodes(in context, list []Object) []Node {
	var all []Node
	for _, o := range list {
		n := Node{Tag: fmt.Sprintf("%02X", o.Tag), Name: tagName(in, o.Tag), value: o.Value}
		children := o.Children
		if o.Tag == 0x53 { // which is primitive, but PIV's data objects are in it
			children = inner(o.Value)
		}
		n.Children = nodes(inside(in, o.Tag), children)
		if len(children) == 0 && len(o.Value) > 0 {
			n.Value, n.Words = fmt.Sprintf("% X", o.Value), valueWords(in, o)
		}
		all = append(all, n)
	}
	return all
}

// inner takes the value of a primitive object apart, if objects are in it. One of them may
// have the tag of a constructed one, and be none, as PIV's 71 (NIST SP 800-73-4 part 1
// table 10).
func inner(b []byte) (list []Object) {
	for len(b) > 0 {
		o, rest, err := cutObject(b)
		if err != nil {
			return nil
		}
		if o.Constructed() {
			o.Children, _ = ParseTLV(o.Value)
		}
		list, b = append(list, o), rest
	}
	return list
}

// tree adds a line for each object, its children deeper.
func (w *Words) tree(depth int, list []Node) {
	for _, n := range list {
		title := title(n.Tag, n.Name)
		switch {
		case len(n.Children) > 0:
			w.add(depth, "%s, %s", title, count(len(n.value)))
			w.tree(depth+1, n.Children)
		case len(n.value) == 0:
			w.add(depth, "%s, empty", title)
		case len(n.value) <= short:
			w.add(depth, "%s: %s", title, inline(n.value, n.Words))
		default:
			w.add(depth, "%s, %s", title, count(len(n.value)))
			if n.Words != "" {
				w.add(depth+1, "%s", n.Words)
			}
			w.dump(depth+1, n.value)
		}
	}
}

// title is a tag and its name, if it has one.
func title(tag, name string) string { return strings.TrimSpace(tag + " " + name) }

func titleOf(in context, tag uint32) string { return title(fmt.Sprintf("%02X", tag), tagName(in, tag)) }

// inline is a short value: hex, and what it says.
func inline(b []byte, words string) string {
	if words == "" && len(b) > 1 && printable(b) {
		words = fmt.Sprintf("%q", b)
	}
	if words != "" {
		return fmt.Sprintf("% X  %s", b, words)
	}
	return fmt.Sprintf("% X", b)
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// dump adds lines of offset, hex and ASCII; of a few bytes one without offset.
func (w *Words) dump(depth int, b []byte) {
	if len(b) <= short {
		w.add(depth, "% X  |%s|", b, ascii(b))
		return
	}
	for i := 0; i < len(b); i += short {
		line := b[i:min(i+short, len(b))]
		w.add(depth, "%04X  %-*s  |%s|", i, 3*short-1, fmt.Sprintf("% X", line), ascii(line))
	}
}

func ascii(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		if c < ' ' || c > '~' {
			c = '.'
		}
		out.WriteByte(c)
	}
	return out.String()
}

// valueWords is what a primitive value says, "" where nothing is known but its bytes.
func valueWords(in context, o Object) string {
	v := o.Value
	switch {
	case o.Tag == 0x4F, o.Tag == 0x84 && in != inCRT && in != inSM && in != inDynamic, o.Tag == 0x9F06:
		return aidWords(v)
	case o.Tag == 0x5C:
		return tagList(v)
	case o.Tag == 0x9F38, o.Tag == 0x9F49, in == inEMV && (o.Tag == 0x8C || o.Tag == 0x8D || o.Tag == 0x97):
		return dol(v)
	}
	switch {
	case in == inFCP && len(v) <= 8 && (o.Tag == 0x80 || o.Tag == 0x81):
		return count(int(min(number(v), 1<<32)))
	case in == inFCP && o.Tag == 0x82:
		return descriptor(v[0])
	case in == inFCP && o.Tag == 0x88 && len(v) == 1:
		return fmt.Sprint(v[0] >> 3)
	case in == inFCP && o.Tag == 0x8A && len(v) == 1:
		return lifeCycle(v[0])
	case o.Tag == 0x06:
		return oid(v)
	case o.Tag == 0x02 && len(v) <= 8:
		return integer(v)
	case o.Tag == 0x01 && len(v) == 1 && in != inPIV:
		return fmt.Sprint(v[0] != 0)
	}
	return ""
}

func number(v []byte) uint64 {
	n := uint64(0)
	for _, c := range v {
		n = n<<8 | uint64(c)
	}
	return n
}

func integer(v []byte) string {
	n := new(big.Int).SetBytes(v)
	if v[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(v))))
	}
	return n.String()
}

// oid is the dotted form of an object identifier.
func oid(v []byte) string {
	var id asn1.ObjectIdentifier
	if len(v) > 127 {
		return ""
	}
	der := append([]byte{0x06, byte(len(v))}, v...)
	if rest, err := asn1.Unmarshal(der, &id); err != nil || len(rest) > 0 {
		return ""
	}
	return id.String()
}

// descriptor is the file descriptor byte, ISO/IEC 7816-4:2020 table 12.
func descriptor(b byte) string {
	if b&0x80 != 0 {
		return ""
	}
	shareable := ""
	if b&0x40 != 0 {
		shareable = ", shareable"
	}
	switch b & 0x3F {
	case 0x38:
		return "DF" + shareable
	case 0x39:
		return "BER-TLV EF" + shareable
	case 0x3A:
		return "SIMPLE-TLV EF" + shareable
	}
	kind := map[byte]string{0x00: "working EF", 0x08: "internal EF"}[b&0x38]
	if kind == "" {
		kind = "EF, proprietary"
	}
	structure := [8]string{"", ", transparent", ", linear fixed", ", linear fixed, TLV", ", linear variable", ", linear variable, TLV", ", cyclic", ", cyclic, TLV"}
	return kind + structure[b&7] + shareable
}

// lifeCycle is the life cycle status byte, ISO/IEC 7816-4:2020 table 14.
func lifeCycle(b byte) string {
	switch {
	case b == 0:
		return "no information"
	case b == 1:
		return "creation"
	case b == 3:
		return "initialisation"
	case b&0xFD == 5:
		return "operational, activated"
	case b&0xFD == 4:
		return "operational, deactivated"
	case b&0xFC == 0x0C:
		return "terminated"
	case b > 0x0F:
		return "proprietary"
	}
	return ""
}

// tagList names the tags of a tag list.
func tagList(v []byte) string {
	var names []string
	for len(v) > 0 {
		tag, rest, err := cutTag(v)
		if err != nil {
			return ""
		}
		names = append(names, titleOf(anywhere, tag))
		v = rest
	}
	return strings.Join(names, "; ")
}

// dol names the tags and lengths of a data object list (EMV 4.3 Book 3 §5.4).
func dol(v []byte) string {
	var names []string
	for len(v) > 0 {
		tag, rest, err := cutTag(v)
		if err != nil {
			return ""
		}
		n, rest, err := cutLength(rest)
		if err != nil {
			return ""
		}
		names = append(names, fmt.Sprintf("%s (%d)", titleOf(inEMV, tag), n))
		v = rest
	}
	return strings.Join(names, "; ")
}
