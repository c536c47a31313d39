package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/pcapng"
)

// What the interfaces are called: extcapName and a slot's number, or extcapAll.
const (
	extcapName = "cardfs-"
	extcapAll  = "cardfs-all"
)

func newExtcap() *cobra.Command {
	var list, dlts, config, run bool
	var name, fifo string
	cmd := &cobra.Command{
		Use:   "extcap --extcap-interfaces | --extcap-interface NAME …",
		Short: "Show Wireshark the slots as interfaces",
		Long: `extcap is for Wireshark and tshark, which call it by the script cardfs-extcap, where
that is in one of their extcap directories (tshark -G folders names them): then their
lists of interfaces have cardfs-N for each slot, and cardfs-all for all of them, and
capture there as cardfs capture does. extcap(4) describes the options.

The slots are those of the mount that $CARDFS_MOUNT names, else of the only one that
you may enter, and of these the ones whose trace you may read.`,
		Example: `  cardfs extcap --extcap-interfaces
  cardfs extcap --extcap-interface cardfs-0 --extcap-dlts`,
		Args:               args(0, 0, "extcap takes no argument"),
		ValidArgsFunction:  cobra.NoFileCompletions,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}, // newer ones of Wireshark
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&list, "extcap-interfaces", false, "list the interfaces")
	f.StringVar(&name, "extcap-interface", "", "`NAME` of the interface for the other options")
	f.BoolVar(&dlts, "extcap-dlts", false, "say which link type it has")
	f.BoolVar(&config, "extcap-config", false, "list its options: there are none")
	f.BoolVar(&run, "capture", false, "capture")
	f.StringVar(&fifo, "fifo", "", "`FILE` to write to")
	f.String("extcap-version", "", "`VERSION` of Wireshark, which does not matter")
	f.Lookup("extcap-version").NoOptDefVal = "any"
	f.String("extcap-capture-filter", "", "`FILTER`, which does not matter: there is no filter")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out := cmd.OutOrStdout()
		switch {
		case list:
			return listInterfaces(out, *dir)
		case name == "":
			return exit.Usage("extcap is for Wireshark; to capture, see cardfs capture --help")
		case config:
			return nil
		case dlts:
			_, err := fmt.Fprintf(out, "dlt {number=%d}{name=IPV4}{display=Smart-card commands in GSMTAP}\n", pcapng.LinkType)
			return err
		case run && fifo != "":
			return captureInterface(cmd, *dir, name, fifo)
		case run:
			return exit.Usage("--capture needs --fifo")
		}
		return nil
	}
	return cmd
}

// listInterfaces prints what is there. Where nothing is, Wireshark shall not complain.
func listInterfaces(out io.Writer, dir string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "extcap {version=%s}{help=https://github.com/cardfs/cardfs}{display=cardfs}\n", inBraces(versionName()))
	if m, err := client.FindMount(dir); err == nil {
		numbers, _ := m.Numbers()
		any := false
		for _, n := range numbers {
			s := m.Slot(n)
			if readable(s) != nil {
				continue
			}
			any = true
			shown, _ := describe(s)
			fmt.Fprintf(&b, "interface {value=%s%d}{display=Smart card %s}\n", extcapName, n, inBraces(shown))
		}
		if any {
			fmt.Fprintf(&b, "interface {value=%s}{display=Smart cards: all slots}\n", extcapAll)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// inBraces is s without what would end it.
func inBraces(s string) string {
	return strings.NewReplacer("{", "(", "}", ")").Replace(s)
}

// captureInterface writes to the pipe that Wireshark made.
func captureInterface(cmd *cobra.Command, dir, name, fifo string) error {
	number, ours := strings.CutPrefix(name, extcapName)
	if !ours {
		return exit.Usage("no interface %q", name)
	}
	m, err := client.FindMount(dir)
	if err != nil {
		return err
	}
	c := &capture{}
	defer c.Close()
	var slots []client.Slot
	all := m
	if name != extcapAll {
		s, err := m.Find(number)
		if err != nil {
			return err
		}
		slots, all = []client.Slot{s}, nil
	}
	if err := c.open(slots, all, func() (io.WriteCloser, error) {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%s: --fifo names a pipe that is there", fifo)
		}
		return f, err
	}); err != nil {
		return err
	}
	return runWhile(cmd, client.Forever, nil, c.Run)
}
