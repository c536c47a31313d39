package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// grace is how long a command on the wire may go on after SIGTERM.
const grace = 10 * time.Second

// unmountGrace is the same after umount: nobody is there any more to take the answer.
const unmountGrace = time.Second

// mountOptions are the flags of `cardfs mount`.
type mountOptions struct {
	sims          []string
	attach        []string
	allowOther    bool
	group         string
	allowEscape   []string
	mode          string
	openTimeout   time.Duration
	idleOff       time.Duration
	exchangeLimit time.Duration
	usb           string
	background    bool
	log           string
	verbose       int
	logger        *slog.Logger
}

func newMount() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount [flags] DIR",
		Short: "Mount the readers at DIR and serve them",
		Long: `mount shows the readers as files at DIR until it gets SIGTERM or SIGINT; a second
signal kills it. It is ready once the directories of what it was told to attach
are there. A stale mount that a killed cardfs left at DIR is replaced.

With --background it returns when the mount is ready, and serves on in a session of
its own; fusermount3 -u DIR, or umount DIR, ends it. Its log then goes to syslog.

SIGUSR1 has it open the file of --log anew, after logrotate has moved it away;
copytruncate needs no signal.

By default only you may enter, not even root. --allow-other lets others in as
far as --mode and --group allow; for that a user other than root needs the line
user_allow_other in /etc/fuse.conf.`,
		Example: `  cardfs mount --sim ikey3k cards
  cardfs mount -b --sim ikey3k cards && cat cards/0/atr; fusermount3 -u cards
  cardfs mount --sim ikey3k --sim t0 --attach "vpcd 127.0.0.1:35963" cards
  cardfs mount --allow-other --group scard --mode 0660 /mnt/cards`,
		Args: args(1, 1, "mount needs one directory"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, noFiles
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.background && !isBackground() {
				return inBackground(cmd.Context(), os.Args[1:], cmd.ErrOrStderr())
			}
			return o.run(cmd.Context(), args[0], cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.sims, "sim", nil, "attach the simulated reader `DEVICE`: ikey3k, t0 … (cardfs help sim); may be repeated")
	f.StringArrayVar(&o.attach, "attach", nil, "attach `\"DRIVER DEVICE key=value…\"`, as cardfs attach does; may be repeated")
	f.StringVar(&o.usb, "usb", transports.Default, "serve USB readers as they come and go, through `TRANSPORT`: "+strings.Join(transports.Names(), ", ")+
		"; or off, which leaves them to pcscd's own drivers")
	f.Lookup("usb").NoOptDefVal = transports.Default
	f.BoolVar(&o.allowOther, "allow-other", false, "let other users in, as far as --mode goes")
	f.StringVar(&o.group, "group", "", "`GROUP` of all files, by name or number")
	f.StringVar(&o.mode, "mode", "0600", "permissions in `OCTAL` of files that can be written; other files get the read bits")
	f.StringSliceVar(&o.allowEscape, "allow-escape", nil, "let others than you and root, or only `USER,…`, send escape commands to readers, which can rewrite their firmware")
	f.Lookup("allow-escape").NoOptDefVal = everybody
	f.DurationVar(&o.openTimeout, "open-timeout", 0, "let a waiting open fail after `DURATION` (default: wait for ever)")
	f.DurationVar(&o.idleOff, "idle-off", 0, "take the power off a card not used for `DURATION` (it forgets PINs; default: never)")
	f.BoolVarP(&o.background, "background", "b", false, "return when the mount is ready, and serve on in the background")
	f.StringVar(&o.log, "log", "", "append the log to `FILE` (default: stderr; syslog with --background)")
	f.DurationVar(&o.exchangeLimit, "exchange-limit", time.Hour, "give a card that keeps asking for more time `DURATION` for a command")
	f.CountVarP(&o.verbose, "verbose", "v", "log each exchange, without its data, and what is refused; -vv logs every file request")
	cmd.RegisterFlagCompletionFunc("sim", completeSim)
	cmd.RegisterFlagCompletionFunc("usb", cobra.FixedCompletions(append(transports.Names(), "off"), noFiles))
	return cmd
}

