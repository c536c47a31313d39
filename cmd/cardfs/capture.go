package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/pcapng"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/tracelog"
)

func newCapture() *cobra.Command {
	var file string
	var all bool
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "capture [flags] N… -w FILE [-- COMMAND [ARG…]]",
		Short: "Write what crosses slots into a file for Wireshark",
		Long: `capture follows the trace of slots and writes a pcapng file, which Wireshark and
tshark decode: each command with its answer is a packet, GSM SIM in GSMTAP. Resets,
ATRs, PPS and commands to the reader are packets of text. Several slots may be
captured into one file; each is an interface of its own, by the number of the slot
and the reader's name. With --all every slot is, those that come later included.

It ends by ctrl-C, when all its readers have left, after --duration or, if a COMMAND
is given, with that, whose exit code it then has. The file is whole at any time; each
packet is written at once. -w - writes to standard output:

  cardfs capture --all -w - | wireshark -k -i -

Where Wireshark finds cardfs-extcap, its list of interfaces has the slots.

Only whose mount it is may read the trace. In it PINs and keys are masked: such a
packet has eight bytes FF in their place, however many there were, and the comment
"masked". A packet has the comment "error: ..." where the card did not answer, and
0000 for its status word. What is otherwise not as the command was, for Wireshark's
sake, a comment says: P3 is the number of bytes that came, the Le of a command with
data is left out, and a command without data and Le has a P3 of 00. Lines of the
trace that were lost, for they came too fast, are counted where they are missing and
in the interface's statistics.

` + slotHelp,
		Example: `  cardfs capture 0 -w card.pcapng -- cardfs send 0 00A4000C023F00
  cardfs capture --all -w cards.pcapng --duration 2s`,
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	f.StringVarP(&file, "write", "w", "", "`FILE` to write, - for standard output")
	f.BoolVar(&all, "all", false, "capture all slots, those that come later included")
	f.DurationVar(&span, "duration", client.Forever, "end after `DURATION`")
	f.Lookup("duration").DefValue = "for ever"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		names, command := beforeDash(cmd, args)
		switch {
		case all == (len(names) > 0):
			return exit.Usage("capture needs slots, or --all; see %s --help", cmd.CommandPath())
		case file == "":
			return exit.Usage("say which file to write, as in -w card.pcapng, or -w - for standard output")
		case file == "-" && len(command) > 0:
			return exit.Usage("-w - with a command: their output would be mixed")
		}
		c := &capture{}
		defer c.Close()
		// All is found before the file is made.
		var slots []client.Slot
		for _, name := range names {
			s, err := client.FindSlot(*dir, name)
			if err != nil {
				return err
			}
			slots = append(slots, s)
		}
		var mount *client.Mount
		if all {
			var err error
			if mount, err = client.FindMount(*dir); err != nil {
				return err
			}
		}
		if err := c.open(slots, mount, func() (io.WriteCloser, error) { return createOutput(cmd, file) }); err != nil {
			return err
		}
		return runWhile(cmd, span, command, c.Run)
	}
	return cmd
}

// capture is `cardfs capture` once its file is open.
type capture struct {
	tracelog.Loop
	file *pcapng.Writer
	out  io.Closer
	live map[*tracelog.Capture]bool
}

// open opens the traces of the slots, or of all in mount, and then the file.
func (c *capture) open(slots []client.Slot, mount *client.Mount, create func() (io.WriteCloser, error)) error {
	c.live = make(map[*tracelog.Capture]bool)
	wanted := slots
	if mount != nil {
		numbers, err := mount.Numbers()
		if err != nil {
			return err
		}
		for _, n := range numbers {
			wanted = append(wanted, mount.Slot(n))
		}
	}
	for _, s := range wanted {
		if err := readable(s); err != nil && !(mount != nil && gone(err)) {
			return err
		}
	}
	out, err := create()
	if err != nil {
		return err
	}
	c.out = out
	if c.file, err = pcapng.New(out, "cardfs "+versionName()); err != nil {
		return err
	}
	if mount != nil {
		return c.Arrivals(mount, func(s client.Slot) error {
			if err := c.add(s); !gone(err) {
				return err
			}
			return nil
		})
	}
	for _, s := range slots {
		if err := c.add(s); err != nil {
			return err
		}
	}
	return nil
}

