package script

import (
	"strings"
	"testing"
)

// The first word is a command's name or a verb, in any case; applications complete select.
func TestComplete(t *testing.T) {
	own := []string{".explain", ".exit"}
	for line, want := range map[string]string{
		"read":            "read-binary|read-record",
		"READ-B":          "read-binary",
		"se":              "select|set",
		".e":              ".exit|.explain",
		"x":               "",
		" sele":           " select",
		"select p":        "select piv|select pkcs15|select ppse|select pse",
		"select open":     "select openpgp",
		"SELECT mf":       "SELECT mf",
		"select piv ":     "",
		"select a b":      "",
		"manage-channel ": "manage-channel close|manage-channel open",
		".explain ":       ".explain off|.explain on",
		"get-data ":       "",
	} {
		if got := strings.Join(Complete(line, own), "|"); got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
	if got := Complete("", own); len(got) != len(Names())+len(verbs)+len(own) {
		t.Errorf("%q", got)
	}
	if len(Usage()) != len(Names()) {
		t.Error("a name without a usage")
	}
}

// One letter more, less or other, or two that changed places.
func TestNear(t *testing.T) {
	for _, x := range []struct {
		a, b string
		near bool
	}{
		{"selct", "select", true}, {"sselect", "select", true}, {"selekt", "select", true}, {"slect", "select", true}, {"esl", "set", false}, {"est", "set", true},
		{"selec", "select", true}, {"selects", "select", true}, {"sle", "select", false}, {"select", "unlock", false}, {"lokc", "lock", true}, {"lok", "lock", true},
		{"", "set", false}, {"s", "set", false}, {"sett", "set", true}, {"etsx", "set", false},
	} {
		if got := near(x.a, x.b); got != x.near {
			t.Errorf("%q, %q: %v", x.a, x.b, got)
		}
	}
}
