package main

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/tracelog"
)

func newRecord() *cobra.Command {
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "record [flags] N FILE [-- COMMAND [ARG…]]",
		Short: "Record what crosses a slot as a session that can be replayed",
		Long: `record follows the trace of slot N and writes a session: a text with the ATR, the
resets, and the commands with their answers, for bug reports and to be replayed:

  cardfs attach replay FILE

makes a reader that answers the same commands with the same answers. FILE - is
standard output.

It ends by ctrl-C, when the reader has left, after --duration or, if a COMMAND is
given, with that, whose exit code it then has. Each line is written at once.

The first line is "cardfs-session 1"; lines that begin with # are comments. Others
begin with the seconds since the beginning and a word:

  reader MODEL       what the reader calls itself
  reset cold|warm    the card was reset
  atr HEX            and answered so; at the beginning, the ATR of before
  > HEX              a command
  < HEX              and its answer
  ! WORD WORDS       or why there is none: timeout, protocol, unsupported, invalid or
                     failed, and the error in words
  lost N             N lines of the trace were lost here: they came too fast

Only whose mount it is may read the trace. In it PINs and keys are masked: XX, at the
end of a command or before SW1 SW2 of an answer, stands for them, however many bytes
there were. A replay takes any bytes for them in a command, and leaves them out of an
answer. go doc of drivers/replay says all about sessions.

` + slotHelp,
		Example: `  cardfs record 0 session.txt -- cardfs send 0 00A4000C023F00 00B0000000
  n=$(cardfs attach replay session.txt) && cardfs send $n 00A4000C023F00`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return completeSlot(cmd, args, typed)
		},
		Args: func(cmd *cobra.Command, all []string) error {
			before, _ := beforeDash(cmd, all)
			return args(2, 2, "record needs a slot and a file")(cmd, before)
		},
	}
	dir := mountFlag(cmd)
	cmd.Flags().DurationVar(&span, "duration", client.Forever, "end after `DURATION`")
	cmd.Flags().Lookup("duration").DefValue = "for ever"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		args, command := beforeDash(cmd, args)
		s, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		var loop tracelog.Loop
		defer loop.Close()
		var to *tracelog.Recorder
		if err := loop.Trace(s, func(text string) error {
			return to.Take(tracelog.Parse(text, time.Now()))
		}, func() error { return nil }); err != nil {
			return err
		}
		out, err := createOutput(cmd, args[1])
		if err != nil {
			return err
		}
		defer out.Close()
		// After the trace was opened, so that no reset is between.
		lines, err := s.Status()
		if err != nil {
			return s.Explain(err)
		}
		atr, _ := hex.DecodeString(strings.ReplaceAll(lines.Value("atr"), " ", ""))
		_, device := describe(s)
		by := "cardfs " + versionName() + ", " + device
		if to, err = tracelog.NewRecorder(out, time.Now(), by, lines.Value("reader"), atr); err != nil {
			return err
		}
		return runWhile(cmd, span, command, loop.Run)
	}
	return cmd
}
