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
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/drivers/ccid"
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
	config        string
	checkOnly     bool
	log           string
	verbose       int
	logger        *slog.Logger
	given         func(flag string) bool // on the command line
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
user_allow_other in /etc/fuse.conf.

--config reads a file that may have any of these flags, readers to attach, groups
of single readers, and quirks: see cardfs.conf(5). A flag that is given counts, whatever
the file says. SIGHUP then reads the file again: it attaches and detaches what
changed, and disturbs nothing else. Without a file SIGHUP ends the mount, for a terminal
that closes sends it. --check says what is wrong in the file and the flags, a line
each, and mounts nothing; exit code 2 if anything is.`,
		Example: `  mkdir -p cards && cardfs mount --sim ikey3k cards
  cardfs mount -b --sim ikey3k cards && cat cards/0/atr; fusermount3 -u cards
  cardfs mount --sim ikey3k --sim t0 --attach "vpcd 127.0.0.1:35963" cards
  cardfs mount --allow-other --group cardfs --mode 0660 /mnt/cards
  printf '[[attach]]\ndriver = "sim"\ndevice = "t0"\n' >cards.conf
  cardfs mount --check --config cards.conf`,
		Args: func(cmd *cobra.Command, words []string) error {
			if o.checkOnly {
				return args(0, 1, "mount --check needs one directory, or none")(cmd, words)
			}
			return args(1, 1, "mount needs one directory")(cmd, words)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, noFiles
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.background && !o.checkOnly && !isBackground() {
				return inBackground(cmd.Context(), os.Args[1:], cmd.ErrOrStderr())
			}
			given := make(map[string]bool)
			cmd.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = true })
			o.given = func(flag string) bool { return given[flag] }
			settings, bad := o.settle(cmd, o.given)
			if o.checkOnly {
				o.checkAttach(bad)
			}
			if err := bad.err(cmd.ErrOrStderr()); err != nil || o.checkOnly {
				return err
			}
			return o.run(cmd.Context(), args[0], settings, cmd.ErrOrStderr())
		},
	}
	o.addFlags(cmd)
	completeMountFlags(cmd)
	cmd.RegisterFlagCompletionFunc("usb", cobra.FixedCompletions(append(transports.Names(), "off"), noFiles))
	return cmd
}

func (o *mountOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.sims, "sim", nil, "attach the simulated reader `DEVICE`: ikey3k, piv, openpgp … (cardfs help sim), no place for keys that matter; may be repeated")
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
	f.StringVar(&o.config, "config", "", "read the configuration `FILE` (cardfs.conf(5)), and again at SIGHUP")
	f.BoolVar(&o.checkOnly, "check", false, "only say what is wrong in the configuration file and the flags")
	f.StringVar(&o.log, "log", "", "append the log to `FILE` (default: stderr; syslog with --background)")
	f.DurationVar(&o.exchangeLimit, "exchange-limit", time.Hour, "give a card that keeps asking for more time `DURATION` for a command")
	f.CountVarP(&o.verbose, "verbose", "v", "log each exchange, without its data, and what is refused; -vv logs every file request")
}

func (o *mountOptions) run(ctx context.Context, dir string, s *settings, realStderr io.Writer) error {
	stderr := newSpooled(realStderr)
	defer stderr.flush()
	configName := o.config
	if configName != "" {
		var err error
		if configName, err = filepath.Abs(configName); err != nil { // the daemon does not stay in this directory
			return fmt.Errorf("--config %s: %w", o.config, err)
		}
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
	reload := make(chan os.Signal, 1)
	switch {
	case o.config != "":
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
	case !signal.Ignored(syscall.SIGHUP): // nohup
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
	if s.transport != nil {
		buses = append(buses, hotplug.New(s.transport, o.logger))
	}
	quirks := new(ccid.UserQuirks)
	quirks.Set(s.quirks)
	manager := core.NewManager(core.Options{
		Drivers: drivers.All(drivers.Env{Log: o.logger, Quirks: quirks}), Buses: buses,
		Log: o.logger, IdleOff: o.idleOff, ExchangeLimit: o.exchangeLimit,
	})
	server, err := fs.Mount(dir, manager, fs.Options{
		AllowOther: o.allowOther, GID: s.gid, Mode: s.mode, Access: s.access,
		OpenTimeout: o.openTimeout, Escape: s.escape, Log: o.logger, Debug: o.verbose > 1,
	})
	if err != nil {
		o.close(manager, grace)
		return err
	}
	unmounted := server.Done()
	conf := &configured{
		name: configName, given: o.given, log: o.logger, manager: manager, server: server, quirks: quirks,
		now: s, attached: make(map[string][]reader.Device),
	}
	err = o.attachAll(manager)
	if err == nil {
		err = conf.attachAll()
	}
	if err != nil {
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
	for over := false; !over; {
		select {
		case <-reload:
			conf.reload()
			continue
		case <-signalled:
		case <-unmounted:
			finish = unmountGrace
			fmt.Fprintf(stderr, "cardfs: %s was unmounted\n", dir)
		case <-ctx.Done():
		}
		over = true
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
	for _, a := range o.attachWords() {
		if err := fs.Attach(m, a.words); err != nil {
			return fmt.Errorf("%s: %w", a.flag, err)
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
			if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
				return nil, fmt.Errorf("there is no user %q", name)
			}
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
	if unknown := user.UnknownGroupError(""); errors.As(err, &unknown) {
		return 0, fmt.Errorf("there is no group %q", name)
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}
