package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/drivers/remote/files"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// session is an open of apdu there: the card in its present state.
//
//	idle --lock written--> owing --ok--> idle
//	idle --command written--> asked --answer--> idle
//	any --reset, removed, line ended, answer given up--> over
//
// The words lock and unlock are answered in order with the commands. An ok that nobody waits
// for any more comes before the next answer.
type session struct {
	file     *files.File
	lane     *lane
	since    uint64 // the slot's last event when it began
	protocol int
	over     bool // under slot.mu
	reset    bool // it began with a reset that was asked for here

	// With the turn.
	locked bool  // others are locked out, or will be when owed comes
	owed   *owed // ok that has not come yet
}

// owed is the answer to a word that somebody stopped waiting for.
type owed struct {
	done chan struct{}
	line []byte
	err  error
}

// live is the session, nil if there is none.
func (s *slot) live() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil || s.session.over {
		return nil
	}
	return s.session
}

// hangUp ends the session, and with it the lock.
func (s *slot) hangUp() {
	s.mu.Lock()
	c := s.session
	s.session = nil
	s.mu.Unlock()
	if c != nil {
		c.file.Close()
	}
}

// dial makes a session and returns the card's ATR.
func (s *slot) dial(ctx context.Context) ([]byte, error) {
	o, err := s.openCard(ctx)
	if err != nil {
		kind, known := definite(err)
		if known && !errors.Is(kind, reader.ErrUnsupported) || ended(err) || errors.Is(err, reader.ErrNoCard) {
			return nil, s.line.explain("open the card there", err)
		}
		// Over SFTP an open fails without a reason, and what is not supported needs words.
		st, statusErr := s.readStatus(ctx)
		if statusErr != nil || st.problem == "" {
			return nil, s.line.explain("open the card there", err)
		}
		return nil, fmt.Errorf("%s: %w", s.name(), worded(st.problem))
	}
	c := &session{file: o.file, lane: o.lane}
	var atr []byte
	line, err := c.ask(ctx, []byte("errors\n"), nil)
	switch {
	case err != nil:
		err = s.line.explain("open the card there", err)
	case string(line) != "ok":
		err = malformed("%s: the line errors is not answered by ok", s.name())
	default:
		atr, err = s.begin(ctx, c)
	}
	if err != nil {
		c.file.Close()
		return nil, err
	}
	s.mu.Lock()
	want := s.want
	s.mu.Unlock()
	if want {
		if err := s.lock(ctx, c); err != nil {
			return nil, err
		}
	}
	return atr, nil
}

// begin makes c the session from now on, with what the card has become, unless it has lost its
// state since. It returns the ATR.
func (s *slot) begin(ctx context.Context, c *session) (atr []byte, err error) {
	st, err := s.readStatus(ctx)
	switch {
	case err != nil:
		return nil, s.line.explain("read status", err)
	case st.state == "empty":
		return nil, fmt.Errorf("%s: %w", s.name(), reader.ErrNoCard)
	case st.state != "powered":
		return nil, fmt.Errorf("%s: %s: %w", s.name(), st.state, reader.ErrStale)
	}
	if st.protocol == iso7816.NoProtocol {
		// As pcscd shows a memory card: without a protocol, but it takes the commands of
		// a file card.
		atr = append([]byte{0x3B, byte(len(st.atr))}, st.atr...)
	} else if _, err := iso7816.ParseATR(st.atr); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name(), err)
	} else {
		atr = st.atr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale > st.event || !s.card {
		return nil, fmt.Errorf("%s: %w", s.name(), reader.ErrStale)
	}
	c.since, c.protocol, c.over = st.event, st.protocol, false
	s.session = c
	return atr, nil
}

// ask writes what is answered by one line, and returns that without its newline. Its errors are
// those of package files, and ErrProtocol.
func (c *session) ask(ctx context.Context, text, buf []byte) ([]byte, error) {
	chunk, err := c.file.Exchange(ctx, text, readMost)
	return c.collect(ctx, buf, chunk, err)
}

// collect reads on until a line is whole.
func (c *session) collect(ctx context.Context, line, chunk []byte, err error) ([]byte, error) {
	for {
		switch {
		case err != nil:
			return nil, err
		case len(chunk) == 0:
			return nil, files.ErrWritten // "an empty read while an answer is outstanding"
		}
		i := bytes.IndexByte(chunk, '\n')
		switch {
		case i == len(chunk)-1:
			line = append(line, chunk[:i]...)
			clear(chunk)
			return line, nil
		case i >= 0:
			return nil, malformed("more than one answer to one command")
		}
		line = append(line, chunk...)
		clear(chunk)
		if len(line) > maxReply {
			return nil, malformed("an answer of more than %d characters", maxReply)
		}
		if chunk, err = c.file.Read(ctx, readMost); err != nil {
			err = files.ErrWritten
		}
	}
}

// Exchange writes a C-APDU and reads the R-APDU: two round trips of the way.
func (s *slot) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	if err := s.over(); err != nil {
		return dst, err
	}
	c := s.live()
	if c == nil {
		return dst, fmt.Errorf("%s: %w", s.name(), reader.ErrStale)
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	if err := s.collectOwed(ctx, c); err != nil {
		return dst, err
	}
	text := appendHex(make([]byte, 0, 2*len(t.Out)+1), t.Out)
	defer clear(text)
	line, err := c.ask(ctx, text, nil)
	if err != nil {
		return dst, s.unanswered(ctx, c, err)
	}
	defer clear(line)
	answer, err := parseReply(line, dst)
	if err != nil {
		return dst, s.refused(ctx, err)
	}
	if len(answer) < len(dst)+2 {
		return dst, malformed("%s: an R-APDU of %d bytes", s.name(), len(answer)-len(dst))
	}
	return answer, nil
}

