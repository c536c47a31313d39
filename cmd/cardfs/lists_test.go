package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/emulators"
)

// lines returns the first words of the lines of what a command prints.
func lines(t *testing.T, args ...string) (words []string) {
	t.Helper()
	code, out, errs := cardfs(t, "", args...)
	if code != 0 {
		t.Fatalf("%q: %d, %s", args, code, errs)
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 {
			words = append(words, f[0])
		}
	}
	return words
}

// "With its line there, ... help and completion show it": what is in the list of emulators is
// wherever a person looks for it.
func TestEmulatorsAreShown(t *testing.T) {
	for _, args := range [][]string{{"help", "sim"}, {"__complete", "attach", "sim", ""}, {"__complete", "mount", "--sim", ""}} {
		shown := lines(t, args...)
		for _, e := range emulators.All() {
			if !slices.Contains(shown, e.Name) {
				t.Errorf("%q does not show %s", args, e.Name)
			}
		}
	}
}

// "All else comes with the lists: ... the udev rules, the ids in pcscd's bundle": each driver's
// IDs are there, and the README says of each driver what it is for.
func TestDriversAreShown(t *testing.T) {
	ids := lines(t, "ids")
	rules := hotplug.UdevRules(drivers.All(drivers.Env{}))
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "\n| driver | for |")
	table, _, _ = strings.Cut(table, "\n\n")
	var named []string // by the README
	for row := range strings.Lines(table) {
		if cell := strings.Split(row, "|"); len(cell) > 1 {
			named = append(named, strings.Split(strings.TrimSpace(cell[1]), ", ")...)
		}
	}
	for _, d := range drivers.All(drivers.Env{}) {
		if !slices.Contains(named, "`"+d.Name()+"`") {
			t.Errorf("the README's table of drivers has no line for %s", d.Name())
		}
		for _, id := range d.IDs() {
			if id.Class != 0 {
				continue // see cardfs help ids
			}
			if !slices.Contains(ids, fmt.Sprintf("%04x:%04x", id.Vendor, id.Product)) {
				t.Errorf("ids does not have %04x:%04x %s", id.Vendor, id.Product, id.Model)
			}
			if want := fmt.Sprintf(`ATTR{idVendor}=="%04x", ATTR{idProduct}=="%04x"`, id.Vendor, id.Product); !strings.Contains(rules, want) {
				t.Errorf("no udev rule for %04x:%04x %s", id.Vendor, id.Product, id.Model)
			}
		}
	}
}
