package kaan

import (
	"context"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// line carries blocks as characters on a serial line.
type line struct {
	serial.Port
	rx [3 + 254 + 2]byte
}

var _ ctbcs.Carrier = (*line)(nil)

// Exchange is ctbcs.Carrier.
func (l *line) Exchange(ctx context.Context, send []byte, want int, wait time.Duration) ([]byte, error) {
	if len(send) > 0 {
		if err := l.Write(ctx, send); err != nil {
			return nil, err
		}
	}
	n, err := serial.ReadChars(ctx, l.Port, l.rx[:want], wait, min(wait, ctbcs.CharWait))
	return l.rx[:n], err
}

// Wipe forgets what was received.
func (l *line) Wipe() { clear(l.rx[:]) }

// wtxWait is what OpenCT adds for each unit of S(WTX request).
const wtxWait = time.Second

func newConnection(port serial.Port) *ctbcs.Connection {
	return ctbcs.New(&line{Port: port}, iso7816.T1Config{NAD: ctbcs.Terminal, Character: true}, wtxWait)
}