// unanswered is the error of a command that got no answer, because of err.
func (s *slot) unanswered(ctx context.Context, c *session, err error) error {
	if errors.Is(err, reader.ErrProtocol) {
		s.hangUp()
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	if kind, known := definite(err); known && !errors.Is(err, files.ErrWritten) {
		return s.refused(ctx, fmt.Errorf("%s: write a command: %w", s.name(), kind))
	}
	if !ended(err) && !errors.Is(err, files.ErrWritten) && !errors.Is(err, files.ErrStuck) {
		// The write failed. Over SFTP that may be a refusal, of which nothing is outstanding.
		if text, readErr := c.file.Read(ctx, readMost); readErr == nil && len(text) == 0 {
			return fmt.Errorf("%s: the other side takes no such command: %w", s.name(), reader.ErrInvalid)
		}
	}
	s.hangUp()
	if errors.Is(err, files.ErrStuck) {
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	return fmt.Errorf("%s: %w (%w)", s.name(), reader.ErrInDoubt, err)
}

// refused takes what the other side says instead of an answer.
func (s *slot) refused(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, reader.ErrNoCard):
		s.mu.Lock()
		if s.card {
			s.takeOut()
			s.early = true
		}
		s.mu.Unlock()
		s.hangUp()
	case errors.Is(err, reader.ErrStale):
		s.hangUp()
		s.lost(ctx)
	case errors.Is(err, reader.ErrProtocol):
		s.hangUp()
	}
	return err
}

// lost finds out how the card has lost its state. Its event follows.
func (s *slot) lost(ctx context.Context) {
	st, err := s.readStatus(ctx)
	what := cardOff
	if err == nil && st.state == "powered" {
		what = cardReset
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = max(s.stale, st.event)
	s.note(what, st.event)
}

// Lock locks the others out there.
func (s *slot) Lock(ctx context.Context, wait bool) error {
	s.setWant(true)
	c := s.live()
	if c == nil {
		return nil // with the next session
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	lock := s.lock
	if !wait {
		lock = s.tryLock
	}
	if err := lock(ctx, c); err != nil {
		s.setWant(false)
		return err
	}
	return nil
}

// Unlock lets them in.
func (s *slot) Unlock(ctx context.Context) error {
	s.setWant(false)
	c := s.live()
	if c == nil {
		return nil
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	return s.collectOwed(ctx, c)
}

func (s *slot) setWant(want bool) {
	s.mu.Lock()
	s.want = want
	s.mu.Unlock()
}

func (s *slot) lock(ctx context.Context, c *session) error {
	if !c.locked {
		s.word(c, "lock")
	}
	return s.await(ctx, c)
}

// tryLock is lock for who does not wait.
func (s *slot) tryLock(ctx context.Context, c *session) error {
	if o := c.owed; o != nil {
		select {
		case <-o.done:
		default: // somebody waited for it, and gave up
			return fmt.Errorf("%s: %w", s.name(), reader.ErrLocked)
		}
		if err := s.await(ctx, c); err != nil {
			return err
		}
	}
	if !c.locked {
		s.word(c, "trylock")
	}
	return s.await(ctx, c)
}

// locked returns the session if others are locked out, once they are; else nil.
func (s *slot) locked(ctx context.Context) (*session, error) {
	c := s.live()
	if c == nil || !c.locked {
		return nil, nil
	}
	if err := s.collectOwed(ctx, c); err != nil || !c.locked {
		return nil, err
	}
	return c, nil
}

// collectOwed waits for the answer to a word, and unlocks what nobody wants locked any more.
func (s *slot) collectOwed(ctx context.Context, c *session) error {
	if err := s.await(ctx, c); err != nil {
		return err
	}
	s.mu.Lock()
	want := s.want
	s.mu.Unlock()
	if !c.locked || want {
		return nil
	}
	s.word(c, "unlock")
	return s.await(ctx, c)
}

// word writes lock or unlock. Its answer is owed, whoever gives up waiting for it.
func (s *slot) word(c *session, word string) {
	c.locked = word != "unlock"
	o := &owed{done: make(chan struct{})}
	c.owed = o
	reader.Go(s.line.host, func() {
		defer close(o.done)
		o.line, o.err = c.ask(s.line.ctx, []byte(word+"\n"), nil)
	})
}

// await waits for the answer to a word, if one is owed.
func (s *slot) await(ctx context.Context, c *session) error {
	o := c.owed
	if o == nil {
		return nil
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		return s.line.explain("lock the card there", ctx.Err())
	}
	c.owed = nil
	if o.err != nil {
		s.hangUp()
		return s.line.explain("lock the card there", o.err)
	}
	err := s.isOK(ctx, "lock", o.line)
	if err != nil {
		c.locked = false
	}
	return err
}

// isOK looks at the answer to a word.
func (s *slot) isOK(ctx context.Context, word string, line []byte) error {
	if string(line) == "ok" {
		return nil
	}
	_, err := parseReply(line, nil)
	if err == nil {
		err = malformed("%s: the line %s is not answered by ok", s.name(), word)
	}
	return s.refused(ctx, err)
}
