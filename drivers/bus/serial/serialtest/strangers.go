package serialtest

import "time"

// What may be at the end of a line in place of the reader that a driver looks for, each as
// the function of a Device.

// Mute takes what comes and says nothing.
func Mute(l *Line) {
	for _, ok := l.Next(); ok; _, ok = l.Next() {
	}
}

// Echo sends every character back, as two wires do that touch.
func Echo(l *Line) {
	for c, ok := l.Char(); ok; c, ok = l.Char() {
		l.Send(c)
	}
}

// Babble sends p whenever the host did something, or has not for the time of a pause.
func Babble(pause time.Duration, p ...byte) func(l *Line) {
	return func(l *Line) {
		for _, ok := l.NextWithin(pause); ok; _, ok = l.NextWithin(pause) {
			l.Send(p...)
		}
	}
}
