package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// goFile is a program that uses a file as Go programs do: after os.Open Go's runtime polls
// files that can be polled.
//
//	gofile deadline FILE   a read that nothing comes for ends at its deadline, one after
//	                       that brings what comes, and Close ends a third
//	gofile copy FILE       io.Copy to a TCP connection, which uses sendfile and splice
//	gofile many FILE N     N goroutines that wait for a line use no thread each
func goFile() {
	if err := goFileRun(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "gofile:", err)
		os.Exit(1)
	}
}

func goFileRun(what, name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	switch what {
	case "copy":
		return goCopy(f)
	case "many":
		return goMany(name)
	}
	buf := make([]byte, 4096)
	drain := func() error {
		for {
			if err := f.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				return err
			}
			if _, err := f.Read(buf); err != nil {
				return err
			}
		}
	}
	if err := drain(); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("at the deadline: %v", err)
	}
	f.SetReadDeadline(time.Time{})
	fmt.Println("waits")
	n, err := f.Read(buf)
	if err != nil {
		return err
	}
	fmt.Printf("%s", buf[:n])
	if err := drain(); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("at the second deadline: %v", err)
	}
	f.SetReadDeadline(time.Time{})
	time.AfterFunc(50*time.Millisecond, func() { f.Close() })
	if _, err := f.Read(buf); !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("closed meanwhile: %v", err)
	}
	fmt.Println("closed")
	return nil
}

func goCopy(f *os.File) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			io.Copy(c, f)
			c.Close()
		}
	}()
	c, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

func goMany(name string) error {
	const n = 300
	var reading, done sync.WaitGroup
	for range n {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		reading.Add(1)
		done.Go(func() {
			buf := make([]byte, 4096)
			f.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			for {
				if _, err := f.Read(buf); err != nil {
					break // what was there is read
				}
			}
			f.SetReadDeadline(time.Time{})
			reading.Done()
			f.Read(buf)
		})
	}
	reading.Wait()
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "Threads:"); ok {
			var threads int
			fmt.Sscan(rest, &threads)
			if threads > 100 {
				return fmt.Errorf("%d threads for %d files", threads, n)
			}
		}
	}
	fmt.Println("all wait")
	done.Wait()
	fmt.Println("all woken")
	return nil
}
