package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// The subjects that rows compare.
const (
	ioctlSim   = "ioctl, sim"
	textSim    = "write+read, sim"
	textEcho   = "write+read, go-fuse echo"
	ioctlVpcd  = "ioctl, vpcd"
	scNull     = "SCardTransmit, null"
	scVpcd     = "SCardTransmit, libifdvpcd"
	openOne    = "atr+exchange, one reader"
	openMany   = "atr+exchange, many readers"
	rateOne    = "one client"
	rateMany   = "many clients"
	memory     = "memory a reader"
	scCardfs   = "SCardTransmit, cardfs sim"
	scCardfsV  = "SCardTransmit, cardfs vpcd"
	seenVpcd   = "insertion seen, libifdvpcd"
	seenCardfs = "insertion seen, cardfs"
	idleNull   = "idle CPU, null"
	idleCardfs = "idle CPU, cardfs"
	followers  = "idle CPU, followers"
)

// row is one limit.
type row struct {
	what  string
	a, b  string // ratio of a to b; without b, a's own value
	bound float64
	least bool // the bound is a minimum, not a maximum
}

var rows = []row{
	{what: "an exchange by ioctl, against SCardTransmit with an instant IFD handler", a: ioctlSim, b: scNull, bound: 0.75},
	{what: "an exchange by write+read, against a go-fuse echo file", a: textSim, b: textEcho, bound: 1.3},
	{what: "an APDU to a virtual card, against pcscd with libifdvpcd", a: ioctlVpcd, b: scVpcd, bound: 0.05},
	{what: "many readers: resident memory a reader (KiB)", a: memory, bound: 100},
	{what: "many readers: cat 0/atr and an exchange, against one reader", a: openMany, b: openOne, bound: 1.5},
	{what: "many clients, each on its reader, against one: exchanges a second", a: rateMany, b: rateOne, bound: 1.5, least: true},
	{what: "many followers of events in one epoll client: CPU of it and the daemon at rest", a: followers, bound: 0.001},
	// Through pcscd and libifdcardfs.
	{what: "SCardTransmit through libifdcardfs, against an instant IFD handler", a: scCardfs, b: scNull, bound: 1.8},
	{what: "SCardTransmit to a virtual card, against libifdvpcd", a: scCardfsV, b: scVpcd, bound: 0.05},
	{what: "card in to SCardGetStatusChange, against libifdvpcd", a: seenCardfs, b: seenVpcd, bound: 0.2},
	{what: "idle CPU of pcscd with 16 readers, against one instant handler", a: idleCardfs, b: idleNull, bound: 1.2},
}

// inTurn puts subjects that a row compares next to each other.
func inTurn(subjects []subject) []subject {
	var turns []subject
	subjects = slices.Clone(subjects)
	for len(subjects) > 0 {
		at := len(turns)
		turns = append(turns, subjects[0])
		subjects = subjects[1:]
		for ; at < len(turns); at++ {
			subjects = slices.DeleteFunc(subjects, func(s subject) bool {
				if compared(s.name, turns[at].name) {
					turns = slices.Insert(turns, at+1, s)
					return true
				}
				return false
			})
		}
	}
	return turns
}

func compared(a, b string) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return r.a == a && r.b == b || r.a == b && r.b == a })
}

// report prints the table and reports whether all bounds are met.
func report(w io.Writer, e *env, res results) bool {
	unit := map[string]func(float64) string{}
	for _, s := range append(e.subjects, e.once...) {
		unit[s.name] = s.show
	}
	met := true
	fmt.Fprintln(w, machine(e.options))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "what\tmeasured\tbound\t\tmedians")
	for _, r := range rows {
		if len(res[r.a]) == 0 {
			fmt.Fprintf(t, "%s\t-\t%s\tleft out: %s\t\n", r.what, r.limit(), e.missing)
			continue
		}
		value, medians := res.median(r.a), ""
		if r.b != "" {
			medians = unit[r.a](value) + " : " + unit[r.b](res.median(r.b))
			value /= res.median(r.b)
		}
		ok := "ok"
		if r.least && !(value >= r.bound) || !r.least && !(value <= r.bound) {
			ok, met = "MISSED", false
		}
		fmt.Fprintf(t, "%s\t%.3g\t%s\t%s\t%s\n", r.what, value, r.limit(), ok, medians)
	}
	_ = t.Flush()
	return met
}

func (r row) limit() string {
	if r.least {
		return fmt.Sprintf("≥ %g", r.bound)
	}
	return fmt.Sprintf("≤ %g", r.bound)
}
