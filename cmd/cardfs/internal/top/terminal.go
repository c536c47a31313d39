package top

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/gdamore/tcell/v2"
	"golang.org/x/sys/unix"
)

// screen is a terminal by tcell, which sends only the cells that changed.
type screen struct {
	s    tcell.Screen
	in   chan any
	quit chan struct{}
}

// openTerminal takes the terminal over.
func openTerminal() (*screen, error) {
	s, err := tcell.NewScreen()
	if err == nil {
		err = s.Init()
	}
	if err != nil {
		return nil, fmt.Errorf("use the terminal (TERM=%s): %w; without one: cardfs top -b", os.Getenv("TERM"), err)
	}
	return newScreen(s), nil
}

func newScreen(s tcell.Screen) *screen {
	t := &screen{s: s, in: make(chan any), quit: make(chan struct{})}
	events := make(chan tcell.Event, 16)
	go s.ChannelEvents(events, t.quit)
	go t.translate(events)
	return t
}

// names are those of keys that are no characters.
var names = map[tcell.Key]string{
	tcell.KeyUp: "up", tcell.KeyDown: "down", tcell.KeyPgUp: "pgup", tcell.KeyPgDn: "pgdn",
	tcell.KeyHome: "home", tcell.KeyEnd: "end", tcell.KeyEnter: "enter", tcell.KeyEscape: "esc",
	tcell.KeyBackspace: "backspace", tcell.KeyBackspace2: "backspace", tcell.KeyF1: "f1",
	tcell.KeyCtrlB: "ctrl-b", tcell.KeyCtrlC: "ctrl-c", tcell.KeyCtrlF: "ctrl-f", tcell.KeyCtrlL: "ctrl-l",
	tcell.KeyCtrlU: "ctrl-u", tcell.KeyCtrlZ: "ctrl-z",
}

// translate ends, and closes in, when the terminal does.
func (t *screen) translate(events <-chan tcell.Event) {
	defer close(t.in)
	for e := range events {
		var k any
		switch e := e.(type) {
		case *tcell.EventResize:
			w, h := e.Size()
			k = resize{w, h}
		case *tcell.EventKey:
			if e.Modifiers()&tcell.ModAlt != 0 {
				continue
			}
			if e.Key() == tcell.KeyRune {
				k = string(e.Rune())
			} else if name, ok := names[e.Key()]; ok {
				k = name
			}
		case *tcell.EventError:
			return
		}
		if k == nil {
			continue
		}
		select {
		case t.in <- k:
		case <-t.quit:
			return
		}
	}
}

func (t *screen) keys() <-chan any { return t.in }

func (t *screen) ascii() bool { return t.s.CharacterSet() != "UTF-8" }

func (t *screen) sync() { t.s.Sync() }

var styles = map[look]tcell.Style{
	plain:   tcell.StyleDefault,
	strong:  tcell.StyleDefault.Bold(true),
	dim:     tcell.StyleDefault.Dim(true),
	good:    tcell.StyleDefault.Foreground(tcell.ColorGreen),
	warning: tcell.StyleDefault.Foreground(tcell.ColorOlive),
	wrong:   tcell.StyleDefault.Foreground(tcell.ColorMaroon).Bold(true),
	graph:   tcell.StyleDefault.Foreground(tcell.ColorTeal),
}

// style is that of a look. On a terminal without colours tcell would leave out what else a
// style has.
func (t *screen) style(l look) tcell.Style {
	if t.s.Colors() == 0 {
		return styles[l].Foreground(tcell.ColorDefault)
	}
	return styles[l]
}

// draw shows the lines; what they leave is blank.
func (t *screen) draw(lines []line) {
	width, height := t.s.Size()
	for y := range height {
		x := 0
		reverse := false
		if y < len(lines) {
			reverse = lines[y].reverse
			for _, p := range lines[y].pieces {
				x = t.put(x, y, width, p.fit(t.ascii()), t.style(p.look).Reverse(reverse))
			}
		}
		for ; x < width; x++ {
			t.s.SetContent(x, y, ' ', nil, tcell.StyleDefault.Reverse(reverse))
		}
	}
	t.s.Show()
}

// put draws text from x on, and returns where it ended.
func (t *screen) put(x, y, width int, text string, style tcell.Style) int {
	for text != "" && x < width {
		rest, w := t.s.Put(x, y, text, style)
		if rest == text {
			break
		}
		x, text = x+w, rest
	}
	return x
}

// stopping is how long it may take until a signal to stop does so. Nobody stops where there
// is no shell to continue it (an orphaned process group).
const stopping = 250 * time.Millisecond

// suspend gives the terminal back until the program is continued.
func (t *screen) suspend() error {
	if err := t.s.Suspend(); err != nil {
		return fmt.Errorf("give the terminal back: %w", err)
	}
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, unix.SIGCONT)
	defer signal.Stop(continued)
	// To all in the group, as the terminal does it: of `cardfs top` in a script, that is the
	// script, too.
	if err := unix.Kill(0, unix.SIGTSTP); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	// kill(2) may return before another thread of the process has stopped it. The shell
	// would keep the terminal as it is then.
	select {
	case <-continued:
	case <-time.After(stopping):
	}
	if err := t.s.Resume(); err != nil {
		return fmt.Errorf("take the terminal again: %w", err)
	}
	t.s.Sync()
	return nil
}

func (t *screen) close() {
	close(t.quit)
	t.s.Fini()
}
