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
	return &cobra.Command{
		Use:   "atr [HEX…]",
		Short: "Say in words what an ATR means",
		Long: `atr decodes an answer to reset by ISO/IEC 7816-3: the protocols and parameters that
the card offers, and its historical bytes. All HEX together are one ATR. Blanks and
case do not matter; 3b:b7, 3B,B7 and 0x3B 0xB7 are understood, too. Without HEX, or
with -, each line of standard input is one.

An ATR that breaks the standard is decoded as far as it goes, and each defect is
named: its card can be used. Only what no card sends exits 1: a first byte (TS) other
than 3B and 3F, or more than 33 bytes. What is not hex exits 2.`,
		Example: `  cardfs atr 3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1
  cardfs atr <cards/0/atr`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) == 1 && args[0] == "-" {
				return describeLines(cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return describeATR(strings.Join(args, " "), cmd.OutOrStdout())
		},
	}
}

func describeATR(text string, w io.Writer) error {
	b, err := parseATRText(text)
	if err != nil {
		return exit.Usage("%s: %w", strings.TrimSpace(text), err)
	}
	atr, err := iso7816.ParseATR(b)
	if err != nil {
		return fmt.Errorf("% X: %w", b, err)
	}
	return atr.Describe(w)
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

// describeLines goes on after a line that is refused.
func describeLines(r io.Reader, out, stderr io.Writer) error {
	in := bufio.NewScanner(r)
	code, any := exit.OK, false
	for in.Scan() {
		line, _, _ := strings.Cut(in.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		if any {
			fmt.Fprintln(out)
		}
		any = true
		if err := describeATR(line, out); err != nil {
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
