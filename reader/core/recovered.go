package core

import (
	"github.com/cardfs/cardfs/reader"
)

// recovered is deferred around a call of a driver that belongs to no reader yet.
func (m *Manager) recovered(what string, err *error) {
	if v := recover(); v != nil {
		*err = reader.Recovered(m.log, what, v)
	}
}
