package ctapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// A script is a conversation with simulated readers, in a time of its own:
//
//	# the rule that the next lines show
//	ctl sim 0 remove           a line of ctl
//	after 3s sim 0 insert      the same, later
//	> 20 12 01 01 00           a command to the terminal of slot 0
//	2> 20 13 00 80 00          one of another program's
//	@ 00 02 00A40000           what CT_data sends: dad, sad, command; 2@ another program's
//	< 00 90 00                 its answer; < error: no status word but an error
//	took 3s                    how long that was in coming
//	display Insert             what the display shows now
//	display-after 3s Insert    and what it will
//	sleep 2s
//	lock, unlock               somebody else begins and ends a transaction
//	power reset                somebody else's power: on, off, reset
//	sessions 1                 how many sessions there are with the card
type script struct {
	t         *testing.T
	m         *core.Manager
	terminals map[string]*Terminal
	got       string
	err       error
	took      time.Duration
}

// play attaches readers and runs a script.
func play(t *testing.T, attach, text string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, m: core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}}), terminals: make(map[string]*Terminal)}
		defer s.m.Close(context.Background())
		for line := range strings.SplitSeq(attach, ";") {
			s.ctl("attach sim " + line)
		}
		synctest.Wait()
		rule := ""
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "#") || line == "" {
				rule = line
				continue
			}
			line, _, _ = strings.Cut(line, " #")
			if err := s.do(line); err != nil {
				t.Errorf("%s\n%s\n\t%v", rule, line, err)
			}
		}
	})
}

// ctl does what these tests ask of the manager, as lines of `ctl` say it: attach, or a
// command of the driver.
func ctl(m *core.Manager, line string) error {
	words := strings.Fields(line)
	if words[0] != "attach" {
		n, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		return m.CommandDriver(words[0], n, words[2:])
	}
	params := make(map[string]string)
	for _, p := range words[3:] {
		key, value, _ := strings.Cut(p, "=")
		params[key] = value
	}
	return m.Attach(words[1], words[2], params)
}

func (s *script) ctl(line string) {
	if err := ctl(s.m, line); err != nil {
		s.t.Errorf("%s: %v", line, err)
	}
	synctest.Wait()
}

func (s *script) do(line string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch word {
	case "ctl":
		s.ctl(rest)
	case "after":
		when, command, _ := strings.Cut(rest, " ")
		d, err := time.ParseDuration(when)
		if err != nil {
			return err
		}
		time.AfterFunc(d, func() {
			if err := ctl(s.m, command); err != nil {
				s.t.Errorf("%s: %v", line, err)
			}
		})
	case "sleep":
		d, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		time.Sleep(d)
	case ">", "2>", "@", "2@":
		who := strings.TrimRight(word, ">@")
		t := s.terminals[who]
		if t == nil {
			t = New(s.m.Slot(0), core.Caller{Owner: new(int)})
			s.terminals[who] = t
		}
		exchange := t.Exchange
		if strings.HasSuffix(word, "@") {
			exchange = t.Data
		}
		start := time.Now()
		answer, err := exchange(context.Background(), unhex(rest), nil)
		s.got, s.err, s.took = fmt.Sprintf("% X", answer), err, time.Since(start)
		synctest.Wait()
	case "<":
		if rest == "error" {
			if s.err == nil {
				return fmt.Errorf("answer %s", s.got)
			}
			return nil
		}
		if want := fmt.Sprintf("% X", unhex(rest)); s.err != nil || s.got != want {
			return fmt.Errorf("answer %s, %v", s.got, s.err)
		}
	case "took":
		if d, err := time.ParseDuration(rest); err != nil || d != s.took {
			return fmt.Errorf("it took %v", s.took)
		}
	case "display":
		if got := s.m.Slot(0).Info().More["display"]; got != rest {
			return fmt.Errorf("display %q", got)
		}
	case "display-after":
		when, want, _ := strings.Cut(rest, " ")
		d, err := time.ParseDuration(when)
		time.AfterFunc(d, func() {
			if got := s.m.Slot(0).Info().More["display"]; got != want {
				s.t.Errorf("%s: display %q", line, got)
			}
		})
		return err
	case "lock":
		return s.m.Slot(0).Lock(context.Background(), core.Caller{Owner: s}, nil)
	case "power":
		actions := map[string]core.Action{"on": core.PowerUp, "off": core.PowerDown, "reset": core.ResetWarm}
		return s.m.Slot(0).Power(context.Background(), actions[rest], core.Caller{Owner: "another"})
	case "sessions":
		if got := s.m.Slot(0).Info().Sessions; strconv.Itoa(got) != rest {
			return fmt.Errorf("%d sessions", got)
		}
	case "unlock":
		s.m.Slot(0).Unlock(s)
	default:
		return errors.New("no such line")
	}
	return nil
}

// unhex reads hex, with texts in single quotes.
func unhex(s string) []byte {
	var out []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			out = append(out, part...)
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			panic(s + ": " + err.Error())
		}
		out = append(out, b...)
	}
	return out
}
