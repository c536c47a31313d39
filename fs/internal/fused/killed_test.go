package fused

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestKilled(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(child.Process.Pid)
	if killed(pid) || killed(uint32(os.Getpid())) || killed(1) {
		t.Error("somebody who is alive counts as killed")
	}
	child.Process.Kill()
	child.Wait()
	if !killed(pid) {
		t.Error("who is no more does not count as killed")
	}
}

// "SigPnd, ShdPnd: mask (expressed in hexadecimal) of signals pending for thread and for
// process as a whole" (proc_pid_status(5)). SIGKILL is the ninth.
func TestSigkillPending(t *testing.T) {
	const none, kill, others = "0000000000000000", "0000000000000100", "fffffffffffffeff"
	for _, c := range []struct {
		thread, process, blocked string
		want                     bool
	}{
		{none, none, none, false},
		{kill, none, none, true},
		{none, kill, none, true},
		{kill, kill, none, true},
		{"ffffffffffffffff", none, none, true},
		{others, others, none, false},
		{none, none, "ffffffffffffffff", false},
		{"100", none, none, true},
		{"zz100", "", none, false},
	} {
		text := "Name:\tsh\nSigQ:\t0/256\nSigPnd:\t" + c.thread + "\nShdPnd:\t" + c.process + "\nSigBlk:\t" + c.blocked + "\nSigIgn:\t" + c.blocked + "\n"
		if got := sigkillPending([]byte(text)); got != c.want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if sigkillPending(nil) || sigkillPending([]byte("SigPnd")) {
		t.Error("a text that tells nothing")
	}
}

// "It returns the answer, whatever signals come but SIGKILL, which ends it within a
// second: after an interrupt the daemon looks for a pending SIGKILL, answers EINTR, and
// drops the card's answer when it comes." The kernel interrupts once, and the SIGKILL may
// come later.
func TestServeKilled(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	card := make(chan struct{})
	begun := make(chan struct{})
	k := startServer(t, &answers{
		ioctl: func(cancel <-chan struct{}, in, out []byte) fuse.Status {
			begun <- struct{}{}
			<-card
			copy(out, in)
			return fuse.OK
		},
		open: func(<-chan struct{}) fuse.Status { return fuse.OK },
	})
	ask := func(pid int) uint64 {
		r := fuse.IoctlIn{InSize: 1, OutSize: 1}
		r.Pid = uint32(pid)
		unique := k.send(opIoctl, &r.InHeader, bytesOf(&r), []byte{0xA5})
		<-begun
		k.interrupt(unique)
		return unique
	}
	dies, lives, unknown := ask(child.Process.Pid), ask(os.Getpid()), ask(0)
	k.want(k.open(), 0) // nobody got EINTR so far
	child.Process.Kill()
	child.Wait()
	k.want(dies, syscall.EINTR)
	if !k.server.underWay() {
		t.Error("those who live are under way no more")
	}
	for range 3 {
		card <- struct{}{}
	}
	for range 2 {
		unique, errno, data := k.receive()
		if unique != lives && unique != unknown || errno != 0 || data[len(data)-1] != 0xA5 {
			t.Errorf("answer to %d: %v, % X", unique, errno, data)
		}
	}
	k.want(k.open(), 0) // and not the late answer
}

// A single interrupted caller is watched as well as many are, and so is the next one.
func TestServeKilledAlone(t *testing.T) {
	card, begun := make(chan struct{}), make(chan struct{})
	k := startServer(t, &answers{ioctl: func(<-chan struct{}, []byte, []byte) fuse.Status {
		begun <- struct{}{}
		<-card
		return fuse.OK
	}})
	for range 2 {
		child := exec.Command("sleep", "60")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		r := fuse.IoctlIn{}
		r.Pid = uint32(child.Process.Pid)
		dies := k.send(opIoctl, &r.InHeader, bytesOf(&r), nil)
		<-begun
		k.interrupt(dies)
		child.Process.Kill()
		child.Wait()
		k.want(dies, syscall.EINTR)
		card <- struct{}{}
	}
}
