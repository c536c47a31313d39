package top

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// mount is a cardfs by its files.
type mount struct{ *client.Mount }

func (m mount) look(numbers []int, all bool) ([]survey.Slot, error) {
	if all {
		return survey.All(m.Dir)
	}
	return survey.Read(m.Dir, numbers)
}

func (m mount) explain(err error) error { return m.Explain(err) }

func (m mount) follow(show func(slot int, left, lost bool)) error {
	f, err := m.Events().Follow()
	if err != nil {
		return err
	}
	_, err = f.Each(client.Forever, func(e client.Event) (bool, error) {
		show(e.Slot, e.Event == "left", e.Lost > 0)
		return false, nil
	})
	if err == nil {
		err = errors.New("the mount ended")
	}
	return err
}

// power returns when the card did it.
func (m mount) power(slot int, word string) error {
	s := m.Slot(slot)
	f, err := s.Open(io.Discard, "power", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(word + "\n")
	return s.Explain(err)
}

func (m mount) trace(slot int) (io.ReadCloser, error) {
	f, err := os.Open(m.Slot(slot).Path("trace"))
	if errors.Is(err, unix.EACCES) {
		return nil, errors.New("only " + m.Owner() + ", whose mount it is, may read a trace")
	}
	return f, err
}
