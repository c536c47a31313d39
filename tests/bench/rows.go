package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
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
	a, b  string  // ratio of a to b; without b, a's own value
	bound float64 // 0: none
	least bool    // the bound is a minimum, not a maximum
	none  bool    // there must be none of it
}

var rows = []row{
	{what: "an exchange by ioctl, against SCardTransmit with an instant IFD handler", a: ioctlSim, b: scNull, bound: 0.75},
	{what: "an exchange by write+read, against a go-fuse echo file", a: textSim, b: textEcho, bound: 1.3},
	{what: "an APDU to a virtual card, against pcscd with libifdvpcd", a: ioctlVpcd, b: scVpcd, bound: 0.05},
	{what: "many readers: resident memory a reader (KiB)", a: memory, bound: 100},
	{what: "many readers: cat 0/atr and an exchange, against one reader", a: openMany, b: openOne, bound: 1.5},
	{what: "many clients, each on its reader, against one: exchanges a second", a: rateMany, b: rateOne, bound: 1.5, least: true},
	{what: "many followers of events in one epoll client: CPU of it and the daemon at rest", a: followers, bound: 0.001},
	// Serial readers, emulated, at pseudo-terminals.
	{what: "an APDU to a GemPC410, against pcscd with libgempc410", a: ioctlGemPC, b: scGemPC, bound: 0.9},
	{what: "an APDU to a GemPC Twin, against pcscd with libccidtwin", a: ioctlTwin, b: scTwin, bound: 0.9},
	{what: "256 bytes from a GemPC410: characters on the line, against libgempc410", a: bytesGemPC, b: bytesGemPCSC, bound: 1},
	{what: "256 bytes from a GemPC Twin: characters on the line, against libccidtwin", a: bytesTwin, b: bytesTwinSC, bound: 1},
	{what: "an SLE4442 in a KAAN read whole, against the time of its characters on the line", a: memory4442, bound: 1.1},
	{what: "a 32 KiB I2C card in a KAAN read whole, against the time of its characters", a: memoryI2C, bound: 1.1},
	// Each of 16 on serial lines. What is polled costs its poll: no bound.
	{what: "a serial reader that tells of its card, at rest: CPU of the daemon", a: idleTelling, bound: 0.001},
	{what: "a serial reader that is polled, at rest: CPU of the daemon", a: idlePolled},
	// Through pcscd and libifdcardfs.
	{what: "SCardTransmit through libifdcardfs, against an instant IFD handler", a: scCardfs, b: scNull, bound: 1.8},
	{what: "SCardTransmit to a virtual card, against libifdvpcd", a: scCardfsV, b: scVpcd, bound: 0.05},
	{what: "card in to SCardGetStatusChange, against libifdvpcd", a: seenCardfs, b: seenVpcd, bound: 0.2},
	{what: "idle CPU of pcscd with 16 readers, against one instant handler", a: idleCardfs, b: idleNull, bound: 1.2},
	// Through cardfs's libpcsclite, without pcscd.
	{what: "PC/SC without pcscd: SCardTransmit, against an instant IFD handler", a: scOwn, b: scNull, bound: 0.65},
	{what: "PC/SC without pcscd: establish, connect, disconnect, release, against the same", a: connectOwn, b: connectNull, bound: 0.6},
	{what: "PC/SC without pcscd: card in to SCardGetStatusChange, against pcscd with libifdcardfs", a: seenOwn, b: seenCardfs, bound: 0.7},
	{what: "PC/SC without pcscd: begin, transmit, end, against an instant IFD handler", a: transactOwn, b: transactNull, bound: 0.8},
	{what: "PC/SC without pcscd: 16 processes on 16 readers, exchanges a second, against pcscd", a: processesOwn, b: processesPcscd, bound: 1.5, least: true},
	{what: "PC/SC without pcscd: 16 threads of a program on 16 readers, against pcscd", a: threadsOwn, b: threadsPcscd, bound: 2, least: true},
	{what: "PC/SC without pcscd: certificates read by pkcs15-tool, against pcscd with libifdvpcd", a: certificates, b: certificatesSC, bound: 0.1},
	{what: "PC/SC without pcscd: a client's threads, children, sockets, shared memory", a: beside, none: true},
	// Of other machines.
	{what: "an exchange with a remote reader over sshfs, against ssh HOST cardfs send by a kept connection", a: remoteText, b: remoteSend, bound: 0.2},
	{what: "an exchange with a remote reader, against write+read on the far apdu by the same sshfs", a: remoteText, b: remoteSSHFS, bound: 1.5},
	{what: "an exchange with a remote reader by ioctl, as the libraries make it, against the same", a: remoteIoctl, b: remoteSSHFS, bound: 1.5},
	{what: "an exchange with a remote reader: requests that cross the line, one after the other", a: remoteRequests, bound: 2},
	{what: "card in at the other side to the remote reader's event here (ms)", a: remoteEvents},
	{what: "many remote readers of ten machines: resident memory a reader (KiB)", a: remoteMemory, bound: 100},
	{what: "many remote readers: an exchange, against one remote reader", a: remoteMany, b: remoteOne, bound: 1.5},
}

// keep drops what is not in a row that has these words.
func (e *env) keep(words string) {
	rows = slices.DeleteFunc(rows, func(r row) bool { return !strings.Contains(r.what, words) })
	unused := func(s subject) bool {
		return !slices.ContainsFunc(rows, func(r row) bool { return r.a == s.name || r.b == s.name })
	}
	e.subjects, e.once = slices.DeleteFunc(e.subjects, unused), slices.DeleteFunc(e.once, unused)
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
			fmt.Fprintf(t, "%s\t-\t%s\tleft out: %s\t\n", r.what, r.limit(), strings.Join(e.missing, ", "))
			continue
		}
		value, medians := res.median(r.a), ""
		if r.b != "" {
			medians = unit[r.a](value) + " : " + unit[r.b](res.median(r.b))
			value /= res.median(r.b)
		}
		if note := e.notes[r.a]; note != "" {
			medians = strings.TrimSpace(medians + " " + note)
		}
		ok := "ok"
		if r.none && value > 0 || r.bound > 0 && (r.least && !(value >= r.bound) || !r.least && !(value <= r.bound)) {
			ok, met = "MISSED", false
		}
		fmt.Fprintf(t, "%s\t%.3g\t%s\t%s\t%s\n", r.what, value, r.limit(), ok, medians)
	}
	_ = t.Flush()
	return met
}

func (r row) limit() string {
	switch {
	case r.none:
		return "none"
	case r.bound == 0:
		return "-"
	}
	if r.least {
		return fmt.Sprintf("≥ %g", r.bound)
	}
	return fmt.Sprintf("≤ %g", r.bound)
}
