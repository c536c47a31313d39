package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/script"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// exchanger is a client.Channel, or what a test has in its place.
type exchanger interface {
	Exchange(capdu []byte) (rapdu []byte, err error)
}

// sender is `cardfs send` once its slot is open.
type sender struct {
	card exchanger
	printer
	ok bool // stop at the first answer that is an error
}

func newSend() *cobra.Command {
	var ok, hold, words, asJSON, interactive bool
	var file string
	var pinFD int
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "send [flags] N {HEX… | -} | -f FILE N | -i N",
		Short: "Send C-APDUs to the card in slot N and print its answers",
		Long:  sendHelp(),
		Example: `  cardfs send 0 00A4000C023F00
  cardfs send --ok 0 "00 A4 04 00 08 F0636172 64667301" 00B0810010
  cardfs send --wait 0 0 0084000008        # fails at once without a card
  echo 0084000008 | cardfs send --lock 0 -
  cardfs send --explain 0 00A4000000
  cardfs send --json 0 00A4000000 | jq -r '.tlv[].name'
  printf '%s\n' 'select cardfs = * 9000' 'get-challenge -> C' 'echo $C' | cardfs send -f - 0
  printf '1234\n' | cardfs send --pin-fd 3 -f <(echo verify 1 = 9000) 0 3<&0`,
		Args: func(cmd *cobra.Command, words []string) error {
			if cmd.Flags().Changed("file") || interactive {
				return args(1, 1, "send -f and send -i need a slot, and no command")(cmd, words)
			}
			return args(2, -1, "send needs a slot and at least one command")(cmd, words)
		},
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&ok, "ok", false, "stop and exit 4 at the first answer that is not 9000 or 61xx")
	f.BoolVar(&words, "explain", false, "print commands and answers in words")
	f.BoolVar(&asJSON, "json", false, "print a JSON object for each exchange, one a line")
	f.StringVarP(&file, "file", "f", "", "run the script `FILE`, - for standard input")
	f.BoolVarP(&interactive, "interactive", "i", false, "read lines of the script language at a prompt")
	f.IntVar(&pinFD, "pin-fd", -1, "read what scripts ask for from file descriptor `FD`, a line each")
	f.Lookup("pin-fd").DefValue = ""
	f.BoolVarP(&hold, "lock", "x", false, "hold the slot's transaction: commands of others wait until the end")
	f.DurationVar(&wait, "wait", client.Forever, "wait `DURATION` for a card, 0 for not at all")
	f.Lookup("wait").DefValue = "for ever"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if words && asJSON {
			return exit.Usage("--explain and --json cannot be had at once")
		}
		if interactive && (asJSON || file != "") {
			return exit.Usage("-i goes with neither -f nor --json")
		}
		var sc *script.Script
		err := checkCommands(args[1:])
		if err == nil && file != "" {
			sc, err = readScript(file, cmd.InOrStdin())
		}
		if err != nil {
			return err
		}
		slot, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		card := &client.Channel{Slot: slot, Stderr: cmd.ErrOrStderr(), Wait: wait, Locked: hold}
		if err := card.Reopen(); err != nil {
			return err
		}
		defer card.Close()
		print := printer{out: cmd.OutOrStdout(), words: words, json: asJSON}
		h := &host{printer: &print, Channel: card, stderr: cmd.ErrOrStderr(), ask: asker(pinFD)}
		session := &script.Session{Host: h, OK: ok}
		switch {
		case sc != nil:
			return sc.Run(session)
		case interactive:
			return h.interact(session, pinFD)
		}
		return (&sender{card: card, printer: print, ok: ok}).sendAll(args[1:], cmd.InOrStdin())
	}
	return cmd
}

// sendAll sends the commands, and in the place of "-" those of standard input.
func (s *sender) sendAll(args []string, stdin io.Reader) (err error) {
	for _, arg := range args {
		if arg == "-" {
			err = s.sendLines(stdin)
		} else {
			command, _ := hextext.Parse(arg) // was checked
			err = s.send(command)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkCommands says what is wrong with the commands before any is sent.
func checkCommands(args []string) error {
	for i, arg := range args {
		if arg == "-" {
			if slices.Contains(args[i+1:], "-") {
				return exit.Usage("standard input can be read only once")
			}
			continue
		}
		command, err := hextext.Parse(arg)
		if err == nil {
			_, err = iso7816.ParseCommand(command)
		}
		if err != nil && len(command) < 4 && len(args) > 1 {
			return exit.Usage("command %d, %s: %w (each argument is a whole command: quote one that has blanks); nothing was sent", i+1, header(arg), err)
		}
		if err != nil {
			return exit.Usage("command %d, %s: %w; nothing was sent", i+1, header(arg), err)
		}
	}
	return nil
}

// header is as much of a command as an error may show: data may be a PIN.
func header(arg string) string {
	const digits = 8 // CLA INS P1 P2
	for i, n := 0, 0; i < len(arg); i++ {
		if n == digits {
			return arg[:i] + "…"
		}
		if arg[i] != ' ' {
			n++
		}
	}
	return arg
}

// sendLines sends each line of r when the one before was answered.
func (s *sender) sendLines(r io.Reader) error {
	in := bufio.NewReader(r)
	for number := 1; ; number++ {
		line, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("standard input: %w", err)
		}
		command, bad := hextext.Parse(line)
		if bad == nil && len(command) > 0 {
			_, bad = iso7816.ParseCommand(command)
		}
		if bad != nil {
			return exit.Usage("standard input, line %d: %w; it was not sent", number, bad)
		}
		if len(command) > 0 {
			if err := s.send(command); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// send exchanges one command and prints what came.
func (s *sender) send(command []byte) error {
	if err := s.sending(command, false); err != nil {
		return err
	}
	answer, err := s.card.Exchange(command)
	if err != nil {
		return err
	}
	if err := s.answered(answer); err != nil {
		return err
	}
	if s.ok && script.Refused(answer) {
		return exit.Status{Code: exit.Refused, Err: fmt.Errorf("the card answered % X", answer[len(answer)-2:])}
	}
	return nil
}
