package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// exitMount is what mount(8) calls "mount failure".
const exitMount = 32

// mountHelpers are the names by which mount(8) looks for a helper, for the types fuse.cardfs
// and cardfs.
var mountHelpers = []string{"mount.fuse.cardfs", "mount.cardfs"}

// mountSource is the first word of a line in fstab. The kernel's table shows it as well, and
// by it mount(8) and findmnt(8) find that the line is mounted already.
const mountSource = "cardfs"

// helperName is the name of the mount helper as which this program was called, "" if it was
// not.
func helperName(argv0 string) string {
	if name := filepath.Base(argv0); slices.Contains(mountHelpers, name) {
		return name
	}
	return ""
}

// runMountHelper is the whole program when mount(8) calls it:
//
//	mount.TYPE SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTION,…] [-t TYPE]
func runMountHelper(ctx context.Context, name string, args []string, stdout, stderr io.Writer) int {
	if os.Getenv("PATH") == "" { // mount(8) takes it away from users, who need fusermount3
		os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	}
	cmd := newMountHelper(name)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		if status := (exit.Status{}); !errors.As(err, &status) || status.Err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", name, err)
		}
		return exitMount
	}
	return exit.OK
}

func newMountHelper(name string) *cobra.Command {
	var sloppy, fake, verbose bool
	var namespace string
	var lists []string
	cmd := &cobra.Command{
		Use:   name + " cardfs DIR [-sfnv] [-o OPTION,…]",
		Short: "Mount smart-card readers as files, for mount(8)",
		Long: `mount(8) calls this for "mount -t fuse.cardfs cardfs DIR" and for lines of fstab. It mounts
the readers at DIR as cardfs mount --background does, and its options are those of cardfs
mount, with _ or - in their names: allow_other,group=cardfs,sim=ikey3k. mount.cardfs(8) has
more.`,
		Args:          cobra.ExactArgs(2),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case namespace != "":
				return fmt.Errorf("-N %s: not done here; this does it: nsenter --mount=NAMESPACE mount -t fuse.cardfs …", namespace)
			case filepath.Base(args[0]) != mountSource: // mount(8) makes a path of what is there
				return fmt.Errorf("%q: what is mounted is called %s: mount -t fuse.cardfs %s %s", args[0], mountSource, mountSource, args[1])
			}
			words, err := mountWords(lists, sloppy)
			if err != nil {
				return err
			}
			how := "--background"
			if fake {
				how = "--check"
			}
			words = append(append([]string{"mount", how}, words...), "--", args[1])
			if verbose {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: cardfs %s\n", name, strings.Join(words, " "))
			}
			if fake {
				if code := run(cmd.Context(), words, nil, cmd.OutOrStdout(), cmd.ErrOrStderr()); code != exit.OK {
					return exit.Status{Code: code} // it has said why
				}
				return nil
			}
			return inBackground(cmd.Context(), words, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&sloppy, "sloppy", "s", false, "take unknown options for options of something else")
	f.BoolVarP(&fake, "fake", "f", false, "check the options, and mount nothing")
	f.BoolVarP(&verbose, "verbose", "v", false, "say what is done")
	f.StringArrayVarP(&lists, "options", "o", nil, "`OPTION,…`: those of cardfs mount, and of mount(8)")
	f.StringVarP(&namespace, "namespace", "N", "", "refused")
	f.BoolP("no-mtab", "n", false, "nothing: there is no mtab")
	f.StringP("types", "t", "", "the type, fuse.`cardfs`")
	return cmd
}

// mountersOwn are options that mount(8) itself acts on, or that say nothing about a file
// system whose files are no programs, no devices and have no time of access. The line of
// fstab is passed to helpers with most of them.
var mountersOwn = []string{
	"rw", "defaults", "auto", "noauto", "nofail", "_netdev", "silent", "loud",
	"user", "users", "nouser", "owner", "noowner", "group", "nogroup", "uhelper", "helper", "comment",
	"exec", "noexec", "suid", "nosuid", "dev", "nodev", "symfollow", "nosymfollow",
	"async", "sync", "dirsync", "mand", "nomand",
	"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
	"lazytime", "nolazytime", "iversion", "noiversion",
}

// withheld are options of mount(8) that cannot be done, and why.
var withheld = map[string]string{
	"ro":      "a card is used by writing to its files; to let others only read: mode=0640",
	"remount": "options are for the whole life of a mount; umount it, and mount it again",
	"bind":    "mount --bind does that, without a type",
}

// mountWords makes flags of `cardfs mount` of the lists that -o had. That they have no
// sense together, or a value none, is found by mount.
func mountWords(lists []string, sloppy bool) (words []string, err error) {
	flags := newMount().Flags()
	for option := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		name, value, valued := strings.Cut(option, "=")
		flag := flags.Lookup(strings.ReplaceAll(name, "_", "-"))
		switch {
		case option == "", strings.HasPrefix(name, "x-"), strings.HasPrefix(name, "X-"):
		// group is an option of mount(8), and group=GROUP is one of cardfs.
		case !(name == "group" && valued) && slices.Contains(mountersOwn, name):
		case withheld[name] != "":
			return nil, fmt.Errorf("option %s: %s", name, withheld[name])
		case strings.ContainsRune(option, '"'):
			return nil, fmt.Errorf("option %s: quotation marks are not taken away here; such a value belongs into a configuration file (config=FILE)", name)
		case flag == nil || slices.Contains(notForHelper, flag.Name):
			if !sloppy {
				return nil, fmt.Errorf("unknown option %q; cardfs mount --help lists them, and a value with a comma belongs into a configuration file (config=FILE)", name)
			}
		case valued:
			words = append(words, "--"+flag.Name+"="+value)
		case flag.NoOptDefVal != "":
			words = append(words, "--"+flag.Name)
		default:
			return nil, fmt.Errorf("option %s: a value is wanted: %s=…", name, name)
		}
	}
	return words, nil
}

// notForHelper are flags of `cardfs mount` that are no options of a mount.
var notForHelper = []string{"background", "check", "help"}
