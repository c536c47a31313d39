package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cardfs/cardfs/drivers/remote/files"
	"github.com/cardfs/cardfs/reader"
)

// Control codes and tags of PC/SC part 10 §2.2 and §2.3, as control takes and lists them.
const (
	getFeatures      = 0x42000D48
	escapeCode       = 0x42000001
	verifyPINDirect  = 0x06
	modifyPINDirect  = 0x07
	ifdPINProperties = 0x0A
	ccidEscape       = 0x13
)

// features are what the far control offers: a code for each tag.
type features struct {
	codes map[byte]uint32
	pad   reader.PINSupport
}

// parseFeatures reads the answer to CM_IOCTL_GET_FEATURE_REQUEST: tag, length 4, code.
func parseFeatures(list []byte) (map[byte]uint32, error) {
	codes := make(map[byte]uint32)
	for ; len(list) >= 6; list = list[6:] {
		if list[1] != 4 {
			return nil, malformed("a feature of %d bytes", list[1])
		}
		codes[list[0]] = binary.BigEndian.Uint32(list[2:])
	}
	if len(list) > 0 {
		return nil, malformed("a list of features with %d bytes too many", len(list))
	}
	return codes, nil
}

// escaper is a slot to whose reader the far side lets us send commands.
type escaper struct{ *slot }

var (
	_ reader.PINPad  = (*slot)(nil)
	_ reader.Escaper = escaper{}
)

// serve finds out what the slot can do, and returns it for the core. A control that may not be
// used offers nothing.
func (s *slot) serve(ctx context.Context) (reader.Slot, error) {
	list, err := s.control(ctx, getFeatures, nil)
	if err == nil {
		s.features.codes, err = parseFeatures(list)
	}
	switch {
	case s.line.ctx.Err() != nil || ctx.Err() != nil || errors.Is(err, reader.ErrProtocol):
		return nil, err
	case err != nil:
		return s, nil
	}
	_, verify := s.features.codes[verifyPINDirect]
	_, modify := s.features.codes[modifyPINDirect]
	s.features.pad = reader.PINSupport{Verify: verify, Modify: modify}
	if code, ok := s.features.codes[ifdPINProperties]; ok {
		// PIN_PROPERTIES_STRUCTURE (ibid. §2.6.9): wLcdLayout comes first.
		if p, err := s.control(ctx, code, nil); err == nil && len(p) >= 2 {
			s.features.pad.Columns, s.features.pad.Lines = int(p[0]), int(p[1])
		}
	}
	served := reader.Slot(s)
	if _, ok := s.features.codes[ccidEscape]; ok {
		served = escaper{s}
	}
	if verify || modify { // no other reader has a display or keys
		served = s.withTerminal(ctx, served)
	}
	return served, nil
}

// control sends one command to the reader itself, in the transaction if there is one.
func (s *slot) control(ctx context.Context, code uint32, data []byte) ([]byte, error) {
	if err := s.over(); err != nil {
		return nil, err
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	command := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(data)), code)
	command = append(command, data...)
	defer clear(command)
	c, err := s.locked(ctx)
	if err != nil {
		return nil, err
	}
	if c != nil {
		return s.controlLocked(ctx, c, command)
	}
	return s.once(ctx, "control", command, data == nil)
}

// once sends one command by an open of its own. A question is answered at once.
func (s *slot) once(ctx context.Context, name string, command []byte, question bool) ([]byte, error) {
	file, err := s.openOnce(ctx, name, question)
	if err != nil {
		return nil, s.line.explain("open "+name, err)
	}
	defer file.Close()
	c := &session{file: file}
	if line, err := c.ask(ctx, []byte("errors\n"), nil); err != nil || string(line) != "ok" {
		return nil, s.line.explain("open "+name, errors.Join(err, reader.ErrProtocol))
	}
	text := appendHex(make([]byte, 0, 2*len(command)+1), command)
	defer clear(text)
	line, err := c.ask(ctx, text, nil)
	switch {
	case err != nil && (ended(err) || errors.Is(err, files.ErrWritten)):
		return nil, fmt.Errorf("%s: %w (%w)", s.name(), reader.ErrInDoubt, err)
	case err != nil:
		return nil, s.line.explain(name, err)
	}
	defer clear(line)
	if len(line) == 0 {
		return nil, nil // an answer without bytes
	}
	return parseReply(line, nil)
}

func (s *slot) openOnce(ctx context.Context, name string, question bool) (*files.File, error) {
	if question {
		return s.line.lanes.openText(ctx, s.path(name), os.O_RDWR)
	}
	file, _, err := s.line.lanes.openCard(ctx, s.path(name))
	return file, err
}

// controlLocked sends a command to the reader as a line of the session. See obey.
func (s *slot) controlLocked(ctx context.Context, c *session, command []byte) ([]byte, error) {
	const word = "control "
	text := appendHex(append(make([]byte, 0, len(word)+2*len(command)+1), word...), command)
	defer clear(text)
	line, err := c.ask(ctx, text, nil)
	if err != nil {
		return nil, s.unanswered(ctx, c, err)
	}
	defer clear(line)
	if len(line) == 0 {
		return nil, nil // an answer without bytes
	}
	answer, err := parseReply(line, nil)
	if err != nil {
		return nil, s.refused(ctx, err)
	}
	return answer, nil
}

// Escape sends p to the reader as it is.
func (e escaper) Escape(ctx context.Context, p []byte) ([]byte, error) {
	return e.control(ctx, escapeCode, p)
}

// PINSupport is what the reader's PIN pad can do.
func (s *slot) PINSupport() reader.PINSupport { return s.features.pad }

// VerifyPIN has a PIN entered at the reader there.
func (s *slot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	answer, err := s.control(ctx, s.features.codes[verifyPINDirect], v.Append(nil))
	return append(dst, answer...), err
}

// ModifyPIN has a PIN changed there.
func (s *slot) ModifyPIN(ctx context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	answer, err := s.control(ctx, s.features.codes[modifyPINDirect], m.Append(nil))
	return append(dst, answer...), err
}
