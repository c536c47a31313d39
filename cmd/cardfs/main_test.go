package main

import (
	"regexp"
	"strings"
	"testing"
)

// Every command has an example, every flag a description and a name for its value: they
// are the manual.
func TestHelp(t *testing.T) {
	root := newRoot()
	for _, cmd := range root.Commands() {
		if cmd.Runnable() && cmd.Example == "" {
			t.Errorf("%s has no example", cmd.Name())
		}
		if cmd.Long == "" && cmd.Name() != "version" {
			t.Errorf("%s says nothing of itself", cmd.Name())
		}
		for line := range strings.Lines(cmd.Flags().FlagUsages()) {
			if flag := regexp.MustCompile(`--[a-z-]+( (string|duration)s?\b.*|\s*\n)`).FindString(line); flag != "" {
				t.Errorf("%s: %s", cmd.Name(), line)
			}
		}
		for _, text := range []string{cmd.Long, cmd.Example} {
			for line := range strings.Lines(text) {
				if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 100 {
					t.Errorf("%s: a line of %d columns: %s", cmd.Name(), n, line)
				}
			}
		}
	}
}
