package client

import (
	"fmt"
	"strconv"
)

// Info is a slot in `cardfs list --json`. Every key is always there; what is
// not known or makes no sense at the moment is empty.
type Info struct {
	Number      int               `json:"number"`      // of the slot's directory
	Path        string            `json:"path"`        // the slot's directory
	State       string            `json:"state"`       // starting, failed, empty, present, powered
	Error       string            `json:"error"`       // the last error in words
	Reader      string            `json:"reader"`      // model
	Driver      string            `json:"driver"`      //
	Device      string            `json:"device"`      // as attach was given it, or where it is plugged in
	ByID        string            `json:"by_id"`       // name in by-id/
	Host        string            `json:"host"`        // the machine that has the reader; "": this one
	Siblings    []int             `json:"siblings"`    // the numbers of the reader's slots, this one included
	Protocol    string            `json:"protocol"`    // T=0 or T=1 if powered
	ATR         string            `json:"atr"`         // spaced hex if powered
	Card        []string          `json:"card"`        // what smartcard_list.txt calls the card; for the caller to fill in
	Transaction bool              `json:"transaction"` // somebody holds it
	Status      map[string]string `json:"status"`      // all lines of the status file
}

// Info is what list says of the slot whose status this is.
func (s Slot) Info(status []byte) Info {
	return parseStatus(status).info(s.numberOrNone(), s.Dir)
}

// numberOrNone is -1 for a slot that was bound alone.
func (s Slot) numberOrNone() int {
	if n, err := s.Number(); err == nil {
		return n
	}
	return -1
}

// Counters are the lines of a stats file, in `cardfs stats --json`.
type Counters struct {
	Number int               `json:"number"` // of the slot's directory
	Path   string            `json:"path"`   // the slot's directory
	Stats  map[string]uint64 `json:"stats"`  // all lines of the stats file
}

// Counters are those of the slot whose stats this is.
func (s Slot) Counters(stats []byte) (Counters, error) {
	c := Counters{Number: s.numberOrNone(), Path: s.Dir, Stats: make(map[string]uint64)}
	for _, line := range parseStatus(stats) {
		n, err := strconv.ParseUint(line[1], 10, 64)
		if err != nil {
			return c, fmt.Errorf("%s %q is no counter", line[0], line[1])
		}
		c.Stats[line[0]] = n
	}
	return c, nil
}

// info is what list says of the slot n whose directory is dir.
func (s Status) info(n int, dir string) Info {
	slot := Info{
		Number: n, Path: dir,
		State: s.Value("state"), Error: s.Value("error"), Reader: s.Value("reader"),
		Driver: s.Value("driver"), Device: s.Value("device"), ByID: s.Value("by-id"), Host: s.Value("host"),
		Siblings: s.Siblings(), Protocol: s.Value("protocol"), ATR: s.Value("atr"),
		Card:        []string{},
		Transaction: s.Value("transaction") == "held",
		Status:      make(map[string]string, len(s)),
	}
	for _, pair := range s {
		slot.Status[pair[0]] = pair[1]
	}
	return slot
}
