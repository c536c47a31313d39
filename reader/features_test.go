package reader_test

import (
	"context"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

type bare struct{ reader.Slot }

type ejects struct{ bare }

func (ejects) Eject(context.Context) error { return nil }

type shows struct{ bare }

func (shows) Describe() map[string]string { return nil }

// wrapper hides what it wraps, but for Unwrap.
type wrapper struct {
	reader.Slot
	reader.Describer
}

func (w *wrapper) Unwrap() reader.Slot { return w.Slot }

// "A wrapper shows what it wraps by Unwrap", at any depth. The wrapper's own methods come
// first, and an interface that nobody has is nil.
func TestFeatures(t *testing.T) {
	in := ejects{}
	own := shows{}
	mid := &wrapper{Slot: in, Describer: own}
	out := &wrapper{Slot: mid, Describer: mid}
	f := reader.FeaturesOf(out)
	if f.Ejector != reader.Ejector(in) || f.Describer != reader.Describer(out) || f.Escaper != nil || f.PINPad != nil {
		t.Errorf("found %+v", f)
	}
	if f := reader.FeaturesOf(bare{}); f != (reader.Features{}) {
		t.Errorf("a slot without features has %+v", f)
	}
	if _, ok := reader.As[reader.Ejector](nil); ok {
		t.Error("no slot ejects")
	}
}
