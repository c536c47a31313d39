//go:build !linux

package serial

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/cardfs/cardfs/reader"
)

// OpenTTY says that there are no terminals here.
func OpenTTY(ctx context.Context, name string, m Mode, log *slog.Logger) (Port, error) {
	return openAt(ctx, name, name, m, log)
}

// Borrow says the same.
func Borrow(ctx context.Context, name string, m Mode, log *slog.Logger) (Port, error) {
	return openAt(ctx, name, name, m, log)
}

func openAt(_ context.Context, name, _ string, _ Mode, _ *slog.Logger) (Port, error) {
	return nil, fmt.Errorf("%s: serial ports need Linux: %w", name, reader.ErrUnsupported)
}
