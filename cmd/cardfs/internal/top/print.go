package top

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Print prints the slots as text, with what happened in the interval before, until it did so
// o.Times times or ctx ends.
func Print(ctx context.Context, out io.Writer, o Options) error {
	return printSlots(ctx, out, mount{o.Mount}, o)
}

func printSlots(ctx context.Context, out io.Writer, f files, o Options) error {
	m := modelFor(o)
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		found, err := f.look(nil, true)
		if err != nil {
			return f.explain(err)
		}
		m.looked(nil, true, found, time.Now())
		if n > 0 {
			if n > 1 {
				fmt.Fprintln(out)
			}
			if err := m.print(out); err != nil {
				return err
			}
		}
		if o.Times > 0 && n == o.Times {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *model) print(out io.Writer) error {
	for _, p := range m.totals().pieces {
		io.WriteString(out, p.text)
	}
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "N\tSTATE\tREADER\tCARD\tSESSIONS\tEXCH/S\tTIME\tERRORS")
	for _, n := range m.order {
		r := m.rows[n]
		fmt.Fprintln(t, strings.Join([]string{
			fmt.Sprint(n), r.state, orDash(r.reader), orDash(r.card), fmt.Sprint(r.sessions), r.rateText(), latencyText(r.latency), fmt.Sprint(r.errors),
		}, "\t"))
	}
	return t.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
