package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/doctor"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/explain"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
)

// `cardfs help json` lists the keys of every object, below its heading, and no others.
func TestHelpJSON(t *testing.T) {
	sections := make(map[string][]string)
	heading := ""
	for line := range strings.Lines(helpJSON().Long) {
		switch {
		case regexp.MustCompile(`^[A-Z].*:\n$`).MatchString(line):
			heading = strings.TrimSuffix(line, ":\n")
		case regexp.MustCompile(`^  [a-z]`).MatchString(line) && heading != "":
			keys, _, _ := strings.Cut(strings.TrimPrefix(line, "  "), "  ")
			sections[heading] = append(sections[heading], strings.Fields(keys)...)
		}
	}
	for heading, object := range map[string]any{
		"A slot, in list and status":       client.Info{},
		"The counters of a slot, in stats": client.Counters{},
		"An event, in watch":               eventJSON{Time: "now"},
		"An exchange, in send":             exchangeJSON{TLV: []explain.Node{}},
		"An ATR, in atr":                   atrJSON{},
		"A kind of USB reader, in ids":     hotplug.Known{},
		"A finding, in doctor":             doctor.Finding{},
		"The build, in version":            versionJSON{},
	} {
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var has map[string]any
		if err := json.Unmarshal(text, &has); err != nil {
			t.Fatal(err)
		}
		var keys []string
		for key := range has {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		listed := slices.Sorted(slices.Values(sections[heading]))
		if !slices.Equal(keys, listed) {
			t.Errorf("%s:\n%q, the help has\n%q", heading, keys, listed)
		}
		delete(sections, heading)
	}
	for heading := range sections {
		t.Errorf("nothing prints %q", heading)
	}
}

// "--json everywhere": each command that prints facts.
func TestJSONFlags(t *testing.T) {
	root := newRoot()
	for _, name := range []string{"atr", "version", "status", "stats", "watch", "list", "ids", "send", "doctor"} {
		cmd, _, err := root.Find([]string{name})
		if err != nil || cmd.Flags().Lookup("json") == nil {
			t.Errorf("cardfs %s --json: %v", name, err)
		}
	}
}

func TestCounters(t *testing.T) {
	m := tree(t, map[string]string{"ctl": "", "0/status": "state empty\n", "0/stats": "a 1\nb\n"})
	code, out, errs := cardfs(t, "", "stats", "--mount="+m.Dir, "--json", "0")
	if code != 1 || out != "" || !strings.Contains(errs, `0/stats: b "" is no counter`) {
		t.Errorf("%d %q %q", code, out, errs)
	}
}
