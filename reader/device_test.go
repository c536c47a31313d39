package reader

import (
	"errors"
	"testing"
)

// An error says which parameters there are, and cannot break a line.
func TestOnlyParams(t *testing.T) {
	for _, x := range []struct {
		params map[string]string
		keys   []string
		want   string
	}{
		{nil, nil, ""},
		{map[string]string{"a": "1", "b": ""}, []string{"b", "a", "c"}, ""},
		{map[string]string{"a": "1", "x": "2"}, []string{"a", "b"}, "d: no parameter x; there is a, b: malformed command"},
		{map[string]string{"y": "1", "x": "2"}, nil, "d: no parameter x; there is none: malformed command"},
		{map[string]string{"x\ny": "1"}, nil, "d: no parameter x y; there is none: malformed command"},
	} {
		err := Device{Driver: "d", Params: x.params}.OnlyParams(x.keys...)
		switch {
		case x.want == "" && err != nil, x.want != "" && (!errors.Is(err, ErrInvalid) || err.Error() != x.want):
			t.Errorf("%v of %v: %v, want %q", x.params, x.keys, err, x.want)
		}
	}
}
