package soak

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// client is the main function of a client process.
func client(role string, args []string) int {
	var stop atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	// SIGUSR1 is caught, and does nothing but interrupt calls.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1)
	var y tally
	switch role {
	case "opener":
		openers(&y, &stop, args[0])
	case "exchanger":
		exchanger(&y, args[0], atoi(args[1]), args[2])
	case "sequence":
		sequence(&y, args[0], atoi(args[1]))
	case "interrupted":
		interrupted(&y, args[0], atoi(args[1]))
	case "victim":
		victim(&y, args[0], args[1])
	case "blocked":
		blocked(&y, args[0], atoi(args[1]))
	case "weekly":
		weekly(&y, &stop, args[0])
	case "doomed":
		doomedClient(&y, args[0])
	case "follower":
		follower(&y, &stop, args[0])
	}
	json.NewEncoder(os.Stdout).Encode(y.report)
	return 0
}

func atoi(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

// tally collects what a client's goroutines observe.
type tally struct {
	mu sync.Mutex
	report
}

func (y *tally) count(what string) {
	y.mu.Lock()
	if y.Counts == nil {
		y.Counts = make(map[string]int)
	}
	y.Counts[what]++
	y.mu.Unlock()
}

func (y *tally) wrong(format string, args ...any) {
	y.mu.Lock()
	if len(y.Wrong) < 10 {
		y.Wrong = append(y.Wrong, fmt.Sprintf(format, args...))
	}
	y.mu.Unlock()
}

func (y *tally) done() {
	y.mu.Lock()
	y.Done++
	y.mu.Unlock()
}

// random is seeded by the process, so that no two clients are alike.
func random(n int) *rand.Rand { return rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(n))) }

// slots has, for the opener, the answer of the reader with that number.
var slots = []struct{ atr string }{
	{"3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1\n"}, // ikey3k
	{"3B 77 94 00 00 53 49 4D 54 30 90 00\n"},             // t0
	{"3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1\n"}, // ikey3k, starts slowly
}

// removable is the slot whose card is removed and inserted too. An exchange may then also
// report that there is no card, or that it has changed. Its answer may be invalid if the
// card was out and in again during the exchange.
const removable = 1

func exchangeErrors(n int) []syscall.Errno {
	allowed := []syscall.Errno{syscall.ENODEV, syscall.EINTR}
	if n == removable {
		allowed = append(allowed, syscall.ENOMEDIUM, syscall.ESTALE, syscall.EPROTO)
	}
	return allowed
}

