// Package explain puts what goes between a host and a card into words: the command by its
// class, instruction and parameters, its data and the answer's as a tree of BER-TLV data
// objects or as bytes and characters, and SW1 SW2 by what they mean after that command.
//
// What the slot's trace masks is masked here too, by the same rules (iso7816.Secrecy): a
// terminal may be logged.
//
// The names are those of ISO/IEC 7816-4:2020 and its neighbours, EMV, GlobalPlatform, GSM
// and PC/SC. A name is no promise: classes from 80 on, and most tags, mean what the card's
// application says.
package explain

import (
	"fmt"
	"strings"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// Explainer explains the exchanges of one card, in their order.
type Explainer struct {
	secrecy iso7816.Secrecy
	command iso7816.Command // the last one
}

// Reset begins anew after a reset of the card.
func (e *Explainer) Reset() { *e = Explainer{} }

// Words are a command or an answer in words.
type Words struct {
	Hex    string   // spaced hex; of a secret one what the trace shows
	Masked bool     // Hex is not all
	Name   string   // of the command; "" if it has none
	Data   string   // of an answer: spaced hex without SW1 SW2, or masked
	SW     string   // SW1 SW2 of an answer; masked if they cannot be SW1 SW2
	Status string   // what they say
	Tree   []Node   // the data, if it is BER-TLV and not masked
	Lines  []string // the details, each level two blanks deeper
}

// Command explains the command that is sent next. It is masked if it is secret by itself,
// or if the caller knows that it is.
func (e *Explainer) Command(capdu []byte, secret bool) Words {
	if e.secrecy.Next(capdu); secret {
		e.secrecy = true
	}
	c, err := iso7816.ParseCommand(capdu)
	e.command = c
	if err != nil {
		return Words{Hex: iso7816.Masked, Masked: true, Lines: []string{"no command"}}
	}
	name := iso7816.CommandName(c.CLA, c.INS)
	w := Words{Hex: fmt.Sprintf("% X", capdu), Name: name}
	masked := bool(e.secrecy)
	if masked {
		w.Hex = iso7816.MaskedCommand(capdu)
		w.Masked = len(capdu) > 4
	}
	title := name
	if title == "" {
		title = fmt.Sprintf("INS %02X", c.INS)
	}
	if p := parameters(name, c); p != "" {
		title += ": " + p
	}
	w.add(0, "%s", title)
	w.add(0, "CLA %02X: %s", c.CLA, class(c.CLA))
	switch {
	case w.Masked:
		w.add(0, "data %s", iso7816.Masked)
		return w
	case len(c.Data) > 0:
		w.commandData(name, c)
	}
	if c.Ne > 0 {
		words := fmt.Sprintf("Le: up to %s", count(c.Ne))
		if c.Extended {
			words += ", extended"
		}
		w.add(0, "%s", words)
	}
	return w
}

// commandData explains the data field.
func (w *Words) commandData(name string, c iso7816.Command) {
	title := fmt.Sprintf("data, %s", count(len(c.Data)))
	if c.Extended {
		title += ", extended"
	}
	switch {
	case name == "SELECT":
		if words := aidWords(c.Data); words != "" && c.P1 == 4 {
			title += ": " + words
		}
	case !secured(c.CLA) && c.CLA&0x10 != 0, name == "LOAD": // a piece of something
	default:
		objects, _ := ParseTLV(c.Data)
		w.Tree = nodes(commandContext(name, c), objects)
	}
	w.add(0, "%s", title)
	if w.Tree != nil {
		w.tree(1, w.Tree)
	} else {
		w.dump(1, c.Data)
	}
}

func commandContext(name string, c iso7816.Command) context {
	switch {
	case secured(c.CLA):
		return inSM
	case name == "MANAGE SECURITY ENVIRONMENT", name == "GENERATE ASYMMETRIC KEY PAIR":
		return inCRT
	case name == "GET PROCESSING OPTIONS":
		return inEMV
	case name == "GET STATUS", name == "STORE DATA":
		return inGP
	}
	return anywhere
}

// Answer explains the answer to the last command.
func (e *Explainer) Answer(rapdu []byte) Words {
	n := len(rapdu) - 2
	if n < 0 {
		return Words{Hex: iso7816.Masked, Masked: true, Lines: []string{"no answer: SW1 SW2 are missing"}}
	}
	data, sw := rapdu[:n], uint16(rapdu[n])<<8|uint16(rapdu[n+1])
	w := Words{
		Hex:    fmt.Sprintf("% X", rapdu),
		Data:   fmt.Sprintf("% X", data),
		SW:     fmt.Sprintf("%04X", sw),
		Status: Status(e.command, sw),
	}
	switch {
	case bool(e.secrecy) && (n > 0 || !isStatus(sw)):
		w.Hex, w.Masked, w.Data = iso7816.MaskedAnswer(rapdu), true, iso7816.Masked
		if !isStatus(sw) {
			w.SW = iso7816.Masked
		}
		w.add(0, "data %s", iso7816.Masked)
	case n > 0:
		w.answerData(e.command, data)
	}
	w.add(0, "%s: %s", w.SW, w.Status)
	return w
}

// isStatus reports whether it is SW1 SW2 at all (ISO/IEC 7816-4:2020 §5.3.4).
func isStatus(sw uint16) bool { return sw>>12 == 6 || sw>>12 == 9 }

func (w *Words) answerData(c iso7816.Command, data []byte) {
	name := iso7816.CommandName(c.CLA, c.INS)
	var objects []Object
	var pad []byte
	switch name {
	case "GET CHALLENGE": // random bytes
	case "READ BINARY", "READ RECORD":
		objects, pad, _ = parsePadded(data)
	default:
		objects, _ = ParseTLV(data)
	}
	in := commandContext(name, c)
	if name == "GENERATE AC" {
		in = inEMV
	}
	if w.Tree = nodes(in, objects); w.Tree == nil {
		w.dump(0, data)
		return
	}
	w.tree(0, w.Tree)
	if len(pad) > 0 {
		w.add(0, "padding: %s of %02X", count(len(pad)), pad[0])
	}
}

func (w *Words) add(depth int, format string, args ...any) {
	w.Lines = append(w.Lines, strings.Repeat("  ", depth)+fmt.Sprintf(format, args...))
}
