package doctor

import (
	"strings"
	"testing"
)

// hub is a line of ctl, as fs writes it.
func hub(address, state, more, why string) string {
	line := "hub remote " + address + " " + state + more
	if why != "" {
		line += " error=" + strings.ReplaceAll(why, " ", "_")
	}
	return line + "\n"
}

const away = ": permission denied: the way to the reader is interrupted"

func TestMachines(t *testing.T) {
	w := newWorld(t)
	w.programs("sshfs", "apt-get")
	w.account("ann", stranger)
	w.mount("/home/ann/c", "user_id=54321", "state starting\ndevice ssh://bob@lab/mnt/cards/0\nline lost\n", "state starting\ndevice ssh://bob@lab/mnt/cards/1\nline lost\n", "state empty\ndevice /mnt/far/0\nline up\n")
	w.finds("machines", "")
	for _, x := range []struct{ hub, want string }{
		{hub("/mnt/far", "ready", "", ""), `ok /home/ann/c: /mnt/far is connected`},
		{hub("ssh://lab", "starting", "", ""), `unknown /home/ann/c: ssh://lab is not connected yet`},
		{hub("/mnt/far", "starting", "", "nothing is mounted there"), `wrong /home/ann/c: /mnt/far: nothing is mounted there`},
		{hub("ssh://bob@lab/mnt/cards", "starting", "", "ssh: lab refuses the connection: no sshd listens there"),
			`wrong /home/ann/c: ssh://bob@lab/mnt/cards (2 of its readers wait): ssh: lab refuses the connection: no sshd listens there`},
		{hub("ssh://bob@lab:2222", "starting", "", "ssh: the host key of lab is not known: compare its fingerprint with that of the machine"+away),
			`wrong /home/ann/c: ssh://bob@lab:2222: ssh: the host key of lab is not known: compare its fingerprint with that of the machine` + away + `; on that machine, ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub prints it
			> ssh -p 2222 bob@lab exit`},
		{hub("ssh://lab", "starting", " known-hosts=/home/ann/it's", "ssh: the host key of lab is not known: compare its fingerprint"),
			`wrong /home/ann/c: ssh://lab: ssh: the host key of lab is not known: compare its fingerprint; on that machine, ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub prints it
			> ssh -o UserKnownHostsFile='/home/ann/it'\''s' lab exit`},
		// A key that has changed is not taken away by a command that somebody may only copy.
		{hub("ssh://lab", "starting", "", "ssh: the host key of lab is not the one that is known"), `wrong /home/ann/c: ssh://lab: ssh: the host key of lab is not the one that is known`},
		{hub("ssh://bob@lab", "starting", " identity=/home/ann/key", "ssh: lab does not accept the key: add the public key"),
			`wrong /home/ann/c: ssh://bob@lab: ssh: lab does not accept the key: add the public key
			> ssh-copy-id -i /home/ann/key bob@lab`},
		{hub("ssh://lab", "starting", " identity=/home/ann/key", "ssh: others than its owner may read the private key, so ssh does not use it"),
			`wrong /home/ann/c: ssh://lab: ssh: others than its owner may read the private key, so ssh does not use it
			> chmod 600 /home/ann/key`},
		{hub("ssh://lab", "failed", "", "the program fusermount3 is not installed (Debian: apt-get install fuse3): not supported"),
			`wrong /home/ann/c: ssh://lab: the program fusermount3 is not installed (Debian: apt-get install fuse3): not supported
			> sudo apt-get install fuse3`},
		{hub("ssh://-oProxyCommand=x", "starting", "", "ssh: lab does not accept the key"), `wrong /home/ann/c: ssh://-oProxyCommand=x: ssh: lab does not accept the key`},
	} {
		w.file("/home/ann/c/ctl", "instance 0123456789abcdef\ndriver remote slots=2\n"+x.hub+"reader 0 sim t1 empty\n")
		w.finds("machines", x.want)
	}
}

// The daemon's keys are those of the user who runs it.
func TestMachinesOfAnotherUser(t *testing.T) {
	w := newWorld(t)
	w.account("root", 0)
	w.account("bob", stranger+1)
	for _, x := range []struct {
		uid  string
		user User
		want string
	}{
		{"0", w.User, "sudo ssh lab exit"},
		{"54322", w.User, "sudo -u bob ssh lab exit"},
		{"0", User{Name: "root", Root: true}, "ssh lab exit"},
		{"54322", User{Name: "root", Root: true}, "runuser -u bob -- ssh lab exit"},
	} {
		w.User = x.user
		w.file("/proc/self/mountinfo", "")
		w.mount("/mnt/cards", "allow_other,user_id="+x.uid)
		w.file("/mnt/cards/ctl", hub("ssh://lab", "starting", "", "the host key of lab is not known: compare its fingerprint"))
		w.finds("machines", `wrong /mnt/cards: ssh://lab: the host key of lab is not known: compare its fingerprint; on that machine, ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub prints it
			> `+x.want)
	}
}

// A machine in the configuration file needs sshfs, whether or not a cardfs runs.
func TestMachinesInConf(t *testing.T) {
	w := newWorld(t)
	w.programs("apt-get")
	w.file(confFile, "[[attach]]\ndriver = \"remote\"\ndevice = \"/mnt/lab\"\n")
	w.finds("machines", "")
	w.file(confFile, "[[attach]]\ndriver = \"remote\"\ndevice = \"ssh://lab\"\n")
	w.finds("machines", `wrong /etc/cardfs.conf:1 attaches a machine by ssh, and sshfs is not installed
		> sudo apt-get install sshfs`)
	w.programs("sshfs")
	w.finds("machines", "")
}
