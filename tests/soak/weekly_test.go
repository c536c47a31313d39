package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/hex"
)

// use is what a client did with a slot, in the words of `stats`.
type use struct {
	Exchanges, Sent, Got, Opens, Resets int
	Errors                              map[string]int
}

func (u *use) add(v *use) {
	u.Exchanges += v.Exchanges
	u.Sent += v.Sent
	u.Got += v.Got
	u.Opens += v.Opens
	u.Resets += v.Resets
	for name, n := range v.Errors {
		u.error(name, n)
	}
}

func (u *use) error(name string, n int) {
	if u.Errors == nil {
		u.Errors = make(map[string]int)
	}
	u.Errors[name] += n
}

// stats returns u in the form of `stats`.
func (u *use) stats() map[string]int {
	m := map[string]int{
		"exchanges": u.Exchanges, "bytes-to-card": u.Sent, "bytes-from-card": u.Got,
		"opens": u.Opens, "resets-warm": u.Resets, "errors": 0,
	}
	for name, n := range u.Errors {
		m["error-"+name] = n
		m["errors"] += n
	}
	return m
}

// user is a goroutine that uses slots, and counts what it does.
type user struct {
	*tally
	dir  string
	rnd  *rand.Rand
	slot int
	use  *use // of the slot
	uses map[int]*use
}

// weekly is a client of TestWeek: eight goroutines do random things with random readers.
func weekly(y *tally, stop *atomic.Bool, dir string) {
	y.Uses = make(map[int]*use)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			u := &user{tally: y, dir: dir, rnd: random(g), uses: make(map[int]*use)}
			for !stop.Load() {
				slot := u.rnd.IntN(weekReaders)
				if u.rnd.IntN(2) == 0 {
					slot %= 20 // where there are others
				}
				if u.pick(slot); u.slot%10 != doomed {
					u.something()
				}
				time.Sleep(time.Duration(u.rnd.IntN(2000)) * time.Microsecond)
			}
			y.mu.Lock()
			defer y.mu.Unlock()
			for slot, use := range u.uses {
				if y.Uses[slot] == nil {
					y.Uses[slot] = use
				} else {
					y.Uses[slot].add(use)
				}
			}
		})
	}
	wg.Wait()
}

// doomedClient is killed during these: exchanges, transactions, opens of readers that come
// and go.
func doomedClient(y *tally, dir string) {
	json.NewEncoder(os.Stdout).Encode(y.report)
	for g := range 8 {
		go func() {
			u := &user{tally: y, dir: dir, rnd: random(g), uses: make(map[int]*use)}
			for {
				u.pick(u.rnd.IntN(weekReaders/10)*10 + []int{moving, doomed}[u.rnd.IntN(2)])
				u.something()
			}
		}()
	}
	select {}
}

func (u *user) pick(slot int) {
	u.slot, u.use = slot, u.uses[slot]
	if u.use == nil {
		u.use = new(use)
		u.uses[slot] = u.use
	}
}

// something does one thing that a client may do.
func (u *user) something() {
	things := []func(){u.text, u.text, u.ioctl, u.ioctl, u.binary, u.transaction, u.reset, u.nonsense, u.look, u.events}
	things[u.rnd.IntN(len(things))]()
}

// ok counts how a call ended, and reports success. A reader that stays may be reset by
// another client; one that moves may be gone or without its card.
func (u *user) ok(what string, err error, allowed ...syscall.Errno) bool {
	if err == nil {
		return true
	}
	u.use.error(name(err), 1)
	u.count(name(err))
	if u.slot%10 == moving {
		allowed = append(allowed, syscall.ENOENT, syscall.ENODEV, syscall.ENOMEDIUM, syscall.EPROTO, syscall.ESTALE)
	}
	for _, a := range append(allowed, syscall.ESTALE) {
		if err == a {
			return false
		}
	}
	u.wrong("slot %d, a %s: %s: %s", u.slot, weekDevice(u.slot), what, name(err))
	return false
}

// open opens a file of the slot. With waits, `stats` counts the open.
func (u *user) open(file string, flags int, waits bool, allowed ...syscall.Errno) (fd int, ok bool) {
	fd, err := rawOpen(fmt.Sprintf("%s/%d/%s", u.dir, u.slot, file), flags)
	if waits {
		u.use.Opens++
	}
	return fd, u.ok("open "+file, err, allowed...)
}

// exchanged counts and checks an exchange of data, and reports whether another may follow.
func (u *user) exchanged(how string, data, answer []byte, err error) bool {
	if !u.ok(how, err) {
		return false
	}
	u.use.Exchanges++
	u.use.Sent += len(echo(data))
	u.use.Got += len(answer)
	u.count(how)
	if !echoed(answer, data) {
		u.wrong("slot %d: %s of % X: % X", u.slot, how, data, answer)
	}
	return true
}

func (u *user) data() []byte {
	data := make([]byte, 1+u.rnd.IntN(250))
	for i := range data {
		data[i] = byte(u.rnd.Uint32())
	}
	return data
}

func (u *user) text() {
	fd, ok := u.open("apdu", syscall.O_RDWR, true)
	if !ok {
		return
	}
	defer syscall.Close(fd)
	for range 1 + u.rnd.IntN(4) {
		data := u.data()
		answer, _, err := text(fd, echo(data))
		if !u.exchanged("text", data, answer, err) {
			return
		}
	}
}

