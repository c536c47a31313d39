package top

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Help is a screen of what keys do. It is part of the command's help, too.
const Help = `  up, k, down, j       choose a row
  page up, page down   a screen back, forth; also ctrl-B and ctrl-F or space
  home, g, end, G      the first row, the last one
  /                    show only rows in which each of the words is found: in
                       number, state, reader, card, driver, by-id, device or ATR;
                       enter keeps the filter, escape ends it
  s, S                 sort by the next of: number, exchanges/s, latency, errors,
                       sessions, state, reader, card; the other way round
  r                    warm reset of the card
  p                    power off, or on
  e                    eject the card, where the reader can
  t, enter             follow the slot's trace, which is for the mount's owner;
                       up and down look back, end goes on; t, q, escape return
  ctrl-L, ctrl-Z       draw the screen anew; stop until fg
  q, ctrl-C            quit`

// key takes a key: a character, or the name of another key.
func (m *model) key(k string) action {
	switch k {
	case "ctrl-c":
		return action{what: "quit"}
	case "ctrl-l":
		return action{what: "redraw"}
	case "ctrl-z":
		return action{what: "suspend"}
	}
	switch m.mode {
	case filtering:
		m.typed(k)
		return action{}
	case confirming:
		m.mode, m.message, m.bad = browsing, "", false
		if k != "y" && k != "Y" {
			return action{}
		}
		if r := m.rows[m.answer.slot]; r == nil || r.id != m.about {
			m.message, m.bad = fmt.Sprintf("slot %d: the reader left meanwhile", m.answer.slot), true
			return action{}
		}
		m.message = m.answer.doing()
		return m.answer
	case helping:
		m.mode = browsing
		return action{}
	case tracing:
		switch k {
		case "q", "t", "esc":
			m.mode = browsing
			return action{what: "untrace"}
		}
		m.trace.scroll(k, m.height-2)
		return action{}
	}
	m.message, m.bad = "", false
	return m.browse(k)
}

func (m *model) browse(k string) action {
	switch k {
	case "q":
		return action{what: "quit"}
	case "?", "h", "f1":
		m.mode = helping
	case "/":
		m.mode = filtering
	case "esc":
		m.filter = ""
		m.arrange()
	case "s":
		m.sort, m.reverse = (m.sort+1)%len(sorts), false
		m.arrange()
	case "S":
		m.reverse = !m.reverse
		m.arrange()
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup", "ctrl-b":
		m.move(-m.page())
	case "pgdn", "ctrl-f", " ":
		m.move(m.page())
	case "home", "g":
		m.move(-len(m.order))
	case "end", "G":
		m.move(len(m.order))
	case "r", "p", "e", "t", "enter":
		if r := m.rows[m.selected]; r != nil && len(m.order) > 0 {
			return m.act(k, r)
		}
	}
	return action{}
}

// act does, or asks whether to do, something with the selected slot. What takes a card's
// state from its users is asked about.
func (m *model) act(k string, r *row) action {
	a := action{what: "power", slot: r.number}
	switch {
	case k == "t" || k == "enter":
		m.mode, m.traced, m.trace = tracing, r.number, trace{}
		return action{what: "trace", slot: r.number}
	case r.state != "present" && r.state != "powered":
		m.message, m.bad = fmt.Sprintf("no card in slot %d", r.number), true
		return action{}
	case k == "p" && r.state == "present":
		a.word = "on"
		m.message = a.doing()
		return a
	case k == "p":
		a.word = "off"
	case k == "r":
		a.word = "reset"
	case k == "e":
		a.word = "eject"
	}
	m.mode, m.answer, m.about = confirming, a, r.id
	m.question = fmt.Sprintf("%s slot %d, %s?", strings.ToUpper(powerNames[a.word][:1])+powerNames[a.word][1:], r.number, r.reader)
	switch {
	case r.sessions == 1:
		m.question += " 1 session loses its card."
	case r.sessions > 1:
		m.question += fmt.Sprintf(" %d sessions lose their card.", r.sessions)
	}
	m.question += " (y/n)"
	return action{}
}

func (a action) doing() string { return fmt.Sprintf("slot %d: %s …", a.slot, powerNames[a.word]) }

// move selects the row that many rows further.
func (m *model) move(by int) {
	if len(m.order) == 0 {
		return
	}
	m.moved = true
	at := max(0, slices.Index(m.order, m.selected)) + by
	m.selected = m.order[min(max(at, 0), len(m.order)-1)]
	m.keep(0)
}

// typed takes a key while the filter is typed.
func (m *model) typed(k string) {
	switch {
	case k == "enter":
		m.mode = browsing
	case k == "esc":
		m.mode, m.filter = browsing, ""
	case k == "ctrl-u":
		m.filter = ""
	case k == "backspace":
		_, size := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-size]
	case utf8.RuneCountInString(k) == 1:
		m.filter += k
	}
	m.top = 0
	m.arrange()
}