// openers open atr and apdu of readers that come and go: each open gives the
// right answer, ENOENT, ENODEV or EINTR.
func openers(y *tally, stop *atomic.Bool, dir string) {
	serials := make([]string, len(slots))
	for i := range slots {
		// The card's serial number tells one reader from another.
		fd, err := rawOpen(fmt.Sprintf("%s/%d/apdu", dir, i), syscall.O_RDWR)
		if err != nil {
			y.wrong("first open of %d: %s", i, name(err))
			return
		}
		serial, err := ioctl(fd, []byte{0x00, 0xCA, 0x00, 0x5A, 0})
		syscall.Close(fd)
		if err != nil || len(serial) < 4 {
			y.wrong("serial number of %d: % X, %v", i, serial, err)
			return
		}
		serials[i] = string(serial)
	}
	os.Stdout.WriteString("{}\n") // ready
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := random(g)
			if g%4 == 3 {
				defer pester(rnd, time.Millisecond)()
			}
			for !stop.Load() {
				n := rnd.IntN(len(slots))
				if rnd.IntN(2) == 0 {
					openATR(y, dir, n)
				} else {
					openAPDU(y, rnd, dir, n, serials[n])
				}
				if rnd.IntN(4) == 0 {
					time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

// ended records the outcome of an open or a later call, and reports success.
func (y *tally) ended(what string, n int, err error, allowed ...syscall.Errno) bool {
	if err == nil {
		return true
	}
	y.count(what + " " + name(err))
	for _, a := range allowed {
		if err == a {
			return false
		}
	}
	y.wrong("slot %d: %s: %s", n, what, name(err))
	return false
}

func openATR(y *tally, dir string, n int) {
	fd, err := rawOpen(fmt.Sprintf("%s/%d/atr", dir, n), syscall.O_RDONLY)
	if !y.ended("open atr", n, err, syscall.ENOENT, syscall.ENODEV, syscall.EINTR) {
		return
	}
	defer syscall.Close(fd)
	got, err := rawRead(fd)
	if !y.ended("read atr", n, err, syscall.ENODEV, syscall.EINTR) {
		return
	}
	if got != slots[n].atr {
		y.wrong("slot %d: its ATR is %q", n, got)
	}
	y.count("atr right")
}

func openAPDU(y *tally, rnd *rand.Rand, dir string, n int, serial string) {
	fd, err := rawOpen(fmt.Sprintf("%s/%d/apdu", dir, n), syscall.O_RDWR)
	if !y.ended("open apdu", n, err, syscall.ENOENT, syscall.ENODEV, syscall.EINTR) {
		return
	}
	defer syscall.Close(fd)
	answer, err := ioctl(fd, []byte{0x00, 0xCA, 0x00, 0x5A, 0})
	if !y.ended("ioctl", n, err, exchangeErrors(n)...) {
		return
	}
	if string(answer) != serial {
		y.wrong("slot %d: the serial number % X", n, answer)
	}
	data := binary.BigEndian.AppendUint64(nil, rnd.Uint64())
	answer, _, err = text(fd, echo(data))
	if !y.ended("write and read", n, err, exchangeErrors(n)...) {
		return
	}
	if !echoed(answer, data) {
		y.wrong("slot %d: echo of % X: % X", n, data, answer)
	}
	y.count("exchanges right")
}

// exchanger does n exchanges, each with its own data. how is ioctl or text.
func exchanger(y *tally, path string, n int, how string) {
	fd, err := rawOpen(path, syscall.O_RDWR)
	if !y.ended("open", 0, err) {
		return
	}
	for i := range n {
		data := binary.BigEndian.AppendUint32(nil, uint32(os.Getpid()))
		data = binary.BigEndian.AppendUint32(data, uint32(i))
		var answer []byte
		if how == "ioctl" {
			answer, err = ioctl(fd, echo(data))
		} else {
			answer, _, err = text(fd, echo(data))
		}
		if err != nil || !echoed(answer, data) {
			y.wrong("exchange %d by %s: % X, %s", i, how, answer, name(err))
			return
		}
		y.done()
	}
}

// sequence takes the transaction n times. Within it the card counts only our commands.
func sequence(y *tally, path string, n int) {
	fd, err := rawOpen(path, syscall.O_RDWR)
	if !y.ended("open", 0, err) {
		return
	}
	for range n {
		if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
			y.wrong("flock: %s", name(err))
			return
		}
		last := 0
		for i := range 4 {
			answer, err := ioctl(fd, counter)
			c, ok := counted(answer)
			if err != nil || !ok || i > 0 && c != last+1 {
				y.wrong("command %d of a transaction: the card counts %d after %d: % X, %s", i, c, last, answer, name(err))
				return
			}
			last = c
		}
		if err := syscall.Flock(fd, syscall.LOCK_UN); err != nil {
			y.wrong("flock -u: %s", name(err))
		}
		y.done()
	}
}

// interrupted exchanges under a storm of signals. Done counts the commands that the card
// must have received: an ioctl that returned an answer, a write that accepted the command.
func interrupted(y *tally, path string, n int) {
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := random(g)
			defer pester(rnd, 300*time.Microsecond)()
			fd, err := rawOpen(path, syscall.O_RDWR)
			for err == syscall.EINTR {
				fd, err = rawOpen(path, syscall.O_RDWR)
			}
			if !y.ended("open", 0, err) {
				return
			}
			for i := range n / 4 {
				data := binary.BigEndian.AppendUint32(nil, rnd.Uint32())
				var answer []byte
				handed := true
				if i%2 == 0 {
					answer, err = ioctl(fd, echo(data))
				} else {
					answer, handed, err = text(fd, echo(data))
				}
				switch {
				case err == nil && echoed(answer, data):
					y.done()
				case err == syscall.EINTR && (i%2 == 0 || !handed):
					y.count("EINTR, nothing sent")
				default:
					y.wrong("exchange %d: % X, %s", i, answer, name(err))
					return
				}
			}
		})
	}
	wg.Wait()
}

// busy is a command that takes 20 ms.
var busy = []byte{0x80, 0xE8, 0x00, 0x02}

// victim announces each action, and acts until it is killed.
func victim(y *tally, dir, how string) {
	out := json.NewEncoder(os.Stdout)
	fd, err := rawOpen(dir+"/0/apdu", syscall.O_RDWR)
	if !y.ended("open", 0, err) {
		return
	}
	for {
		y.Begun++
		out.Encode(y.report)
		switch how {
		case "ioctl":
			_, err = ioctl(fd, busy)
		case "read":
			_, _, err = text(fd, busy)
		case "write":
			_, err = syscall.Write(fd, fmt.Appendf(nil, "%X\n", busy))
			if err == nil {
				_, err = rawRead(fd)
			}
		case "half a line":
			_, err = syscall.Write(fd, []byte("80E8"))
			y.Begun--
		case "lock":
			err = syscall.Flock(fd, syscall.LOCK_EX)
			if err == nil {
				_, err = ioctl(fd, busy)
			}
		case "wait for a lock":
			// Another open of this process holds it.
			holder, _ := rawOpen(dir+"/0/apdu", syscall.O_RDWR)
			syscall.Flock(holder, syscall.LOCK_EX)
			y.Begun--
			out.Encode(y.report)
			err = syscall.Flock(fd, syscall.LOCK_EX)
		case "wait for a transaction":
			holder, _ := rawOpen(dir+"/0/apdu", syscall.O_RDWR)
			syscall.Flock(holder, syscall.LOCK_EX)
			out.Encode(y.report)
			_, err = ioctl(fd, busy)
		case "open":
			y.Begun--
			_, err = rawOpen(dir+"/1/apdu", syscall.O_RDWR) // there is no card
		}
		if err != nil {
			y.wrong("%s: %s", how, name(err))
			return
		}
		y.Done++
	}
}

// blocked opens a file n times at once that cannot be opened now.
func blocked(y *tally, path string, n int) {
	flags := syscall.O_RDONLY
	if filepath.Base(path) == "apdu" {
		flags = syscall.O_RDWR // a read-only open waits for no card
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			fd, err := rawOpen(path, flags)
			y.count(name(err))
			if err == nil {
				syscall.Close(fd)
			}
		})
	}
	wg.Wait()
}
