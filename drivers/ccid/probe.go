package ccid

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

var _ reader.Prober = Driver{}

const (
	// probeWait is for the answer to GetSlotStatus, which a reader gives at once.
	probeWait = time.Second
	probeSeq  = 0x5A // bSeq of the question
)

// Probe is reader.Prober. It asks with a GetSlotStatus, and a reader that answers for its
// firmware, its slots and what its keypad can do.
func (Driver) Probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	fail := func(err error) (reader.Found, error) {
		return reader.Found{}, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	woken := serialMode
	woken.Baud = 9600 // a GemCore SIM Pro 2 that nobody has used yet
	for _, m := range []serial.Mode{serialMode, woken} {
		port, err := serial.Open(ctx, dev, m)
		if err != nil {
			return fail(err)
		}
		q := question{port: port, seq: probeSeq}
		there, err := q.hasSlot(ctx, 0)
		name, version := "simpro2", ""
		switch {
		case err != nil || !there:
		case m == woken:
			version, err = q.text(ctx, 0x02)
		default:
			name, version, err = q.model(ctx)
		}
		if e := port.Close(); err == nil {
			err = e
		}
		switch {
		case err == nil && there:
			model := serialModels[name]
			return reader.Found{Model: strings.TrimSpace(model.maker + " " + model.name + " " + version), Params: map[string]string{"model": name}}, nil
		case err == nil:
			err = fmt.Errorf("no slot 0: %w", reader.ErrProtocol)
			fallthrough
		case !errors.Is(err, reader.ErrTimeout):
			return fail(err)
		}
	}
	return fail(fmt.Errorf("no answer: %w", reader.ErrTimeout))
}

// question asks a reader without the rest of the driver.
type question struct {
	port serial.Port
	seq  byte
	echo bool // the reader repeats what it is asked
}

// hasSlot asks for the status of a slot.
func (q *question) hasSlot(ctx context.Context, slot byte) (bool, error) {
	m, err := q.ask(ctx, cmdSlotStatus, slot, nil)
	if err == nil && (m[0] != ansSlotStatus || len(m) != headerLen) {
		err = fmt.Errorf("message %02X of %d bytes to GetSlotStatus: %w", m[0], len(m), reader.ErrProtocol)
	}
	return err == nil && m[7]&statusMask == statusOK, err
}

// model finds out which model a reader is, and its firmware.
func (q *question) model(ctx context.Context) (name, version string, err error) {
	if version, err = q.text(ctx, 0x02); err != nil { // Gemalto's
		return "", "", err
	}
	if q.echo { // as GemPC Twin and PinPad alone do
		keypad, err := q.escape(ctx, 0x6A)
		if len(keypad) > 8 {
			return "pinpad", version, err
		}
		return "twin", version, err
	}
	slots := byte(1)
	for there := true; there && slots < 5; {
		if there, err = q.hasSlot(ctx, slots); err != nil && !errors.Is(err, reader.ErrTimeout) {
			return "", "", err
		} else if there {
			slots++
		}
	}
	if version == "" {
		if version, err = q.text(ctx, 0x06); err != nil { // Microchip's
			return "", "", err
		}
		if version != "" && slots > 1 {
			return "sec1210", version, nil
		} else if version != "" {
			return "sec1210urt", version, nil
		}
	}
	if slots > 2 {
		return "gemcore", version, nil
	}
	return "simpro", version, nil
}

// text asks for a text by an Escape. "": the reader has none.
func (q *question) text(ctx context.Context, what byte) (string, error) {
	text, err := q.escape(ctx, what)
	if text = strings.TrimSpace(text); strings.IndexFunc(text, notPrintable) >= 0 {
		text = ""
	}
	return text, err
}

// escape asks a reader something of its maker's. "": it does not understand.
func (q *question) escape(ctx context.Context, what byte) (string, error) {
	m, err := q.ask(ctx, cmdEscape, 0, []byte{what})
	switch {
	case errors.Is(err, reader.ErrTimeout):
		return "", nil
	case err != nil || m[0] != ansEscape || m[7]&statusMask != statusOK:
		return "", err
	}
	return string(m[headerLen:]), nil
}

// ask sends a message once and returns the answer, which is valid until the next call.
func (q *question) ask(ctx context.Context, kind, slot byte, data []byte) ([]byte, error) {
	q.seq++
	message := append([]byte{kind, byte(len(data)), 0, 0, 0, slot, q.seq, 0, 0, 0}, data...)
	if err := q.port.Flush(); err != nil {
		return nil, err
	}
	if err := q.port.Write(ctx, appendFrame(nil, message)); err != nil {
		return nil, err
	}
	f := framer{most: serialMost}
	var buf [512]byte
	for until := time.Now().Add(probeWait); ; {
		left := time.Until(until)
		if left <= 0 {
			return nil, fmt.Errorf("no answer: %w", reader.ErrTimeout)
		}
		n, err := q.port.Read(ctx, buf[:], left)
		if err != nil {
			return nil, err
		}
		f.add(buf[:n])
		for {
			it, ok := f.next(false)
			if !ok {
				break
			}
			if it.kind != itemFrame {
				continue
			}
			switch m := inner(it.data); {
			case m[6] != q.seq || m[5] != slot:
			case m[0] == kind:
				q.echo = true
			case m[0] >= ansDataBlock:
				return m, nil
			}
		}
	}
}
