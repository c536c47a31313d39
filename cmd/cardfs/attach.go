package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers/remote/sshfs"
)

func newAttach() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "attach [flags] DRIVER DEVICE [KEY=VALUE…]",
		Short: "Add a reader and print its number",
		Long: `attach adds a reader that nothing announces by itself, waits until its driver has
initialised it, and prints the number of its slot, a line a slot.

  sim DEVICE           a simulated reader with a card (cardfs help sim): ikey3k, t1,
                       t0 …; keys card=CARD start=DURATION slow=DURATION serial=WORD;
                       for rutoken rewrite=off, which leaves commands as they are
  vpcd IP:PORT         virtual cards of other projects connect there, 16 at once; keys
                       timeout=DURATION cards=N public=yes
  vpcd unix:PATH       the same over a UNIX socket; keys timeout=DURATION
                       cards=N mode=OCTAL
  ccid /dev/TTY        a CCID reader on a serial port; key model=twin|pinpad|gemcore …
  ccid /dev/cmx0       an OMNIKEY CardMan 4040, a PC card; /dev/scr24x0 an SCM SCR243
  cm4000 /dev/cmm0     an Omnikey CardMan Mobile 4000, a PC card
  gempc /dev/TTY       a GemPC410 or one of its relatives on a serial port
  kaan /dev/TTY        a Kobil KAAN, or another CT-BCS terminal, on a serial port; keys
                       speed=9600|115200 memory=CHIP
  b1 /dev/TTY          a DTAG/T-TeleSec B1; the same keys
  smartboard /dev/TTY  the reader in a Cherry SmartBoard keyboard
  smph /dev/TTY        a Phoenix or SmartMouse interface; keys type=phoenix|smartmouse
                       clock=MHZ (of the card; 3.57) detect=LINE-on|LINE-off|none (the
                       line cts, dsr, cd or ri while a card is in; cts-off)
  towitoko /dev/TTY    a Towitoko Chipdrive or Kartenzwerg; key memory=CHIP
  remote DIR           the readers of another machine: DIR is its cardfs, mounted by sshfs or
                       the like (cardfs help recipes), or one slot of it; keys host=NAME
                       (what by-id calls the machine) lost=wait|leave (what the readers do
                       while the way to them is lost: be starting, or leave)
  remote ssh://[USER@]HOST[:PORT][/DIR]
                       the same without a mount made before: cardfs starts sshfs; keys
                       identity=FILE known-hosts=FILE ssh-config=FILE too
  replay FILE          a reader that answers as the session in FILE does, which cardfs
                       record wrote; keys level=short|extended unknown=SW|error (what
                       a command that is not in it gets; 6F00)

cardfs probe finds out which reader is on a serial port.

With any driver, t0=plain has cards of T=0 answer as they are: no GET RESPONSE after
61xx, no other Le after 6Cxx.

If the reader fails to start, attach exits 1 with the reason, and the reader stays,
failed, until it is detached. The same without this command: write the line
"attach DRIVER DEVICE KEY=VALUE" to ctl, and read event.`,
		Example: `  cardfs attach sim ikey3k
  n=$(cardfs attach sim t1 card=dual) && cardfs send $n 00A4000C023F00
  cardfs attach vpcd 127.0.0.1:35963`,
		Args:              args(2, -1, "attach needs a driver and a device"),
		ValidArgsFunction: completeAttach,
	}
	dir := mountFlag(cmd)
	cmd.Flags().DurationVar(&wait, "wait", client.AttachWait, "wait `DURATION` until the reader is ready, 0 for not at all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "replay" || args[0] == "remote" && !sshfs.IsURL(args[1]) { // cardfs mount reads it, in a directory of its own
			path, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			args[1] = path
		}
		if err := oneWordEach(args); err != nil {
			return err
		}
		c, err := client.FindMount(*dir)
		if err != nil {
			return err
		}
		numbers, err := c.Attach(args, wait)
		for _, n := range numbers {
			fmt.Fprintln(cmd.OutOrStdout(), n)
		}
		return err
	}
	return cmd
}

func oneWordEach(args []string) error {
	for _, arg := range args {
		if len(strings.Fields(arg)) != 1 || strings.ContainsRune(arg, '\n') {
			return exit.Usage("%q: ctl takes words without blanks", arg)
		}
	}
	return nil
}

func newDetach() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "detach [flags] N | DRIVER DEVICE",
		Short: "Remove the reader that has slot N, or what was attached so",
		Long: `detach makes a reader leave, with all its slots: calls that wait in them end, a
command on the wire finishes first. It returns when the directory is gone. A USB
reader that is still plugged in comes back with rescan.

With DRIVER and DEVICE, as attach had them, it makes a machine of the driver remote leave,
which has no slot, with all its readers: cardfs detach remote /mnt/lab.

The same without this command: write the line "detach N" to ctl.`,
		Example:           `  cardfs detach 0`,
		Args:              args(1, 2, "detach needs a slot"),
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	cmd.Flags().DurationVar(&wait, "wait", client.AttachWait, "wait `DURATION` until it is gone, 0 for not at all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 2 {
			c, err := client.FindMount(*dir)
			if err != nil {
				return err
			}
			if args[0] == "remote" && !sshfs.IsURL(args[1]) {
				if args[1], err = filepath.Abs(args[1]); err != nil {
					return err
				}
			}
			return c.Ctl("detach " + strings.Join(args, " "))
		}
		s, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		return s.Detach(wait)
	}
	return cmd
}
