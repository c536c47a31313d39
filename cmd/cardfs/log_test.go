package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Logging never waits for the log's reader. A pipe that nobody reads takes 64 KiB, and the
// rest is lost. The log says so where it goes on.
func TestSpoolNeverWaits(t *testing.T) {
	r, w := io.Pipe() // takes nothing
	s := newSpooled(w)
	log := slog.New(slog.NewTextHandler(s, nil))
	for i := range spoolSize + 100 {
		log.Info("line", "n", i)
	}
	read := make(chan string)
	go func() {
		var out bytes.Buffer
		buf := make([]byte, 1<<16)
		for !strings.Contains(out.String(), "last") {
			n, err := r.Read(buf)
			if err != nil {
				break
			}
			out.Write(buf[:n])
		}
		read <- out.String()
	}()
	s.flush()
	log.Info("last")
	got := <-read
	var lost int
	for line := range strings.Lines(got) {
		fmt.Sscanf(line, "cardfs: %d lines of the log were lost here", &lost)
	}
	if n := strings.Count(got, "msg=line"); lost == 0 || n+lost != spoolSize+100 {
		t.Errorf("%d lines came, %d are said to be lost, of %d", n, lost, spoolSize+100)
	}
	if !strings.Contains(got, "n=0\n") {
		t.Error("the first line is lost")
	}
}

// A log file is appended to, and not readable by everybody. It has all lines that its level
// lets through, including the last.
func TestLogFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	for _, x := range []struct {
		level slog.Level
		lines int
	}{{slog.LevelInfo, 1}, {slog.LevelDebug, 3}} {
		h, file, flush, err := openLog(name, x.level, newSpooled(io.Discard))
		if err != nil || file == nil {
			t.Fatal(err)
		}
		log := slog.New(h)
		log.Debug("fine")
		log.Info("coarse", "n", x.lines)
		flush()
		text, _ := os.ReadFile(name)
		if n := strings.Count(string(text), "\n"); n != x.lines || !strings.HasSuffix(string(text), fmt.Sprintf("msg=coarse n=%d\n", x.lines)) {
			t.Errorf("%v: %s", x.level, text)
		}
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm()&0o137 != 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, _, _, err := openLog(name+"/x", slog.LevelInfo, newSpooled(io.Discard)); err == nil || !strings.Contains(err.Error(), "--log: open "+name+"/x") {
		t.Error(err)
	}
}

// Without --log the log goes to stderr. In the background it goes to syslog, and a missing
// syslog is reported.
func TestLogElsewhere(t *testing.T) {
	var text bytes.Buffer
	stderr := newSpooled(&text)
	h, file, _, err := openLog("", slog.LevelInfo, stderr)
	if err != nil || file != nil {
		t.Fatal(file, err)
	}
	slog.New(h).Info("here")
	stderr.flush()
	if !strings.Contains(text.String(), "msg=here\n") {
		t.Errorf("%q", &text)
	}
	if _, err := os.Stat("/dev/log"); err == nil {
		return // this machine has a syslog, which the test must not write to
	}
	text.Reset()
	t.Setenv(backgroundEnv, "1")
	h, file, _, err = openLog("", slog.LevelInfo, stderr)
	if err != nil || file != nil || h.Enabled(t.Context(), slog.LevelError) {
		t.Error(file, err)
	}
	stderr.flush()
	if !strings.HasPrefix(text.String(), "cardfs: no log: ") || !strings.HasSuffix(text.String(), "; --log FILE keeps one\n") {
		t.Errorf("%q", &text)
	}
}

// flush waits until all is written, but at most a second if nobody reads.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		s := newSpooled(w)
		fmt.Fprint(s, "first\n")
		synctest.Wait()
		begin := time.Now()
		s.flush()
		if d := time.Since(begin); d != time.Second {
			t.Errorf("waited %v", d)
		}
		for range spoolSize { // nor when the spool is full
			fmt.Fprint(s, "more\n")
		}
		begin = time.Now()
		s.flush()
		if d := time.Since(begin); d != time.Second {
			t.Errorf("waited %v", d)
		}
		go io.Copy(io.Discard, r)
		synctest.Wait()
		var out bytes.Buffer
		s.to = &out
		begin = time.Now()
		fmt.Fprint(s, "last\n")
		s.flush()
		if d := time.Since(begin); d != 0 || out.String() != "last\n" {
			t.Errorf("waited %v, wrote %q", d, &out)
		}
		close(s.lines)
		w.Close()
	})
}

// syslog has a line's time and priority itself: "<PRI>" is facility * 8 + severity (RFC
// 3164 §4.1.1), daemon is 3.
func TestSyslog(t *testing.T) {
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "log"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w, err := syslog.Dial("unixgram", addr.Name, syslog.LOG_DAEMON|syslog.LOG_INFO, "cardfs")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := newSpool(func(int64) {})
	log := slog.New(newSyslogHandler(w, s, slog.LevelDebug))
	buf := make([]byte, 1000)
	for _, x := range []struct {
		log  func()
		want string
	}{
		{func() { log.Debug("a", "n", 1) }, `^<31>.* msg=a n=1\n?$`},
		{func() { log.Info("b", "time", "noon") }, `^<30>.* msg=b\n?$`}, // the key is the time's
		{func() { log.Warn("c d") }, `^<28>.* msg="c d"\n?$`},
		{func() { log.Error("e") }, `^<27>.* msg=e\n?$`},
		{func() { log.With("slot", 3).Info("f") }, `^<30>.* msg=f slot=3\n?$`},
		{func() { log.WithGroup("g").Info("h", "level", 4) }, `^<30>.* msg=h g.level=4\n?$`},
	} {
		x.log()
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got := string(buf[:n])
		if !regexp.MustCompile(x.want).MatchString(got) || strings.Contains(got, "level=INFO") || strings.Contains(got, " time=") {
			t.Errorf("%q, want %s", got, x.want)
		}
	}
	if slog.New(newSyslogHandler(w, s, slog.LevelInfo)).Enabled(t.Context(), slog.LevelDebug) {
		t.Error("a level that is not wanted is let through")
	}
}

// sd_notify(3): a datagram to $NOTIFY_SOCKET. Without the variable nothing is sent, and a
// missing service manager does not make the mount fail.
func TestNotify(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	t.Setenv("NOTIFY_SOCKET", "")
	notify("READY=1", log)
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	notify("READY=1", log)
	buf := make([]byte, 100)
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "READY=1" || text.Len() > 0 {
		t.Errorf("%q, %v, %s", buf[:n], err, &text)
	}
	conn.Close()
	notify("STOPPING=1", log)
	if !strings.Contains(text.String(), `level=WARN msg="tell the service manager" state="STOPPING=1" error=`) {
		t.Errorf("%q", &text)
	}
}
