package fs

import (
	"bytes"

	"github.com/cardfs/cardfs/reader"
)

// The lines that the channel itself obeys, rather than sending them as commands.
const (
	wordErrors = "errors"  // an error is a line "error ESTALE WORDS" from now on, as SFTP carries no errno
	wordLock   = "lock"    // flock(2) for programs that cannot call it
	wordTry    = "trylock" // with LOCK_NB: the error is EBUSY
	wordUnlock = "unlock"
	wordOK     = "ok\n" // answers them, and power and protocol

	// What is written to the file of that name, by this open: a lock by it admits these. Over
	// SFTP an open of the file itself may be another process's.
	wordPower    = "power"
	wordProtocol = "protocol"
	wordControl  = "control"
)

// words lists the words that this channel obeys.
func (c *channel) words() []string {
	if c.lockLines {
		return []string{wordErrors, wordLock, wordTry, wordUnlock, wordPower, wordProtocol, wordControl}
	}
	return []string{wordErrors}
}

// takesMore reports whether something follows the word.
func takesMore(word string) bool {
	return word == wordPower || word == wordProtocol || word == wordControl
}

// word returns the word that line begins with, and what follows it. For a line that is not yet
// whole it returns the word that line may become.
func (c *channel) word(line []byte, whole bool) (word string, rest []byte) {
	line = bytes.TrimLeft(line, blanks)
	if len(line) == 0 || bytes.IndexByte([]byte("eltupc"), line[0]) < 0 {
		return "", nil
	}
	if i := bytes.IndexByte(line, '#'); i >= 0 {
		line, whole = line[:i], true
	}
	for _, w := range c.words() {
		if !bytes.HasPrefix(line, []byte(w)) {
			if !whole && len(line) < len(w) && string(line) == w[:len(line)] {
				return w, nil
			}
			continue
		}
		rest := line[len(w):]
		switch after := bytes.TrimLeft(rest, blanks); {
		case len(after) == 0 && (!whole || !takesMore(w)), len(after) < len(rest) && takesMore(w):
			return w, after
		}
	}
	return "", nil
}

// wipe clears commands that are no longer needed: one may hold a PIN.
func wipe(commands []command) {
	for _, c := range commands {
		clear(c.data)
	}
}

// setLine makes rest the line that is still coming. It wipes every other copy of these bytes:
// the previous line, and the array in which parse joined that line to the new data. c.mu is
// held.
func (c *channel) setLine(rest, joined []byte) {
	for _, b := range [][]byte{c.line, joined} {
		if b = b[:cap(b)]; len(b) > 0 && (cap(rest) == 0 || &b[0] != &rest[:1][0]) {
			clear(b)
		}
	}
	c.line = rest
	clear(rest[len(rest):cap(rest)])
}

// parse cuts what came so far into commands and the start of another line. It
// changes nothing but what lies behind c.line in its array; joined is c.line and what came
// of that line, there or elsewhere. With an error, commands are those before it.
func (c *channel) parse(data []byte) (commands []command, rest, joined []byte, err error) {
	first := c.line
	if c.refused {
		return nil, nil, nil, reader.ErrInvalid
	}
	for {
		line, after, whole := bytes.Cut(data, []byte{'\n'})
		if !whole {
			if len(first)+len(line) > maxLine {
				return commands, nil, joined, reader.ErrInvalid
			}
			rest = append(first, line...)
			if first != nil {
				joined = rest
			}
			// Data that cannot be hex is refused now, not when the line is complete.
			if bytes.IndexByte(first, '#') < 0 {
				if err := checkDigits(line); err != nil {
					if w, _ := c.word(rest, false); w == "" {
						return commands, nil, rest, err
					}
				}
			}
			return commands, rest, joined, nil
		}
		if first != nil {
			joined, first = append(first, line...), nil
			line = joined
		}
		command, err := c.parseLine(line)
		if err != nil {
			return commands, nil, joined, err
		}
		if !command.none() {
			if len(commands) > maxAnswers { // too many already; the rest is only checked
				clear(command.data)
				command.data = nil
				wipe(commands[maxAnswers:])
				commands = commands[:maxAnswers]
			}
			commands = append(commands, command)
		}
		data = after
	}
}

func (c *channel) parseLine(line []byte) (command, error) {
	switch w, text := c.word(line, true); w {
	case "":
	case wordControl:
		data, err := parseHex(make([]byte, 0, (len(text)+1)/2), text)
		if err == nil {
			err = checkControl(data)
		}
		if err != nil {
			clear(data)
			return command{}, err
		}
		return command{word: w, data: fitted(data, 64), room: shortAnswer}, nil
	case wordPower, wordProtocol:
		text = bytes.TrimRight(text[:min(len(text), 100)], blanks)
		return command{word: w, data: bytes.Clone(text), room: len(wordOK)}, c.to.(besides).known(w, string(text))
	default:
		return command{word: w, room: len(wordOK)}, nil
	}
	data, err := parseHex(make([]byte, 0, (len(line)+1)/2), line)
	if err != nil || len(data) == 0 {
		clear(data)
		return command{}, err
	}
	data = fitted(data, 64) // blanks and comments take no memory
	room, err := c.to.check(data)
	if t, ok := c.to.(textChecker); ok && err == nil {
		err = t.checkText(data)
	}
	if err != nil {
		clear(data)
		return command{}, err
	}
	return command{data: data, room: room}, nil
}

// fitted is b in an array that is not much longer than it needs to be.
func fitted(b []byte, spare int) []byte {
	if cap(b) <= 2*len(b)+spare {
		return b
	}
	fit := bytes.Clone(b)
	clear(b)
	return fit
}
