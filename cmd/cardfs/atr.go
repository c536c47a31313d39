package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/reader/iso7816"
)

func newATR() *cobra.Command {
	return &cobra.Command{
		Use:   "atr [HEX…]",
		Short: "Say in words what an ATR means",
		Long: `atr decodes an answer to reset by ISO/IEC 7816-3: the protocols and parameters that
the card offers, and its historical bytes. All HEX together are one ATR, blanks
and case do not matter. Without HEX, or with -, each line of standard input is one.

It exits 1, with the reason, where the standard refuses an ATR, and 2 where it is
not hex.`,
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
	b, err := parseHex(text)
	if err != nil {
		return usageError("%s: %w", strings.TrimSpace(text), err)
	}
	atr, err := iso7816.ParseATR(b)
	if err != nil {
		return fmt.Errorf("% X: %w", b, err)
	}
	return atr.Describe(w)
}

// describeLines goes on after a line that is refused.
func describeLines(r io.Reader, out, stderr io.Writer) error {
	in := bufio.NewScanner(r)
	code, any := exitOK, false
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
			status := exitStatus{code: exitError}
			errors.As(err, &status)
			code = max(code, status.code)
		}
	}
	switch {
	case in.Err() != nil:
		return fmt.Errorf("standard input: %w", in.Err())
	case !any:
		return usageError("no ATR: neither as arguments nor on standard input")
	case code != exitOK:
		return exitStatus{code: code}
	}
	return nil
}
