package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs"
)

// Help topics are commands without a function. cobra lists them apart.

// newHelp replaces cobra's help, which shows the first page for a word that it does not
// know.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND | TOPIC]",
		Short:   "Explain a command or a topic",
		Long:    "help explains a command, or one of the topics that it lists below the commands.",
		Example: "  cardfs help send\n  cardfs help files",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var words []string
			for _, c := range root.Commands() {
				if len(args) == 0 && !c.Hidden {
					words = append(words, c.Name()+"\t"+c.Short)
				}
			}
			return words, noFiles
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return noCommand(root, strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// ctlUsage lists what may be written to ctl.
func ctlUsage() string {
	var out strings.Builder
	for _, c := range fs.CtlUsage() {
		fmt.Fprintf(&out, "                 %s: %s\n", c[0], c[1])
	}
	return out.String()
}

func helpFiles() *cobra.Command {
	return &cobra.Command{
		Use:   "files",
		Short: "The files of a mount and the errors they give",
		Long: `A mounted cardfs holds a directory for each card slot, named by its number.

  N/status     read: "key value" lines, state first: starting, failed, empty, present
               (a card without power), powered; error is the last error in words
  N/atr        read: the ATR in hex
  N/power      read: on or off; write: on, off, reset (warm), cold, eject,
               release (off, but EBUSY while anybody has the card open)
  N/apdu       C-APDUs in, R-APDUs out, in hex
  N/control    commands to the reader: a control code of four bytes and its data,
               as SCardControl takes them; 42000D48 lists the PC/SC part 10 features.
               Escape (42000001) is the owner's, and whom mount --allow-escape names:
               EACCES
  N/ctbcs      CT-BCS commands to the terminal, as CT-API programs send them
  N/protocol   read: T=1 T=0, the protocol in force first, then what else the card
               offers; write T=0 or T=1: the card is reset and negotiated with
  N/memory     the bytes of a memory card, at its length; absent for other cards. A write
               is read back: EACCES (VERIFY its PSC first, in apdu: FF20000003 and the
               PSC), EPERM (locked for ever), EIO (not taken; status says which byte),
               ENOSPC. One write takes about a second and may be short
  N/event      read: what happens to the slot, a line an event, for ever
  N/stats      read: "key value" counters since the directory is there: exchanges (that
               a card saw), control (commands to the reader), bytes-to-card and
               bytes-from-card (of what may hold a PIN or key the header and SW1 SW2
               alone), opens, opens-waited, errors and error-ERRNO (what opens, reads,
               writes and ioctls got), resets and power-ups, waits (for the slot's turn
               or another's transaction). KEY-us is a sum of microseconds, and
               exchange-us-le-100 how many exchanges took 100 or less
  N/trace      read: what crosses the slot from now on, PINs masked; owner only
  event        read: what happens to all slots
  ctl          read: drivers and readers; write, owner only:
` + ctlUsage() + `                 DRIVER N COMMAND, as reading ctl lists them
  by-id/NAME   links to N, with names that survive unplugging and reboot

A write to power and protocol returns when the card did it. A write to ctl only
starts it: what comes of it is in event and ctl. After a write that failed, the
same open of these three files reads "error ..." with the reason in words.

Opening power, protocol, control and ctbcs waits until the driver has initialised
the reader, opening atr, apdu and memory until a card is there and powered; nothing else
waits. Opened with O_NONBLOCK they say EAGAIN (starting) or ENOMEDIUM (no card)
instead. The first open that needs the card powers it, and it stays powered.

apdu, control and ctbcs: each open is a channel of its own. A line of hex is a
command: blanks anywhere, case free, # begins a comment. Several lines in one write
are several commands, answered in order; if one is malformed none is sent. Without
a newline a line counts when its answer is read. write hands over, read waits. After
the last answer read says end of file:

  { echo 00A4000C023F00 >&3; cat <&3; } 3<>cards/0/apdu

poll(2), select(2) and epoll(7): event and trace are readable when there is a line,
apdu, control and ctbcs when an answer or an error is there; they are writable when a
command would be taken. Text files are always readable; status and stats wake with
POLLPRI after a change, and a read from the beginning has the file anew. When the reader
left it is POLLHUP. O_NONBLOCK counts as it is set at each read and write.

Text files and memory show their length, the others 4096. A read by sendfile(2) or splice(2) says
EINVAL, after which cat, cp and their like use read(2). Nobody can make, remove or
rename a file here: EPERM.

The ioctls of cardfs.h exchange bytes in one call, or turn an open to raw bytes, or
an open of ctbcs to what CT-API's CT_data sends: dad, sad, and a command.

A card's SW1 SW2 is data. Errors are errno:

  ENOMEDIUM    no card
  ENODEV       the reader is gone, or the mount is ending
  ESTALE       the card was reset, changed or powered off since the open: reopen
  EBUSY        another holds the transaction, and this open may not wait, or this
               is a reset; or a PC/SC client has an exclusive connection; nothing was
               sent. An open: another program has the reader
  ETIMEDOUT    no answer in the time the protocol allows; for an open: --open-timeout
  EPROTO       what the card or reader answered breaks the protocol
  EOPNOTSUPP   this reader or card cannot do that
  EINVAL       the command is malformed; nothing was sent
  ENOBUFS      too much waits to be read: 64 answers or 1 MiB of this open, 8 MiB of
               this user's opens of the slot, or 64 MiB of all; read first
  EACCES       the reader may not be opened: status names the rule that would help;
               an escape command that is the owner's alone; or a file that only reads
               is opened for writing
  EAGAIN       O_NONBLOCK: the reader is starting, or the answer has not come
  EINTR        a signal came before the command was sent, or while a read waited, which
               can be repeated
  EBADF        an ioctl on an open that is not for reading and writing
  EIO          anything else; status carries error with the reason in words
  ENOTCONN     the cardfs that served the mount is dead

flock(2) on apdu is the transaction: commands of other opens wait until it ends,
resets by others fail. LOCK_SH is taken as LOCK_EX. Two ways:

  { flock 9; echo 00A4000C023F00 >&9; head -n 1 <&9; } 9<>cards/0/apdu
  flock cards/0/apdu cardfs send 0 00A4000C023F00   # any program, and its children

The first way admits that open alone, and what its process and its children write
to control, ctbcs, power and protocol. A reset by whom the lock admits leaves its
opens of apdu valid. Who has no flock(2), as behind sshfs, writes the lines lock and
unlock to apdu; ok answers them, and trylock, which says EBUSY rather than wait. There
the open of another file may be another process's: power WORD, protocol WORD and control
HEX, as lines to apdu, are what this open writes to the file of that name. After the line
errors, to apdu, control or ctbcs, an error is a line "error ESTALE WORDS" and no errno.
apdu opened only for reading is good for flock(2) alone: it waits for no card, and reads
as empty.

A PC/SC client connects by the ioctl CARDFS_CONNECT on control (cardfs.h), until it
ends that or closes control. status counts connections. An exclusive one is refused
while there is another connection or another's lock; opens of files do not count. While
it lasts status shows exclusive with the process, which passes by whatever opens it and
its children make. Others' commands, and what they write to power, protocol, control
and memory, say EBUSY at once; their flock waits; an open that would power the card
says EBUSY. A reset by the client leaves its opens of apdu valid. When a process with a
connection dies with the lock, by a close of apdu without an unlock, the card is reset;
without the lock the card is left as it is.`,
	}
}

func helpEvents() *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "The lines of the event files",
		Long: `Whoever opens event first reads how things stand, as the events that led there, then
every event as it comes, without a gap. A line is:

  SEQUENCE SLOT EVENT KEY=VALUE...

  arrived    a reader was announced; its directory is there  driver device reader
                                                             by-id via
  ready      its driver has initialised it
  failed     it could not, or the card could not be powered  error
  inserted   a card is in the slot
  powered    the card was activated                          atr protocol
             or deactivated                                  power=off
  reset      the card was reset while powered                atr protocol
  removed    the card is gone
  left       the reader is gone

via names the daemons on the way to the reader of another machine, by what their ctl calls
instance. SEQUENCE counts from 1 while cardfs runs. In a value, blanks are underscores. To
whoever reads too slowly, lost=N says how many events before the line were dropped.

A read waits for the next event; with O_NONBLOCK it says EAGAIN. cat, head -n and
while read follow; tail -f does not. With a timeout: timeout 5 head -n 1 event, or
cardfs watch --until EVENT --timeout 5s.`,
	}
}

func helpExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "The exit codes of the commands",
		Long: `  0  done. mount: it was ended by SIGTERM, SIGINT or umount
  1  it could not be done; stderr says why
  2  the command line or the input makes no sense; nothing was done with it
  3  there is no such reader, or no card in it
  4  send --ok: the card answered neither 9000 nor 61xx; send -f: otherwise than the
     script expects; the answer was printed

pcsc ends with COMMAND's own code; with 127 if there is no such program, with 126 if it
cannot be executed.

The commands but mount find the mount by --mount, else $CARDFS_MOUNT, else in the
mount table (the only one that you may enter), else at /mnt/cards.`,
	}
}

func simDevices() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range sim.Table() {
		fmt.Fprintf(w, "  %s\t%s\n", row[0], row[1])
	}
	w.Flush()
	return b.String()
}

// simHelp is about the simulated readers, and what sim does to them.
func simHelp() string {
	return `Simulated readers have a virtual ISO 7816-4 card in them, to develop card scripts
without hardware and to try what happens when things go wrong. They come with
mount --sim DEVICE and with attach sim DEVICE KEY=VALUE... DEVICE is one of

` + simDevices() + `
Keys: card=CARD (what is in it, none for nothing), start=DURATION (how long the
driver takes to open it), slow=DURATION (each command takes so much longer),
serial=WORD. Cards: token (T=1), t0 (T=0), dual (both), crc (T=1 with a CRC), datakey
(T=1, an iKey 2032's), cardos (T=1, an eToken's), cryptoflex (T=0, an e-gate's), epass
(T=0, an ePass3000's), echo (answers with what it is sent). Memory cards, which have the
file memory: sle4432, sle4442, sle4418, sle4428 (their PSC is FFFFFF or FFFF), at24c01,
at24c02 and so on to at24c512, sle4406, sle4436. Readers that have one at attach take
them: memory, t1, t0, apdu, char-t1, char-t0. An at24c that is put in later says no size:
memory=i2c:BYTES at attach says it.

The card piv is a PIV card (NIST SP 800-73-4) with keys and certificates, PIN 123456, PUK
12345678. The card openpgp is an OpenPGP card 3.4, PIN 123456, admin PIN 12345678. They take
more keys: model=yubikey (of piv: an empty YubiKey with its name and commands; yubikey-5.4 for
yubico-piv-tool before 2.3), state=FILE (what it holds outlives the daemon), keys=DIR (imports
9a.pem, 9c.pem …; of openpgp sig.pem, dec.pem, aut.pem), seed=WORD (the same keys each time),
atr=t1|t0|contactless, slow=real (as slow as real cards; go doc of drivers/sim/applet has the
times). They are no place for keys that matter: whoever may read the state file, or the
daemon's memory, has them in clear.

sim does the rest, and so do the same lines written to ctl, as in

  cardfs sim 0 remove                echo sim 0 remove >cards/ctl

What comes of it is in the events (cardfs watch). The commands:

  ` + strings.Join(sim.New().Usage(), "\n  ") + `

The cards hold MF 3F00 with 2F00 (EF.DIR), 2F02 (serial number) and 1001 (128 bytes
to write), and DF 5000, AID F063617264667301, with 5001 to 5005. PIN 1 (reference
01) is 1234, PIN 2 (reference 81, in DF 5000) is 5678, the PUK 12345678. 80EE0000
with data and Le echoes; go doc of drivers/sim lists all files and commands.`
}
