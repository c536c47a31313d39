// Command vm runs a command, a test binary or a shell in a virtual machine that
// has USB: see package machine.
//
//	go run ./tests/vm shell ccid ikey3k       a shell, with these devices plugged in
//	go run ./tests/vm exec -- lsusb           one command
//	go test -exec "$PWD/build/vm exec --" ./drivers/bus/usb
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

const usage = `usage: vm COMMAND [FLAGS] [ARGS]

  exec [FLAGS] [--] CMD ARG...  run a command in a new machine; its exit code is ours
  shell [FLAGS] [KIND...]       an interactive shell in a new machine
  fetch                         make the machine's image anew, with the current kernel

in a machine:
  plug KIND ID                  plug a device in
  insert READER ID              put a card into a reader
  unplug ID                     take a device or a card out
  emulate EMULATED...           plug in devices of our own until interrupted

flags: -device KIND, -module NAME of the kernel (both repeatable), -m MiB, -no-udev, -xhci,
       -v (the kernel's console too)
kinds by QEMU: %s
emulated kinds: %s
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Fprintf(os.Stderr, usage, strings.Join(machine.KindNames(), " "), strings.Join(kindNames(), " "))
		return 2, nil
	}
	verb, args := args[0], args[1:]
	c := machine.Config{Stdout: os.Stdout, Stderr: os.Stderr}
	fl := flag.NewFlagSet(verb, flag.ContinueOnError)
	var ours []string // kinds that we emulate ourselves
	device := func(kind string) error {
		if e, ok := kinds()[kind]; ok {
			ours = append(ours, kind)
			if _, serial := e.New("").(emulators.Serial); serial && !slices.Contains(c.Modules, adapterModule) {
				c.Modules = append(c.Modules, adapterModule)
			}
		} else {
			c.Devices = append(c.Devices, kind)
		}
		return nil
	}
	fl.Func("device", "plug in a device of this `kind`", device)
	fl.Func("module", "load this `module` of the kernel: ftdi_sio, pl2303, cdc_acm, cyberjack, iuu_phoenix, cuse", func(name string) error {
		c.Modules = append(c.Modules, name)
		return nil
	})
	ready := fl.String("ready", "", "emulate: write to this `file` when all are plugged in")
	fl.IntVar(&c.Memory, "m", 0, "memory in MiB")
	fl.BoolVar(&c.NoUdev, "no-udev", false, "do not start udevd")
	fl.BoolVar(&c.XHCI, "xhci", false, "an xHCI controller too")
	verbose := fl.Bool("v", false, "show the kernel's console and what is started")
	if err := fl.Parse(args); err != nil {
		return 2, nil // flag has printed why
	}
	args = fl.Args()
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
		c.Console = os.Stderr
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	switch verb {
	case "exec":
		if len(args) == 0 {
			return 2, errors.New("exec: no command")
		}
		c.Command = withEmulators(ours, args)
		return boot(ctx, c)
	case "shell":
		for _, kind := range args {
			device(kind)
		}
		c.Command = withEmulators(ours, []string{"/bin/sh", "-c", shellScript})
		c.TTY = true
		return boot(ctx, c)
	case "fetch":
		_, err := machine.Fetch(ctx, true, c.Log)
		return exitCode(err), err
	case "emulate":
		err := emulate(ctx, *ready, args)
		return exitCode(err), err
	case "plug", "insert", "unplug":
		err := control(ctx, verb, args)
		return exitCode(err), err
	}
	return 2, fmt.Errorf("no command %q (vm help)", verb)
}

// adapterModule is the kernel's driver of the adapter that serial devices are plugged in by.
const adapterModule = "ftdi_sio"

func boot(ctx context.Context, c machine.Config) (int, error) {
	m, err := machine.Start(ctx, c)
	if err != nil {
		return 125, err
	}
	code, err := m.Wait()
	if err != nil {
		return 125, err
	}
	return code, nil
}

// shellScript prints what is there and becomes an interactive shell.
const shellScript = `export PS1='vm:\w# '
echo 'A machine with USB; the root of the host is read-only. "vm plug ccid r1", "vm unplug r1", "vm emulate ikey3k &", "vm help"; ctrl-D ends it.'
for d in /sys/bus/usb/devices/*-*; do
	[ -r $d/idVendor ] && echo "${d##*/}: $(cat $d/idVendor):$(cat $d/idProduct) $(cat $d/product 2>/dev/null)"
done
[ -x /bin/bash ] && exec /bin/bash --norc -i
exec /bin/sh -i`

func control(ctx context.Context, verb string, args []string) error {
	want := map[string]int{"plug": 2, "insert": 2, "unplug": 1}[verb]
	if len(args) != want {
		return fmt.Errorf("%s: %d arguments wanted, %d given (vm help)", verb, want, len(args))
	}
	g, err := machine.Dial()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	switch verb {
	case "plug":
		return machine.Plug(ctx, g, args[0], args[1])
	case "insert":
		return machine.InsertCard(ctx, g, args[0], args[1])
	default:
		return machine.Unplug(ctx, g, args[0])
	}
}

func exitCode(err error) int {
	if err != nil {
		return 1
	}
	return 0
}
