package doctor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// mount is a cardfs in the mount table, and what a client sees of it.
type mount struct {
	dir        string
	uid        int // of the user who mounted it
	allowOther bool
	answer
}

// answer is what the files of a mount say.
type answer struct {
	err      error // why it cannot be used; errHangs if nobody answers
	gid      int   // of its files, -1 if not known
	slots    []slot
	machines []machine
}

// slot is what a slot's status file says.
type slot struct {
	number int
	status client.Status
}

var errHangs = errors.New("it does not answer")

// findMounts lists the mounts of this mount namespace, but no slots that were bound alone, nor
// what others are mounted over.
func (e *exam) findMounts() []mount {
	table, err := os.Open(e.path("/proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	defer table.Close()
	infos, _ := mountinfo.GetMountsFromReader(table, mountinfo.FSTypeFilter("fuse.cardfs"))
	var list []mount
	for _, m := range client.Reachable(infos) {
		uid, _ := strconv.Atoi(m.UID)
		list = append(list, mount{dir: m.Dir, uid: uid, allowOther: m.AllowOther})
	}
	// They are asked at the same time: each may hang.
	answers := make([]chan answer, len(list))
	for i, m := range list {
		answers[i] = make(chan answer, 1)
		go func() { answers[i] <- lookInto(e.path(m.dir)) }()
	}
	late := time.After(mountTime)
	for i := range list {
		select {
		case list[i].answer = <-answers[i]:
		case <-late:
			list[i].answer = answer{err: errHangs, gid: -1}
			late = time.After(0)
		}
	}
	return list
}

// lookInto reads what the files of a mount say.
func lookInto(dir string) answer {
	m := &client.Mount{Dir: dir}
	s := answer{gid: -1, err: m.Enter()}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		s.gid = int(st.Gid)
	}
	if s.err != nil {
		return s
	}
	numbers, err := survey.Numbers(dir)
	if err != nil {
		s.err = err
		return s
	}
	for _, n := range numbers {
		status, err := m.Slot(n).Status()
		if errors.Is(err, os.ErrPermission) {
			s.err = err
			return s
		}
		s.slots = append(s.slots, slot{n, status})
	}
	ctl, _ := os.ReadFile(filepath.Join(dir, "ctl"))
	s.machines = parseMachines(string(ctl))
	return s
}

func (m mount) dead() bool {
	return errors.Is(m.err, syscall.ENOTCONN) || errors.Is(m.err, syscall.ECONNABORTED)
}

// mountPoints looks whether the mounts live and whether the user may enter them.
func (e *exam) mountPoints() {
	var usable []string
	for _, m := range e.mounts {
		owner, _ := e.userName(m.uid)
		switch {
		case m.err == nil:
			usable = append(usable, m.dir)
			e.ok("%s is mounted by %s, and %s may use it; slots: %d", m.dir, owner, e.User.Name, len(m.slots))
		case m.dead():
			e.wrong(e.unmount(m), "%s is what a cardfs that was killed has left: every access to it fails", m.dir)
		case errors.Is(m.err, errHangs):
			e.wrong(e.unmount(m), "the cardfs at %s does not answer", m.dir)
		case errors.Is(m.err, os.ErrPermission):
			e.forbidden(m, owner)
		default:
			e.wrong(e.unmount(m), "%s: %v", m.dir, m.err)
		}
	}
	e.choice(usable)
}

// unmount is a command that takes a mount away, whoever is in it.
func (e *exam) unmount(m mount) string {
	u := e.unit(cardfsUnit)
	switch {
	case e.systemd && u.get("ActiveState") == "active" && m.dir == client.Default:
		return e.sudo("systemctl restart " + cardfsUnit)
	case m.uid == e.User.UID && e.User.UID != 0:
		return "fusermount3 -u -z " + quote(m.dir)
	}
	return e.sudo("umount --lazy " + quote(m.dir))
}

// forbidden is for a mount that the user may not enter.
func (e *exam) forbidden(m mount, owner string) {
	// Somebody's private mount is nobody else's business, unless clients are told to take it.
	say := e.warn
	if m.dir == client.Default || m.dir == e.Getenv(client.Env) {
		say = e.wrong
	}
	if !m.allowOther {
		say("", "%s belongs to %s, who lets nobody else in: that takes mount --allow-other, and --group or --mode", m.dir, owner)
		return
	}
	if m.gid > 0 {
		switch group := e.groupName(m.gid); e.inGroup(m.gid) {
		case outside:
			say(e.sudo("usermod --append --groups "+quote(group)+" "+quote(e.User.Name)),
				"%s is for group %s, and %s is not in it; it takes effect at the next login", m.dir, group, e.User.Name)
			return
		case stale:
			say("newgrp "+quote(group), "%s is for group %s, and %s is in it, but not since this login: log out and in again, or open a shell that has it", m.dir, group, e.User.Name)
			return
		}
	}
	say("", "%s belongs to %s, whose --mode lets %s not in", m.dir, owner, e.User.Name)
}

// choice looks whether clients find one mount, and not several.
func (e *exam) choice(usable []string) {
	named := e.Getenv(client.Env)
	there := slices.ContainsFunc(e.mounts, func(m mount) bool { return m.dir == named })
	switch {
	case named != "" && !there && len(usable) > 0:
		e.wrong(fmt.Sprintf("export %s=%s", client.Env, quote(usable[0])), "%s names %s, where no cardfs is mounted", client.Env, named)
	case named != "" && !there:
		e.wrong("cardfs mount --background "+quote(named), "%s names %s, where no cardfs is mounted", client.Env, named)
	case named == "" && len(usable) > 1:
		e.warn(fmt.Sprintf("export %s=%s", client.Env, quote(usable[0])), "cardfs is mounted at %s: commands have to be told which", strings.Join(usable, ", "))
	case len(e.mounts) == 0 && e.systemd && e.unit(cardfsUnit).found:
		e.wrong(e.sudo("systemctl restart "+cardfsUnit), "no cardfs is mounted")
	case len(e.mounts) == 0:
		e.warn("mkdir -p cards && cardfs mount --background cards", "no cardfs is mounted")
	}
}

// slots looks for readers that did not start.
func (e *exam) slots() {
	for _, m := range e.mounts {
		for _, s := range m.slots {
			if s.status.Value("state") != "failed" {
				continue
			}
			mend := fmt.Sprintf("cardfs detach --mount %s %d", quote(m.dir), s.number)
			if s.status.Value("bus") == "usb" { // it is announced anew
				mend = fmt.Sprintf("echo rescan | %s", e.write(filepath.Join(m.dir, "ctl")))
			}
			e.wrong(mend, "%s/%d: %s failed: %s", m.dir, s.number, s.status.Value("driver"), s.status.Value("error"))
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
