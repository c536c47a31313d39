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
