package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/cardfs/cardfs/drivers/emulators"
	kaanemu "github.com/cardfs/cardfs/drivers/kaan/emu"
	"github.com/cardfs/cardfs/tests/internal/ptys"
)

// The subjects of memory cards in a KAAN.
const (
	memory4442 = "memory, SLE4442"
	memoryI2C  = "memory, 24C256"
)

// serialMemory reads whole memory cards through their file memory. At a pseudo-terminal
// characters take no time: what a read takes there comes on top of the time that the line
// takes for the characters that crossed it.
func (e *env) serialMemory(ctx context.Context) error {
	for _, x := range []struct {
		name, card, params string
		size               int
	}{{memory4442, "sle4442", "", 256}, {memoryI2C, "at24c256", "memory=i2c:32768", 32 << 10}} {
		r, err := e.open(ptys.Kind{
			Driver: "kaan", Params: x.params, Card: x.card,
			New: func() emulators.Serial { return kaanemu.NewKAAN() },
		})
		if err != nil {
			return err
		}
		dir := "kaan-" + x.card
		if _, err := e.attach(ctx, dir, r); err != nil {
			return err
		}
		times := func(v float64) string { return fmt.Sprintf("%.3f", v) }
		e.add(x.name, times, func(context.Context) ([]float64, error) {
			out, in := r.Plugged.Sent()
			began := time.Now()
			content, err := os.ReadFile(e.path(dir + "/0/memory"))
			took := time.Since(began)
			if err == nil && len(content) != x.size {
				err = fmt.Errorf("%d bytes of memory, not %d", len(content), x.size)
			}
			out2, in2 := r.Plugged.Sent()
			mode := r.Plugged.Line().Mode()
			line := mode.Time(out2 - out + in2 - in)
			e.notes[x.name] = fmt.Sprintf("%d characters for %d bytes, %v at %v; %v besides", out2-out+in2-in, x.size,
				line.Round(time.Millisecond), mode, took.Round(10*time.Microsecond))
			return []float64{float64(line+took) / float64(line)}, err
		})
	}
	return nil
}
