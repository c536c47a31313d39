package doctor

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/config"
	"github.com/cardfs/cardfs/drivers/remote/sshfs"
)

// machine is another machine whose readers are attached, as a line "hub" of ctl has it.
type machine struct {
	address, state string
	params         map[string]string
	why            string // it is not there; "" if that is not known
}

// parseMachines reads ctl. In its words an underscore may have been a blank.
func parseMachines(ctl string) (list []machine) {
	for line := range strings.Lines(ctl) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "hub" || f[1] != "remote" {
			continue
		}
		m := machine{address: f[2], state: f[3], params: make(map[string]string)}
		for _, pair := range f[4:] {
			key, value, _ := strings.Cut(pair, "=")
			m.params[key] = value
		}
		m.why = strings.ReplaceAll(m.params["error"], "_", " ")
		list = append(list, m)
	}
	return list
}

// machines looks for machines whose readers cannot be reached. It says what their driver found
// out when it tried, and connects to nobody.
func (e *exam) machines() {
	attached := false
	for _, mnt := range e.mounts {
		for _, m := range mnt.machines {
			attached = true
			waiting := 0
			for _, s := range mnt.slots {
				slot, its := strings.CutPrefix(s.status.Value("device"), m.address+"/")
				if its && !strings.Contains(slot, "/") && s.status.Value("line") == "lost" {
					waiting++
				}
			}
			what := fmt.Sprintf("%s: %s", mnt.dir, m.address)
			if waiting > 0 {
				what = fmt.Sprintf("%s (%d of its readers wait)", what, waiting)
			}
			switch {
			case m.state == "ready":
				e.ok("%s is connected", what)
			case m.why == "":
				e.unknown("", "%s is not connected yet", what)
			default:
				why := m.why
				if strings.Contains(why, unknownKey) {
					why += "; on that machine, ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub prints it"
				}
				e.wrong(e.mendMachine(mnt, m), "%s: %s", what, why)
			}
		}
	}
	if attached || e.program("sshfs") != "" {
		return
	}
	f, err := config.Read(e.path(confFile))
	if err != nil {
		return // check conf has it
	}
	for _, a := range f.Attach {
		if a.Driver == "remote" && sshfs.IsURL(a.Device) {
			e.wrong(e.install("sshfs"), "%s:%d attaches a machine by ssh, and sshfs is not installed", confFile, a.Line)
		}
	}
}

// unknownKey is what package sshfs says of a host key that nobody has compared.
const unknownKey = "is not known: compare its fingerprint"

// missing is how package sshfs names the package of a program.
var missing = regexp.MustCompile(`\(Debian: apt-get install ([a-z0-9.+-]+)\)`)

// mendMachine is a command for what the driver said, by the words of package sshfs. None adds a
// host key that nobody has compared: ssh shows it, and asks.
func (e *exam) mendMachine(mnt mount, m machine) string {
	if pkg := missing.FindStringSubmatch(m.why); pkg != nil {
		return e.install(pkg[1])
	}
	a, err := sshfs.Parse(m.address)
	if err != nil {
		return "" // no way that cardfs has made
	}
	login, port, identity := a.Host, "", m.params["identity"]
	if a.User != "" {
		login = a.User + "@" + a.Host
	}
	if a.Port != 0 {
		port = fmt.Sprintf("-p %d ", a.Port)
	}
	login = quote(login)
	switch {
	case strings.Contains(m.why, unknownKey):
		known := ""
		if file := m.params["known-hosts"]; file != "" {
			known = "-o UserKnownHostsFile=" + quote(file) + " "
		}
		return e.as(mnt.uid, "ssh "+known+port+login+" exit")
	case strings.Contains(m.why, "does not accept the key"):
		key := ""
		if identity != "" {
			key = "-i " + quote(identity) + " "
		}
		return e.as(mnt.uid, "ssh-copy-id "+key+port+login)
	case strings.Contains(m.why, "others than its owner may read the private key") && filepath.IsAbs(identity):
		return e.as(mnt.uid, "chmod 600 "+quote(identity))
	}
	return ""
}

// as makes a command one of that user's.
func (e *exam) as(uid int, command string) string {
	name, _ := e.userName(uid)
	switch {
	case uid == e.User.UID:
		return command
	case uid == 0:
		return e.sudo(command)
	case e.User.Root:
		return "runuser -u " + quote(name) + " -- " + command
	}
	return "sudo -u " + quote(name) + " " + command
}
