// Package program looks at programs that are about to be run: where they are, and whether the
// dynamic linker will heed the environment for them.
package program

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Program is a file that can be executed.
type Program struct {
	Path string
	// Runs is the file that the kernel runs for it in the end: itself, or a script's
	// interpreter.
	Runs string
	// Machine is what kind of machine Runs is for, as Machine returns it; "" if it cannot be
	// seen.
	Machine string
	// Static says that Runs has no dynamic linker.
	Static bool
}

// Find finds a program by its path, or by its name in PATH. The error is fs.ErrNotExist if
// there is none, and fs.ErrPermission if there is one that cannot be executed.
func Find(name string) (Program, error) {
	path, err := look(name)
	if err != nil {
		return Program{}, err
	}
	p := Program{Path: path, Runs: runs(path)}
	f, err := elf.Open(p.Runs)
	if err != nil {
		return p, nil // not to be read by this user, perhaps
	}
	defer f.Close()
	p.Machine = machine(f)
	p.Static = !slices.ContainsFunc(f.Progs, func(s *elf.Prog) bool { return s.Type == elf.PT_INTERP })
	return p, nil
}

// look is exec.LookPath that finds what execvp(3) finds: in the working directory, too, where
// PATH has that, and whatever cannot be executed is told from what is not there.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, nil
	case strings.Contains(name, "/") && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)):
		return "", fmt.Errorf("%s: no such program: %w", name, fs.ErrNotExist)
	case strings.Contains(name, "/"):
		return "", fmt.Errorf("%s cannot be executed: %w", name, fs.ErrPermission)
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); name != "" && err == nil {
			return "", fmt.Errorf("%s cannot be executed: %w", file, fs.ErrPermission)
		}
	}
	return "", fmt.Errorf("%s: no such program in PATH: %w", name, fs.ErrNotExist)
}

// maxScripts is how often an interpreter may be a script itself (execve(2)).
const maxScripts = 5

const shell = "/bin/sh"

// runs follows the interpreters of scripts, and env(1) to what it runs.
func runs(path string) string {
	for range maxScripts {
		head := make([]byte, 256)
		f, err := os.Open(path)
		if err != nil {
			return path
		}
		n, _ := io.ReadFull(f, head)
		f.Close()
		head = head[:n]
		line, isScript := bytes.CutPrefix(head, []byte("#!"))
		if !isScript {
			if bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
				return path
			}
			path = shell // see Exec
			continue
		}
		line, _, _ = bytes.Cut(line, []byte("\n"))
		words := strings.Fields(string(line))
		if len(words) == 0 {
			return path
		}
		path = words[0]
		if filepath.Base(path) == "env" {
			rest := slices.DeleteFunc(words[1:], func(w string) bool { return w[0] == '-' || strings.Contains(w, "=") })
			if len(rest) > 0 {
				if found, err := look(rest[0]); err == nil {
					path = found
				}
			}
		}
	}
	return path
}

// Exec puts the program in this one's place. It returns only with an error, those of Find
// among them. What the kernel does not know is a script of the shell's, as for execvp(3).
func (p Program) Exec(args, env []string) error {
	err := unix.Exec(p.Path, args, env)
	if err == unix.ENOEXEC {
		err = unix.Exec(shell, append([]string{shell, p.Path}, args[1:]...), env)
	}
	if err == unix.ENOENT { // the file itself was there
		return fmt.Errorf("%s: its interpreter is not there: %w", p.Path, err)
	}
	return fmt.Errorf("%s cannot be executed: %w", p.Path, err)
}

// Privileged says what makes the dynamic linker ignore LD_LIBRARY_PATH for the program, "" if
// nothing does: that it starts with more rights than this process has (ld.so(8),
// secure-execution mode).
func (p Program) Privileged() string {
	var st unix.Stat_t
	var vfs unix.Statfs_t
	if unix.Stat(p.Runs, &st) != nil || unix.Statfs(p.Runs, &vfs) != nil || vfs.Flags&unix.ST_NOSUID != 0 {
		return ""
	}
	if nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && nnp == 1 {
		return ""
	}
	// Without the execute bit of the group, setgid is of mandatory locking.
	const setgid = unix.S_ISGID | unix.S_IXGRP
	caps, _ := unix.Getxattr(p.Runs, "security.capability", nil)
	switch {
	case st.Mode&unix.S_ISUID != 0 && int(st.Uid) != unix.Geteuid():
		return "setuid " + owner(user.LookupId, st.Uid, func(u *user.User) string { return u.Username })
	case st.Mode&setgid == setgid && int(st.Gid) != unix.Getegid():
		return "setgid " + owner(user.LookupGroupId, st.Gid, func(g *user.Group) string { return g.Name })
	case caps > 0 && unix.Getuid() != 0: // root has them all
		return "endowed with file capabilities"
	}
	return ""
}

// owner is the name of a user or a group, or its number.
func owner[T any](lookup func(string) (T, error), id uint32, name func(T) string) string {
	number := strconv.FormatUint(uint64(id), 10)
	if found, err := lookup(number); err == nil {
		return name(found)
	}
	return number
}

var errNoLibrary = errors.New("it is no shared library")

// Machine is what kind of machine a library is for.
func Machine(file string) (string, error) {
	f, err := elf.Open(file)
	var path *fs.PathError
	switch {
	case errors.As(err, &path):
		return "", err
	case err != nil:
		return "", errNoLibrary
	}
	defer f.Close()
	if f.Type != elf.ET_DYN {
		return "", errNoLibrary
	}
	return machine(f), nil
}

func machine(f *elf.File) string {
	bits := "32 bits"
	if f.Class == elf.ELFCLASS64 {
		bits = "64 bits"
	}
	return strings.ToLower(strings.TrimPrefix(f.Machine.String(), "EM_")) + " with " + bits
}

// Complete lists the programs in PATH whose names begin with what was typed.
func Complete(typed string) (names []string) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), typed) {
				if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
					names = append(names, e.Name())
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
