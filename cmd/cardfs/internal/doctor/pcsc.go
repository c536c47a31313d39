package doctor

import (
	"cmp"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// wholeMachine is the package that puts cardfs's PC/SC library in the place of pcsc-lite's.
const wholeMachine = "libpcsclite1-cardfs"

// pcsc looks whether the library that PC/SC programs use without pcscd can be loaded, and
// whether it will find the mount: at $CARDFS_MOUNT or else at /mnt/cards.
func (e *exam) pcsc() {
	const name = "libpcsclite.so.1"
	whole := e.packaged(wholeMachine)
	var there []string
	for _, dir := range []string{"/usr/local/lib/*-linux-*", "/usr/local/lib64", "/usr/local/lib", "/usr/lib/*-linux-*", "/usr/lib64", "/usr/lib"} {
		there = append(there, e.glob(filepath.Join(dir, "cardfs", name))...)
		if whole {
			there = append(there, e.glob(filepath.Join(dir, name))...)
		}
	}
	loads := false
	for _, lib := range there {
		// ldd loads it as a program would, and lists what it needs (-r: functions, too).
		out, err := e.run("ldd", "-r", lib)
		switch missing := unresolved(out); {
		case errors.Is(err, errNoProgram):
			e.unknown("", "%v", err)
		case err != nil, missing != "":
			mend := e.installOurs("cardfs")
			if whole && filepath.Base(filepath.Dir(lib)) != "cardfs" {
				mend = e.installOurs(wholeMachine)
			}
			e.wrong(mend, "PC/SC programs cannot load %s: %s", lib, cmp.Or(missing, "it is damaged"))
		default:
			loads = true
		}
	}
	if len(there) == 0 {
		e.ok("cardfs's PC/SC library, for programs without pcscd, is not installed")
	}
	if loads {
		e.pcscMount(whole)
	}
}

// unresolved is what ldd could not find for a library.
func unresolved(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "not found") || strings.Contains(line, "undefined symbol") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return ""
}

func (e *exam) pcscMount(whole bool) {
	dir := client.Default
	if named := e.Getenv(client.Env); filepath.IsAbs(named) {
		dir = named
	}
	at := slices.IndexFunc(e.mounts, func(m mount) bool { return m.dir == dir })
	usable := slices.IndexFunc(e.mounts, func(m mount) bool { return m.err == nil })
	switch {
	case at >= 0 && e.mounts[at].err == nil, at < 0 && len(e.glob(dir+"/[0-9]*/status")) > 0:
		e.ok("cardfs's PC/SC library can be loaded, and finds the readers at %s", dir)
	case at >= 0:
		e.warn("", "cardfs's PC/SC library can be loaded, but may not use %s; the line about this mount says why", dir)
	case whole && usable >= 0:
		e.warn("export "+client.Env+"="+quote(e.mounts[usable].dir), "every PC/SC program looks for readers at %s, where no cardfs is mounted", dir)
	case whole:
		e.warn("", "every PC/SC program looks for readers at %s, where no cardfs is mounted: see the service", dir)
	case usable >= 0:
		e.ok("cardfs's PC/SC library can be loaded; cardfs pcsc tells programs of %s", e.mounts[usable].dir)
	default:
		e.ok("cardfs's PC/SC library can be loaded; no cardfs is mounted for it")
	}
}
