package remote

import (
	"context"

	"github.com/cardfs/cardfs/reader"
)

// features are what the far control offers.
type features struct {
	pad    reader.PINSupport
	escape bool
}

// serve finds out what the slot can do, and returns it for the core.
func (s *slot) serve(ctx context.Context) (reader.Slot, error) { return s, nil }

// PINSupport is what the reader's PIN pad can do.
func (s *slot) PINSupport() reader.PINSupport { return s.features.pad }

func (s *slot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	return dst, reader.ErrUnsupported
}

func (s *slot) ModifyPIN(ctx context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	return dst, reader.ErrUnsupported
}
