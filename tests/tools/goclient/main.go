// Command goclient uses the files of a mount as Go programs do, for the tests.
//
//	goclient exchange FILE COMMAND…   a write and a read each
//	goclient tcp FILE COMMAND…        io.Copy of the answers to a TCP connection
//	goclient deadline FILE            reads events; then a read with a deadline
//	goclient sync FILE WORD           a write and fsync(2)
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(how, name string, words []string) error {
	flags := os.O_RDWR
	if how == "deadline" {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	switch how {
	case "exchange":
		for _, w := range words {
			if _, err := f.WriteString(w + "\n"); err != nil {
				return err
			}
			n, err := f.Read(buf)
			if err != nil {
				return err
			}
			os.Stdout.Write(buf[:n])
		}
		return nil
	case "tcp":
		if _, err := f.WriteString(strings.Join(words, "\n") + "\n"); err != nil {
			return err
		}
		return copyToTCP(f)
	case "deadline":
		n, err := f.Read(buf)
		if err != nil {
			return err
		}
		if strings.Contains(string(buf[:n]), "arrived") {
			fmt.Println("arrived")
		}
		if err := f.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		for err == nil {
			_, err = f.Read(buf)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			fmt.Println("i/o timeout")
			return nil
		}
		return err
	case "sync":
		if _, err := f.WriteString(words[0]); err != nil {
			return err
		}
		return f.Sync()
	}
	return fmt.Errorf("no way %q", how)
}

// copyToTCP copies by sendfile or splice, as io.Copy chooses, and prints what arrives.
func copyToTCP(f *os.File) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			_, err = io.Copy(os.Stdout, c)
		}
		done <- err
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	if _, err := io.Copy(c, f); err != nil {
		return err
	}
	c.Close()
	return <-done
}