// add captures a slot, too.
func (c *capture) add(s client.Slot) error {
	var to *tracelog.Capture
	err := c.Trace(s, func(text string) error {
		return to.Take(tracelog.Parse(text, time.Now()))
	}, func() error {
		delete(c.live, to)
		return to.End(time.Now(), "the reader left")
	})
	if err != nil {
		return err
	}
	name, about := describe(s)
	iface, err := c.file.Interface(name, about, time.Now())
	if err != nil {
		return err
	}
	to = tracelog.NewCapture(iface)
	c.live[to] = true
	return nil
}

// Run captures until ctx ends, or all readers have left.
func (c *capture) Run(ctx context.Context) error {
	err := c.Loop.Run(ctx)
	for to := range c.live {
		err = errors.Join(err, to.End(time.Now(), "the capture was ended"))
	}
	c.live = nil
	if errors.Is(err, unix.EPIPE) {
		return nil // who read it has enough
	}
	return err
}

// Close closes the traces and the file.
func (c *capture) Close() {
	c.Loop.Close()
	if c.out != nil {
		c.out.Close()
	}
}

// readable returns nil if the trace of the slot can be opened.
func readable(s client.Slot) error {
	var try tracelog.Loop
	defer try.Close()
	return try.Trace(s, func(string) error { return nil }, func() error { return nil })
}

// gone reports whether err says that there is no such reader any more.
func gone(err error) bool {
	var status exit.Status
	return errors.As(err, &status) && status.Code == exit.None
}

// describe gives a slot's name among the interfaces of a capture, and more of it.
func describe(s client.Slot) (name, about string) {
	lines, _ := s.Status() // if it left meanwhile, there is nothing to say
	device := strings.TrimSpace(lines.Value("driver") + " " + lines.Value("device"))
	name = lines.Value("reader")
	if name == "" {
		name = device
	}
	if id := lines.Value("by-id"); id != "" {
		device += ", " + id
	}
	return s.Name + ": " + name, device
}

// beforeDash are the arguments before --, and the command behind it.
func beforeDash(cmd *cobra.Command, args []string) (before, command []string) {
	if n := cmd.ArgsLenAtDash(); n >= 0 {
		return args[:n], args[n:]
	}
	return args, nil
}

// createOutput creates a file that is nobody else's business, or is standard output, but
// no terminal.
func createOutput(cmd *cobra.Command, file string) (io.WriteCloser, error) {
	if file != "-" {
		return os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if f, ok := cmd.OutOrStdout().(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil && cmd.Name() == "capture" {
			return nil, exit.Usage("standard output is a terminal, which a capture file would confuse; give a file to -w, or a pipe")
		}
	}
	return output{cmd.OutOrStdout()}, nil
}

// output is standard output, which stays open.
type output struct{ io.Writer }

func (output) Close() error { return nil }

// runWhile calls run with a context that ends by SIGINT or SIGTERM, after span or, if there
// is a command, when that has ended.
func runWhile(cmd *cobra.Command, span time.Duration, command []string, run func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if span != client.Forever {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, span)
		defer cancel()
	}
	if len(command) == 0 {
		return run(ctx)
	}
	child := exec.CommandContext(ctx, command[0], command[1:]...)
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := child.Start(); err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	during, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- child.Wait()
		end()
	}()
	err := run(during)
	childErr := <-ended
	var status *exec.ExitError
	switch {
	case err != nil:
		return err
	case errors.As(childErr, &status) && status.ExitCode() >= 0:
		return exit.Status{Code: status.ExitCode()}
	case ctx.Err() != nil: // it was ended with us
		return nil
	case childErr != nil:
		return fmt.Errorf("%s: %w", command[0], childErr)
	}
	return nil
}
