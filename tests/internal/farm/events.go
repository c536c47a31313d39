package farm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// EventTimes takes the card of a machine's first reader out and puts it in again, n times, and
// returns how long it took each time from there to the line in `event` here, in ns, beyond what
// the line takes.
func (f *Farm) EventTimes(ctx context.Context, m *Machine, n int) (out, in []float64, err error) {
	follow, err := os.Open(filepath.Join(f.Dir, strconv.Itoa(m.Slots[0]), "event"))
	if err != nil {
		return nil, nil, err
	}
	defer follow.Close()
	defer context.AfterFunc(ctx, func() { _ = follow.Close() })()
	lines := bufio.NewScanner(follow)
	until := func(what string) error {
		for lines.Scan() {
			if w := strings.Fields(lines.Text()); len(w) > 2 && w[2] == what {
				return nil
			}
		}
		return fmt.Errorf("%s: no event %q: %w", follow.Name(), what, errors.Join(lines.Err(), ctx.Err()))
	}
	if err := until("inserted"); err != nil { // as it stands
		return nil, nil, err
	}
	once := func(word, event string) (float64, error) {
		began := time.Now()
		if err := os.WriteFile(filepath.Join(m.Far, "ctl"), []byte("sim 0 "+word+"\n"), 0); err != nil {
			return 0, err
		}
		err := until(event)
		return float64(time.Since(began) - m.Line.Delay), err
	}
	for range n {
		a, err := once("remove", "removed")
		if err != nil {
			return nil, nil, err
		}
		b, err := once("insert", "inserted")
		if err != nil {
			return nil, nil, err
		}
		out, in = append(out, a), append(in, b)
	}
	return out, in, nil
}