func (u *user) ioctl() {
	fd, ok := u.open("apdu", syscall.O_RDWR, true)
	if !ok {
		return
	}
	defer syscall.Close(fd)
	for range 1 + u.rnd.IntN(8) {
		data := u.data()
		answer, err := ioctl(fd, echo(data))
		if !u.exchanged("ioctl", data, answer, err) {
			return
		}
	}
}

func (u *user) binary() {
	fd, ok := u.open("apdu", syscall.O_RDWR, true)
	if !ok {
		return
	}
	defer syscall.Close(fd)
	// CARDFS_BINARY of cardfs.h
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), 0xCF<<8|2, 0); errno != 0 {
		u.ok("CARDFS_BINARY", errno)
		return
	}
	for range 1 + u.rnd.IntN(4) {
		data := u.data()
		if _, err := syscall.Write(fd, echo(data)); !u.ok("write", err) {
			return
		}
		answer, err := rawRead(fd)
		if !u.exchanged("binary", data, []byte(answer), err) {
			return
		}
	}
}

// transaction has the card to itself: no other command comes between its own.
func (u *user) transaction() {
	fd, ok := u.open("apdu", syscall.O_RDWR, true)
	if !ok {
		return
	}
	defer syscall.Close(fd) // which also ends the transaction
	if err := syscall.Flock(fd, syscall.LOCK_EX); !u.ok("flock", err) {
		return
	}
	last := 0
	for i := range 2 + u.rnd.IntN(3) {
		answer, err := ioctl(fd, counter)
		if !u.ok("in a transaction", err) {
			return
		}
		u.use.Exchanges++
		u.use.Sent += len(counter)
		u.use.Got += len(answer)
		n, ok := counted(answer)
		if !ok || i > 0 && n != last+1 && u.slot%10 != moving {
			u.wrong("slot %d: in a transaction the card counts %d after %d: % X", u.slot, n, last, answer)
		}
		last = n
		u.count("flock")
	}
	if u.rnd.IntN(2) == 0 {
		u.ok("flock -u", syscall.Flock(fd, syscall.LOCK_UN))
	}
}

// reset resets the security state of everyone who has the card open.
func (u *user) reset() {
	if u.rnd.IntN(4) > 0 {
		return
	}
	fd, ok := u.open("power", syscall.O_WRONLY, true)
	if !ok {
		return
	}
	defer syscall.Close(fd)
	if _, err := syscall.Write(fd, []byte("reset\n")); u.ok("reset", err, syscall.EBUSY) {
		u.use.Resets++
		u.count("reset")
	}
}

// nonsense is refused, and no byte of it is sent.
func (u *user) nonsense() {
	fd, ok := u.open("apdu", syscall.O_RDWR|syscall.O_NONBLOCK, true, syscall.EAGAIN)
	if !ok {
		return
	}
	defer syscall.Close(fd)
	for _, line := range []string{"no hex\n", "00A4\n", hex.Spaced(echo(u.data())) + " 00 00 00\n"} {
		if _, err := syscall.Write(fd, []byte(line)); err == nil {
			u.wrong("slot %d: %q was taken", u.slot, line)
		} else {
			u.ok("nonsense", err, syscall.EINVAL)
		}
	}
}

func (u *user) look() {
	for _, file := range []string{"atr", "status", "stats"} {
		fd, ok := u.open(file, syscall.O_RDONLY, file == "atr")
		if !ok {
			return
		}
		got, err := rawRead(fd)
		syscall.Close(fd)
		if u.ok("read "+file, err) && !strings.HasSuffix(got, "\n") {
			u.wrong("slot %d: %s says %q", u.slot, file, got)
		}
		u.count("look")
	}
}

// events follows a slot for a moment. The present state comes at once.
func (u *user) events() {
	fd, ok := u.open("event", syscall.O_RDONLY|syscall.O_NONBLOCK, false)
	if !ok {
		return
	}
	defer syscall.Close(fd)
	for i := range 1 + u.rnd.IntN(3) {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20)
		if n == 0 {
			if i == 0 {
				u.wrong("slot %d has no events", u.slot)
			}
			continue
		}
		if _, err := rawRead(fd); !u.ok("read event", err) {
			return
		}
		u.count("event")
	}
}

// follower reads the events of all slots. Each event names its slot.
func follower(y *tally, stop *atomic.Bool, dir string) {
	fd, err := rawOpen(dir+"/event", syscall.O_RDONLY|syscall.O_NONBLOCK)
	if !y.ended("open event", -1, err) {
		return
	}
	y.Counts = make(map[string]int)
	json.NewEncoder(os.Stdout).Encode(report{}) // ready
	last, rest := 0, ""
	for {
		ended := stop.Load() // what came before that is still read
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100); n == 0 {
			if ended {
				return
			}
			continue
		}
		got, err := rawRead(fd)
		if err == syscall.EINTR || err == syscall.EAGAIN {
			continue
		}
		if !y.ended("read event", -1, err) {
			return
		}
		rest += got
		for {
			line, more, whole := strings.Cut(rest, "\n")
			if !whole {
				break
			}
			rest = more
			var seq int
			var slot, what string
			if n, _ := fmt.Sscan(line, &seq, &slot, &what); n < 2 || seq <= last {
				y.wrong("event %q after %d", line, last)
			}
			last = seq
			if i := strings.Index(line, "lost="); i >= 0 {
				what = "lost"
			}
			y.count(what)
		}
	}
}
