package main

import (
	"fmt"
	"slices"
	"time"
)

// results are the samples of each subject, by name.
type results map[string][]float64

func (r results) median(name string) float64 { return median(r[name]) }

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// The units that samples come in.
func nanoseconds(v float64) string {
	switch d := time.Duration(v); {
	case d < 100*time.Microsecond:
		return fmt.Sprintf("%.1f µs", v/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", v/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", v/1e6)
	}
	return fmt.Sprintf("%.2f s", v/1e9)
}

func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }
func plain(v float64) string     { return fmt.Sprintf("%g", v) }
func kibibytes(v float64) string { return fmt.Sprintf("%.0f KiB", v) }
func share(v float64) string     { return fmt.Sprintf("%.3f %%", 100*v) }
