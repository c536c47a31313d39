package main

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"
)

// A slot that leaves between two looks is left out of the list. Any other error is reported.
func TestList(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl": "", "event": "", "by-id/x": "",
		"2/status":  "state failed\nreader A\nerror no  power\n",
		"10/status": "state powered\nreader B\ndriver sim\natr 3B 00\nprotocol T=0\nby-id b\nhost far\nsiblings 10 11\ntransaction held\n",
		"5/atr":     "", // its status has gone
		"11/atr":    "",
	})
	slots, err := c.List()
	if err != nil || len(slots) != 2 || slots[0].Number != 2 || slots[1].Number != 10 {
		t.Fatalf("%+v, %v", slots, err)
	}
	s := slots[1]
	if s.State != "powered" || s.Driver != "sim" || s.Protocol != "T=0" || s.ATR != "3B 00" || s.ByID != "b" || s.Host != "far" ||
		!slices.Equal(s.Siblings, []int{10, 11}) || !s.Transaction || s.Path != c.Path("10") || s.Status["reader"] != "B" {
		t.Errorf("%+v", s)
	}
	if slots[0].Transaction || slots[0].Error != "no  power" {
		t.Errorf("%+v", slots[0])
	}
	var out bytes.Buffer
	slots[1].Host = ""
	if err := printList(&out, slots); err != nil {
		t.Fatal(err)
	}
	const want = "" +
		"N   STATE    READER  DRIVER  PROTOCOL  ATR   BY-ID\n" +
		"2   failed   A       -       -         -     -\n" +
		"10  powered  B       sim     T=0       3B00  b\n" +
		"2: no  power\n"
	if out.String() != want {
		t.Errorf("\n%swant\n%s", &out, want)
	}

	// Readers of other machines bring a column.
	slots[1].Host = "lab"
	out.Reset()
	if err := printList(&out, slots); err != nil {
		t.Fatal(err)
	}
	const far = "" +
		"N   STATE    HOST  READER  DRIVER  PROTOCOL  ATR   BY-ID\n" +
		"2   failed   -     A       -       -         -     -\n" +
		"10  powered  lab   B       sim     T=0       3B00  b\n" +
		"2: no  power\n"
	if out.String() != far {
		t.Errorf("\n%swant\n%s", &out, far)
	}
	if err := printList(full{}, slots); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	if err := os.Mkdir(c.Path("11/status"), 0o700); err != nil { // EISDIR
		t.Fatal(err)
	}
	if _, err := c.List(); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("%v", err)
	}
}
