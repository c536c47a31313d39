//go:build !linux

package chardev

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/cardfs/cardfs/reader"
)

// OpenFile says that there are no such files here.
func OpenFile(ctx context.Context, name string, log *slog.Logger) (Node, error) {
	return openAt(ctx, name, name, log)
}

func openAt(_ context.Context, name, _ string, _ *slog.Logger) (Node, error) {
	return nil, fmt.Errorf("%s: readers with a device file need Linux: %w", name, reader.ErrUnsupported)
}
