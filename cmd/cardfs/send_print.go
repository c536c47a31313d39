package main

import (
	"fmt"
	"io"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/explain"
)

// printer prints exchanges: as lines of hex, in words (--explain), or as JSON.
type printer struct {
	out         io.Writer
	words, json bool
	status      bool // an answer's SW1 SW2 in words too, unless it is 9000
	explainer   explain.Explainer
	command     explain.Words
	begun       time.Time
}

// exchangeJSON is an exchange in `cardfs send --json`. Every key is always there.
type exchangeJSON struct {
	Command      string         `json:"command"`       // spaced hex
	Name         string         `json:"name"`          // of the command
	CommandWords string         `json:"command_words"` // name and parameters
	Data         string         `json:"data"`          // of the answer, spaced hex
	SW           string         `json:"sw"`            // SW1 SW2
	Words        string         `json:"words"`         // what they say
	TLV          []explain.Node `json:"tlv"`           // the answer's data, if it is BER-TLV
	Masked       bool           `json:"masked"`        // command and data are not shown
	TimeUS       int64          `json:"time_us"`       // from sending to the answer
}

// sending is called before a command is sent. A secret one is masked whatever it is.
func (p *printer) sending(capdu []byte, secret bool) error {
	p.command = p.explainer.Command(capdu, secret)
	var err error
	if p.words {
		err = p.print("> ", p.command)
	}
	p.begun = time.Now()
	return err
}

// answered is called with the answer to that command.
func (p *printer) answered(rapdu []byte) error {
	took := time.Since(p.begun)
	w := p.explainer.Answer(rapdu)
	switch {
	case p.words:
		return p.print("< ", w)
	case !p.json:
		text := fmt.Sprintf("% X", rapdu)
		if p.status && w.SW != "9000" {
			text += "  " + w.Status
		}
		_, err := fmt.Fprintln(p.out, text)
		return err
	}
	x := exchangeJSON{
		Command: p.command.Hex, Name: p.command.Name, CommandWords: p.command.Lines[0],
		Data: w.Data, SW: w.SW, Words: w.Status, TLV: w.Tree,
		Masked: p.command.Masked || w.Masked, TimeUS: took.Microseconds(),
	}
	if x.TLV == nil {
		x.TLV = []explain.Node{}
	}
	return printJSONLine(p.out, x)
}

func (p *printer) print(mark string, w explain.Words) error {
	text := mark + w.Hex + "\n"
	for _, line := range w.Lines {
		text += "    " + line + "\n"
	}
	_, err := io.WriteString(p.out, text)
	return err
}