func (o *mountOptions) run(ctx context.Context, dir string, realStderr io.Writer) error {
	stderr := newSpooled(realStderr)
	defer stderr.flush()
	mode, err := strconv.ParseUint(o.mode, 8, 32)
	if err != nil || mode&^0o666 != 0 {
		return exit.Usage("--mode %s: three octal digits of read and write bits are wanted, such as 0660", o.mode)
	}
	gid := -1
	escape, err := mayEscape(o.allowEscape)
	if err != nil {
		return exit.Usage("--allow-escape: %w", err)
	}
	if o.group != "" {
		if gid, err = lookupGroup(o.group); err != nil {
			return exit.Usage("--group %s: %w", o.group, err)
		}
	}
	transport, err := usbTransport(o.usb)
	if err != nil {
		return exit.Usage("--usb=%s: %w", o.usb, err)
	}
	if o.exchangeLimit <= 0 {
		return exit.Usage("--exchange-limit %v: a time above 0 is wanted", o.exchangeLimit)
	}
	tune()
	level := slog.LevelInfo
	if o.verbose > 0 {
		level = slog.LevelDebug
	}
	handler, logFile, flush, err := openLog(o.log, level, stderr)
	if err != nil {
		return err
	}
	defer flush()
	o.logger = slog.New(handler)
	stopRotating, err := rotateLog(logFile, o.logger)
	if err != nil {
		return err
	}
	defer stopRotating()

	// The reader of the log may end first: `cardfs mount … 2>&1 | head`. Its lines are lost
	// then. Without this, SIGPIPE would end the program, also at the very end, when the last
	// lines are written.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// go-fuse logs some errors by package log, such as a request for an unknown node.
	log.SetFlags(0)
	log.SetOutput(fs.LogWriter(o.logger))

	// From here on the first signal ends the mount in order. The second ends the program at
	// once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		// A terminal that closes must not leave a stale mount behind.
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	signalled := make(chan struct{})
	go func() {
		<-signals
		close(signalled)
		<-signals
		fmt.Fprintln(stderr, "cardfs: second signal, leaving at once")
		stderr.flush()
		os.Exit(exit.Error)
	}()

	var buses []reader.Bus
	if transport != nil {
		buses = append(buses, hotplug.New(transport, o.logger))
	}
	manager := core.NewManager(core.Options{
		Drivers: drivers.All(drivers.Env{Log: o.logger}), Buses: buses,
		Log: o.logger, IdleOff: o.idleOff, ExchangeLimit: o.exchangeLimit,
	})
	server, err := fs.Mount(dir, manager, fs.Options{
		AllowOther: o.allowOther, GID: gid, Mode: uint32(mode),
		OpenTimeout: o.openTimeout, Escape: escape, Log: o.logger, Debug: o.verbose > 1,
	})
	if err != nil {
		o.close(manager, grace)
		return err
	}
	unmounted := server.Done()
	if err := o.attachAll(manager); err != nil {
		server.Leave()
		o.close(manager, grace)
		return errors.Join(err, server.Close(time.Second))
	}
	manager.WatchBuses()
	switch {
	case isBackground():
		o.logger.Info("mounted", "dir", dir)
		flush() // before the caller goes on, who may look
		stderr.flush()
		if err := detach(logFile); err != nil {
			server.Leave()
			o.close(manager, grace)
			return errors.Join(fmt.Errorf("background: %w", err), server.Close(time.Second))
		}
	default:
		fmt.Fprintf(stderr, "cardfs: mounted at %s\n", dir)
		if os.Getenv("NOTIFY_SOCKET") == "" { // a service has no second terminal
			o.hint(stderr, dir, manager)
		}
	}
	notify("READY=1", o.logger)

	finish := grace
	select {
	case <-signalled:
	case <-unmounted:
		finish = unmountGrace
		fmt.Fprintf(stderr, "cardfs: %s was unmounted\n", dir)
	case <-ctx.Done():
	}
	notify("STOPPING=1", o.logger)
	server.Leave()
	o.close(manager, finish)
	return server.Close(time.Second)
}

// tune fits Go's runtime to a program that mostly waits in read(2) of /dev/fuse, unless
// the environment has other wishes.
func tune() {
	// A thread that waits there keeps its P until the runtime's monitor takes it away.
	// There are two or more such threads. With fewer Ps than that they take them from each
	// other, which costs a futex call for each request: 4 to 12 % of the time of
	// SCardTransmit, measured on two processors.
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < 4 {
		runtime.GOMAXPROCS(4)
	}
}

func (o *mountOptions) close(m *core.Manager, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	m.Close(ctx)
}

func (o *mountOptions) attachAll(m *core.Manager) error {
	for _, sim := range o.sims {
		if err := fs.Attach(m, append([]string{"sim"}, strings.Fields(sim)...)); err != nil {
			return fmt.Errorf("--sim %s: %w", sim, err)
		}
	}
	for _, line := range o.attach {
		if err := fs.Attach(m, strings.Fields(line)); err != nil {
			return fmt.Errorf("--attach %q: %w", line, err)
		}
	}
	return nil
}

// hint says what to type in a second terminal.
func (o *mountOptions) hint(w io.Writer, dir string, m *core.Manager) {
	if len(m.Slots()) == 0 {
		fmt.Fprintf(w, "cardfs: no reader yet; attach one with: echo attach sim ikey3k >%s/ctl\n", dir)
		return
	}
	n := m.Slots()[0].Number()
	fmt.Fprintf(w, `In a second terminal:
  cat %[1]s/%[2]d/atr
  echo reset >%[1]s/%[2]d/power
  { echo 00A4000C023F00 >&3; cat <&3; } 3<>%[1]s/%[2]d/apdu
  %[3]s list
Ctrl-C here unmounts.
`, dir, n, os.Args[0])
}

// usbTransport returns the transport that --usb names, nil for none. Boolean values are
// taken as well: the flag once was a boolean.
func usbTransport(name string) (usb.Transport, error) {
	if name == "off" {
		return nil, nil
	}
	if on, err := strconv.ParseBool(name); err == nil {
		if !on {
			return nil, nil
		}
		name = transports.Default
	}
	return transports.Find(name)
}

// everybody is the value of --allow-escape without a USER. No user can have this name.
const everybody = "*"

// mayEscape returns who may send escape commands by --allow-escape, besides the owner.
func mayEscape(names []string) (func(uid uint32) bool, error) {
	named := make(map[uint32]bool)
	for _, name := range names {
		if name == everybody {
			return func(uint32) bool { return true }, nil
		}
		uid, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			u, err := user.Lookup(name)
			if err != nil {
				return nil, err
			}
			if uid, err = strconv.ParseUint(u.Uid, 10, 32); err != nil {
				return nil, err
			}
		}
		named[uint32(uid)] = true
	}
	return func(uid uint32) bool { return named[uid] }, nil
}

func lookupGroup(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}
