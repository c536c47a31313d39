package doctor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// sandbox looks whether pcscd may use the mounts. From 2.3.2 on its unit has
// ProtectSystem=strict, and from 2.4.0 on it runs as a user of its own.
func (e *exam) sandbox() {
	if e.pcscd == nil {
		return
	}
	if !e.handlerThere() {
		e.ok("pcscd does not have the readers of cardfs (no %s), so that it need not get in", handler)
		return
	}
	u := e.unit(pcscdUnit)
	if !u.found && e.pcscd.running == nil {
		e.ok("pcscd has no systemd unit, and so no sandbox")
		return
	}
	before := len(e.Findings)
	var faults []string
	lines := map[string]string{}
	for _, dir := range e.usedByPcscd() {
		e.mayReach(u, dir, &faults, lines)
	}
	user, root := e.pcscdUser(u)
	group := ourGroup
	if i := slices.IndexFunc(e.mounts, func(m mount) bool { return m.dir == client.Default && m.gid > 0 }); i >= 0 {
		group = e.groupName(e.mounts[i].gid)
	}
	if !root && !slices.Contains(strings.Fields(u.get("SupplementaryGroups")), group) && u.get("Group") != group && !e.inAccounts(user, group) {
		faults = append(faults, "it runs as "+user+", who is not in group "+group)
		lines["SupplementaryGroups"] = group
	}
	if len(faults) > 0 {
		e.wrong(e.dropIn(lines), "pcscd.service may not use the readers: %s", strings.Join(faults, "; "))
	}
	if u.get("NeedDaemonReload") == "yes" {
		e.wrong(e.sudo("systemctl daemon-reload", "systemctl try-restart "+pcscdUnit), "the files of pcscd.service have changed, and systemd has not read them")
	}
	e.mayEnter(user, len(faults) > 0)
	if len(e.Findings) == before {
		sandbox := "without a sandbox"
		if p := u.get("ProtectSystem"); p != "" && p != "no" && p != "false" {
			sandbox = "in a sandbox (ProtectSystem=" + p + ")"
		}
		e.ok("pcscd runs as %s %s, and may use %s", user, sandbox, strings.Join(e.usedByPcscd(), ", "))
	}
}

// usedByPcscd are the mounts that pcscd's handler opens: those in reader.conf, and the one
// that the bundle stands for.
func (e *exam) usedByPcscd() []string {
	dirs := map[string]bool{}
	if e.exists(filepath.Join(e.pcscd.drops, ourBundle)) {
		dirs[client.Default] = true
	}
	for _, n := range e.entries() {
		if n.ours() && filepath.IsAbs(n.device()) {
			dirs[n.mountDir()] = true
		}
	}
	return sortedKeys(dirs)
}

func below(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	})
}

// mayReach looks what keeps a unit from writing to a directory, and which settings mend it.
func (e *exam) mayReach(u unit, dir string, faults *[]string, mend map[string]string) {
	is := func(key string, values ...string) bool { return slices.Contains(values, u.get(key)) }
	if is("ProtectHome", "yes", "true", "tmpfs", "read-only") && below(dir, "/home", "/root", "/run/user") {
		*faults = append(*faults, "ProtectHome="+u.get("ProtectHome")+" hides "+dir)
		mend["ProtectHome"] = "no"
	}
	if is("PrivateTmp", "yes", "true", "disconnected") && below(dir, "/tmp", "/var/tmp") {
		*faults = append(*faults, "PrivateTmp= hides "+dir)
		mend["PrivateTmp"] = "no"
	}
	writable := slices.ContainsFunc(strings.Fields(u.get("ReadWritePaths")), func(p string) bool {
		return below(dir, strings.TrimLeft(p, "-+"))
	})
	if is("ProtectSystem", "strict") && !writable {
		*faults = append(*faults, "ProtectSystem=strict makes "+dir+" read-only")
	}
	if is("ProtectSystem", "strict") {
		mend["ReadWritePaths"] = strings.TrimSpace(mend["ReadWritePaths"] + " -" + dir)
	}
}

// pcscdUser is who pcscd runs as, by its unit or, started without one, as it is.
func (e *exam) pcscdUser(u unit) (name string, root bool) {
	if !u.found && e.pcscd.running != nil {
		name, _ = e.userName(e.pcscd.running.uid)
		return name, e.pcscd.running.uid == 0
	}
	name = u.get("User")
	if name == "" {
		name = "root"
	}
	return name, name == "root" || name == "0"
}

// inAccounts reports whether a user is in a group without any unit's doing.
func (e *exam) inAccounts(user, group string) bool {
	out, err := e.run("id", "-Gn", user)
	return err == nil && slices.Contains(strings.Fields(out), group)
}

// dropIn is a command that adds settings to pcscd.service. The file has a name of its own, for
// one that is called as another takes its place.
func (e *exam) dropIn(settings map[string]string) string {
	const dir = "/etc/systemd/system/pcscd.service.d"
	text := "[Service]"
	for _, key := range sortedKeys(settings) {
		text += " " + quote(key+"="+settings[key])
	}
	mend := e.sudo("mkdir -p "+dir) + ` && printf '%s\n' ` + text + " | " + e.sudo("tee --append "+dir+"/cardfs-local.conf >/dev/null")
	if e.systemd {
		mend += " && " + e.sudo("systemctl daemon-reload", "systemctl try-restart "+pcscdUnit)
	}
	return mend
}

// mayEnter looks whether pcscd may enter the mounts: they may be another user's, and the groups
// of a pcscd that runs are those that it had when it started.
func (e *exam) mayEnter(user string, known bool) {
	used := e.usedByPcscd()
	for _, m := range e.mounts {
		owner, _ := e.userName(m.uid)
		if !slices.Contains(used, m.dir) || owner == user || m.dead() {
			continue
		}
		p := e.pcscd.running
		switch {
		case !m.allowOther:
			e.wrong(e.letIn(m), "%s belongs to %s, who lets nobody else in, not even pcscd", m.dir, owner)
		case p != nil && p.uid != 0 && m.gid > 0 && !known && !slices.Contains(e.groupsOf(p), m.gid):
			e.wrong(e.restartPcscd(), "pcscd (pid %d) runs without group %s, which may use %s: its groups are those of its start", p.pid, e.groupName(m.gid), m.dir)
		}
	}
}

// letIn is a command that mounts again, for others as well. Only the owner knows with which
// readers.
func (e *exam) letIn(m mount) string {
	if m.uid != e.User.UID {
		return ""
	}
	mend := ""
	if m.uid != 0 && !e.allowsOthers() {
		mend = "echo user_allow_other | " + e.sudo("tee --append /etc/fuse.conf >/dev/null") + " && "
	}
	return mend + fmt.Sprintf("fusermount3 -u -z %s && cardfs mount --background --allow-other %[1]s", quote(m.dir))
}
