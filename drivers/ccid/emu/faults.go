package emu

import (
	"encoding/binary"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
)

// FaultKind is one way to misbehave.
type FaultKind int

const (
	_ FaultKind = iota
	// StallIn halts the bulk-IN endpoint; the answer is lost.
	StallIn
	// StallInLate halts the bulk-IN endpoint; the answer follows.
	StallInLate
	// StallOut halts the bulk-OUT endpoint; the command is not accepted.
	StallOut
	// StallControl stalls a control request; On is bRequest.
	StallControl
	// Runt is an answer of three bytes.
	Runt
	// Truncated is an answer without its last byte, which may be one of the header.
	Truncated
	// Long is an answer with more bytes than dwLength announces.
	Long
	// LengthLie is an answer whose dwLength is FFFFFFF0.
	LengthLie
	// StaleFirst sends an answer to the previous command, and then the right one.
	StaleFirst
	// WrongSeq gives the answer another bSeq.
	WrongSeq
	// WrongSlot gives the answer a bSlot that the reader does not have.
	WrongSlot
	// WrongType gives the answer another bMessageType.
	WrongType
	// Babble sends more than the host asked for.
	Babble
	// Flood sends 200 messages that answer nothing.
	Flood
	// Empty sends a zero-length packet before the answer.
	Empty
	// Silence loses the answer.
	Silence
	// Hang answers nothing at all until the port is reset.
	Hang
	// Stone answers nothing, not even after a reset.
	Stone
	// Endless asks for more time until the command is aborted.
	Endless
	// Fail answers with bError Code.
	Fail
	// Detach unplugs the device instead of answering.
	Detach
)

// Fault makes one or more commands go wrong.
type Fault struct {
	Kind FaultKind
	// On is the bMessageType of the commands that it hits; 0: any.
	On byte
	// Skip is the number of such commands that pass first.
	Skip int
	// Count is the number of commands that it hits; 0 means one, -1 all.
	Count int
	Code  byte // bError of Fail
}

// Inject adds faults of messages. It hides Device.Inject, which adds faults of transfers.
func (e *Reader) Inject(faults ...Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range faults {
		if f.Count == 0 {
			f.Count = 1
		}
		e.faults = append(e.faults, &f)
	}
}

// Heal removes all faults, those of the device included.
func (e *Reader) Heal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = nil
	e.Device.Heal()
}

// HardwareError sends the interrupt message of that name (CCID 1.1 §6.3.2).
func (e *Reader) HardwareError(slot int, code byte) {
	e.Send(interruptIn, []byte{0x51, byte(slot), 0, code})
}

// Interrupt sends any interrupt message; nil halts the endpoint.
func (e *Reader) Interrupt(b []byte) {
	if b == nil {
		e.SendError(interruptIn, usb.ErrStall)
		return
	}
	e.Send(interruptIn, b)
}

// fault returns the due fault of that kind for message m, if there is one, and counts it.
// Kind 0 stands for all that spoil an answer. e.mu is held.
func (e *Reader) fault(kind FaultKind, m []byte) *Fault {
	early := func(k FaultKind) bool { return k == StallOut || k == StallControl }
	return usbtest.Due(&e.faults, func(f *Fault) bool {
		return len(m) > 0 && (f.On == 0 || f.On == m[0]) && (f.Kind == kind || kind == 0 && !early(f.Kind))
	}, func(f *Fault) (skip, count *int) { return &f.Skip, &f.Count })
}

// spoil sends answer with the fault.
func (e *Reader) spoil(f *Fault, answer []byte) {
	switch f.Kind {
	case StallIn:
		e.SendError(bulkIn, usb.ErrStall)
		return
	case StallInLate:
		e.SendError(bulkIn, usb.ErrStall)
	case Runt:
		answer = answer[:3]
	case Truncated:
		answer = answer[:len(answer)-1]
	case Long:
		answer = append(answer, 0xDE, 0xAD)
	case LengthLie:
		binary.LittleEndian.PutUint32(answer[1:], 0xFFFFFFF0)
	case StaleFirst:
		stale := append([]byte(nil), answer...)
		stale[6]--
		e.Send(bulkIn, stale)
	case WrongSeq:
		answer[6] += 100
	case WrongSlot:
		answer[5] = byte(e.cfg.Slots) + 3
	case WrongType:
		answer[0] = 0x84
	case Babble:
		e.SendError(bulkIn, usb.ErrOverflow)
		return
	case Flood:
		answer[6] += 100
		e.SendTimes(bulkIn, answer, 200)
		return
	case Empty:
		e.Send(bulkIn, nil)
	case Silence:
		return
	case Hang, Stone:
		e.Die(f.Kind == Stone)
		return
	case Detach:
		e.Drop()
		return
	}
	e.Send(bulkIn, answer)
}
