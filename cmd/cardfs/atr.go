package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
	"github.com/cardfs/cardfs/reader/iso7816"
)

func newATR() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "atr [HEX…]",
		Short: "Say in words what an ATR means",
		Long: `atr decodes an answer to reset by ISO/IEC 7816-3: the protocols and parameters that
the card offers, and its historical bytes. All HEX together are one ATR. Blanks and
case do not matter; 3b:b7, 3B,B7 and 0x3B 0xB7 are understood, too. Without HEX, or
with -, each line of standard input is one.

An ATR that breaks the standard is decoded as far as it goes, and each defect is
named: its card can be used. Only what no card sends exits 1: a first byte (TS) other
than 3B and 3F, or more than 33 bytes. What is not hex exits 2.

A line "card" comes for each name that smartcard_list.txt has for cards with this ATR,
if that list is installed (pcsc-tools).

--json prints an object for each ATR, one a line (cardfs help json).`,
		Example: `  cardfs atr 3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1
  cardfs atr <cards/0/atr`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		describe := describeATR
		if *asJSON {
			describe = atrAsJSON
		}
		if len(args) == 0 || len(args) == 1 && args[0] == "-" {
			return describeLines(cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr(), describe, !*asJSON)
		}
		atr, err := parseATR(strings.Join(args, " "))
		if err != nil {
			return err
		}
		return describe(atr, cmd.OutOrStdout())
	}
	return cmd
}

func parseATR(text string) (*iso7816.ATR, error) {
	b, err := parseATRText(text)
	if err != nil {
		return nil, exit.Usage("%s: %w", strings.TrimSpace(text), err)
	}
	atr, err := iso7816.ParseATR(b)
	if err != nil {
		return nil, fmt.Errorf("% X: %w", b, err)
	}
	return atr, nil
}

func describeATR(atr *iso7816.ATR, w io.Writer) error {
	if err := atr.Describe(w); err != nil {
		return err
	}
	for _, name := range cardNames(fmt.Sprintf("% X", atr.Bytes())) {
		if _, err := fmt.Fprintf(w, "%-16s %s\n", "card", name); err != nil {
			return err
		}
	}
	return nil
}

// atrJSON is an ATR in `cardfs atr --json`. Every key is always there.
type atrJSON struct {
	ATR        string   `json:"atr"`        // spaced hex
	Protocols  []string `json:"protocols"`  // T=0, T=1 …, in the order of the ATR
	Historical string   `json:"historical"` // historical bytes, spaced hex
	Defects    []string `json:"defects"`    // what the standard has against it
	Card       []string `json:"card"`       // what smartcard_list.txt calls the card
	Lines      []string `json:"lines"`      // what cardfs atr prints of it in words
}

func atrAsJSON(atr *iso7816.ATR, w io.Writer) error {
	var words strings.Builder
	if err := atr.Describe(&words); err != nil {
		return err
	}
	x := atrJSON{
		ATR: fmt.Sprintf("% X", atr.Bytes()), Historical: fmt.Sprintf("% X", atr.Historical()),
		Protocols: []string{}, Defects: []string{}, Lines: []string{},
	}
	x.Card = cardNames(x.ATR)
	for _, t := range atr.Protocols() {
		x.Protocols = append(x.Protocols, fmt.Sprintf("T=%d", t))
	}
	for _, d := range atr.Defects() {
		x.Defects = append(x.Defects, d.String())
	}
	for line := range strings.Lines(words.String()) {
		if line = strings.TrimSpace(line); line != "" {
			x.Lines = append(x.Lines, line)
		}
	}
	return printJSONLine(w, x)
}

// parseATRText reads hex as hextext.Parse does, and in the forms in which ATRs are
// quoted elsewhere: bytes with colons or commas between, and with 0x before.
func parseATRText(text string) ([]byte, error) {
	text, _, _ = strings.Cut(text, "#")
	fields := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == ',' || unicode.IsSpace(r) })
	for i, f := range fields {
		fields[i] = strings.TrimPrefix(strings.TrimPrefix(f, "0x"), "0X")
	}
	return hextext.Parse(strings.Join(fields, " "))
}

// describeLines goes on after a line that is refused. If apart, empty lines are between.
func describeLines(r io.Reader, out, stderr io.Writer, describe func(*iso7816.ATR, io.Writer) error, apart bool) error {
	in := bufio.NewScanner(r)
	code, any := exit.OK, false
	for in.Scan() {
		line, _, _ := strings.Cut(in.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		if any && apart {
			fmt.Fprintln(out)
		}
		any = true
		atr, err := parseATR(line)
		if err == nil {
			err = describe(atr, out)
		}
		if err != nil {
			fmt.Fprintf(stderr, "cardfs: %v\n", err)
			status := exit.Status{Code: exit.Error}
			errors.As(err, &status)
			code = max(code, status.Code)
		}
	}
	switch {
	case in.Err() != nil:
		return fmt.Errorf("standard input: %w", in.Err())
	case !any:
		return exit.Usage("no ATR: neither as arguments nor on standard input")
	case code != exit.OK:
		return exit.Status{Code: code}
	}
	return nil
}
