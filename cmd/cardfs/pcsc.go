package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/program"
)

// pcscLibrary is the name by which PC/SC programs look for their library.
const pcscLibrary = "libpcsclite.so.1"

// Exit codes of pcsc beside those of COMMAND and of cardfs, as env(1) and shells have them.
const (
	notExecutable = 126
	notFound      = 127
)

func newPCSC() *cobra.Command {
	var lib string
	cmd := &cobra.Command{
		Use:   "pcsc [flags] COMMAND [ARG...]",
		Short: "Run a PC/SC program on the mounted readers, without pcscd",
		Long: `pcsc runs COMMAND with cardfs's own ` + pcscLibrary + ` in place of the machine's, so that
it uses the mounted readers without pcscd. COMMAND is looked for in PATH; it takes the
place of cardfs, with the same process id, and its exit code and signals are its own.
What it starts uses the library as well.

To that end COMMAND has in its environment

  LD_LIBRARY_PATH   the library's directory, before what is there
  CARDFS_MOUNT      where the readers are, from --mount

The dynamic linker ignores LD_LIBRARY_PATH for a program that is setuid, setgid, or has
file capabilities, and a statically linked program has no dynamic linker. pcsc says so, and
runs COMMAND nevertheless. For such programs, and for services, there are other ways, and a
package that replaces the library for the whole machine: man libpcsclite-cardfs.

A program that runs already keeps its environment: gpg's scdaemon ends by gpgconf --kill
scdaemon.

The exit code is 126 if COMMAND cannot be executed, 127 if there is none, and 1 if it
was not started, since there is no library, or no mount that this user may enter.`,
		Example: `  cardfs pcsc opensc-tool --list-readers
  cardfs pcsc --mount cards pkcs11-tool --list-slots`,
		Args: args(1, -1, "pcsc needs a command"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 || strings.Contains(typed, "/") {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return program.Complete(typed), noFiles
		},
	}
	dir := mountFlag(cmd)
	cmd.Flags().StringVar(&lib, "lib", "", "`FILE` of the library (default: the one beside this program, else the installed one)")
	cmd.Flags().SetInterspersed(false) // what stands behind COMMAND is its own
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := program.Find(args[0])
		if err != nil {
			return notRun(err)
		}
		where, err := pcscDirectory(lib, p)
		if err != nil {
			return err
		}
		slots, err := client.FindSlots(*dir)
		if err != nil {
			return err
		}
		tellInVain(cmd.ErrOrStderr(), p)
		path := where
		if old := os.Getenv("LD_LIBRARY_PATH"); old != "" {
			path += ":" + old
		}
		return notRun(p.Exec(args, environment("LD_LIBRARY_PATH="+path, client.Env+"="+slots)))
	}
	return cmd
}

// notRun is an error of a program that was not run, with its exit code.
func notRun(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return exit.Status{Code: notFound, Err: err}
	}
	return exit.Status{Code: notExecutable, Err: err}
}

// environment is that of this process with these settings.
func environment(settings ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(old string) bool {
		return slices.ContainsFunc(settings, func(s string) bool {
			name, _, _ := strings.Cut(s, "=")
			return strings.HasPrefix(old, name+"=")
		})
	})
	return append(env, settings...)
}

// pcscDirectory is the directory of the library that program p can load: that of lib unless it
// is empty, else one of those where make build and make install put it.
func pcscDirectory(lib string, p program.Program) (string, error) {
	files := pcscLibraries()
	if lib != "" {
		if filepath.Base(lib) != pcscLibrary {
			return "", exit.Usage("--lib %s: programs look for a file named %s", lib, pcscLibrary)
		}
		files = []string{lib}
	}
	var other error
	for _, file := range files {
		switch machine, err := program.Machine(file); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			other = cmp.Or(other, fmt.Errorf("%s is no library that can be loaded: %w; install it anew, or name another by --lib", file, err))
		case p.Machine != "" && machine != p.Machine:
			other = cmp.Or(other, fmt.Errorf("%s is a program for %s, and cannot load %s, which is for %s; name one for it by --lib", p.Path, p.Machine, file, machine))
		default:
			dir, err := filepath.Abs(filepath.Dir(file))
			if err == nil && strings.ContainsAny(dir, ":;$") {
				err = exit.Usage("%s: LD_LIBRARY_PATH takes no directory with : ; or $ in its name; copy the library to another", dir)
			}
			return dir, err
		}
	}
	switch {
	case other != nil:
		return "", other
	case lib != "":
		return "", fmt.Errorf("there is no %s; make build makes it, in build/pcsc", lib)
	}
	return "", fmt.Errorf("cardfs's %s is neither beside this program nor installed; run make install, or name it by --lib", pcscLibrary)
}

// pcscLibraries lists the files that may be the library, in the order in which they are taken:
// that of a source tree first, then those that belong to this program's prefix.
func pcscLibraries() (files []string) {
	prefixes := []string{"/usr/local", "/usr"}
	if self, err := os.Executable(); err == nil {
		bin := filepath.Dir(self)
		files = append(files, filepath.Join(bin, "pcsc", pcscLibrary))
		prefixes = append([]string{filepath.Dir(bin)}, prefixes...)
	}
	for _, prefix := range prefixes {
		for _, dir := range []string{"lib/*-linux-*", "lib64", "lib"} {
			found, _ := fs.Glob(os.DirFS(prefix), dir+"/cardfs/"+pcscLibrary)
			for _, name := range found {
				files = append(files, filepath.Join(prefix, name))
			}
		}
	}
	return files
}

// tellInVain says why a program will not take the library.
func tellInVain(stderr io.Writer, p program.Program) {
	what := p.Path
	if p.Runs != p.Path {
		what += " is run by " + p.Runs + ", which"
	}
	if why := p.Privileged(); why != "" {
		fmt.Fprintf(stderr, "cardfs: %s is %s, so that LD_LIBRARY_PATH is ignored and it gets the machine's %s; run a copy of it made by cp, which is not, or install libpcsclite1-cardfs, which serves every program\n",
			what, why, pcscLibrary)
	} else if p.Static {
		fmt.Fprintf(stderr, "cardfs: %s is statically linked, so that it loads no %s, but perhaps what it starts does; link it dynamically\n", what, pcscLibrary)
	}
}
