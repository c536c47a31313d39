package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/ask"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/prompt"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/script"
)

// host does what the lines of a script or of a prompt ask for.
type host struct {
	*printer
	*client.Channel
	stderr io.Writer
	ask    func(what string) ([]byte, error)
}

// Exchange sends a command, and prints it and its answer.
func (h *host) Exchange(capdu []byte, secret bool) ([]byte, error) {
	if err := h.sending(capdu, secret); err != nil {
		return nil, err
	}
	rapdu, err := h.Channel.Exchange(capdu)
	if err != nil {
		return nil, err
	}
	return rapdu, h.answered(rapdu)
}

// Reset resets the card. What GET RESPONSE fetches belongs to nothing before it.
func (h *host) Reset(how string) error {
	h.explainer.Reset()
	return h.Channel.Reset(how)
}

func (h *host) Ask(what string) ([]byte, error) { return h.ask(what) }

// Echo prints a text, and not between the objects of --json.
func (h *host) Echo(text string) error {
	out := h.out
	if h.json {
		out = h.stderr
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

// asker reads what nobody may see: from a descriptor if there is one, else at the terminal.
func asker(fd int) func(string) ([]byte, error) {
	if fd < 0 {
		return ask.Terminal
	}
	return func(string) ([]byte, error) { return ask.Descriptor(fd) }
}

// readScript reads and checks a script; "-" is standard input.
func readScript(name string, stdin io.Reader) (*script.Script, error) {
	if name == "-" {
		return script.Parse("standard input", stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return script.Parse(name, f)
}

// interact runs the prompt. A card that is not there is not waited for once it has begun.
func (h *host) interact(session *script.Session, fd int) error {
	h.status = true
	h.Wait = 0
	p := &prompt.Prompt{
		Name: h.Slot.Name, Out: h.out, Err: h.stderr, History: prompt.HistoryFile(),
		Locked:  h.Holds,
		ATR:     func() (string, error) { return readATR(h.Slot, h.stderr) },
		Explain: func(on bool) { h.words = on },
	}
	if err := p.Open(); err != nil {
		return err
	}
	defer p.Close()
	if fd < 0 {
		h.ask = p.Ask
	}
	return p.Run(session)
}

func readATR(slot client.Slot, stderr io.Writer) (string, error) {
	f, err := slot.Open(stderr, "atr", os.O_RDONLY, time.Duration(0))
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	return strings.TrimSpace(string(text)), slot.Explain(err)
}
