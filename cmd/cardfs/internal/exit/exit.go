// Package exit has the exit codes of cardfs and the errors that carry them.
package exit

import "fmt"

// Exit codes, also in `cardfs help exit-codes`.
const (
	OK       = 0
	Error    = 1 // what was asked for could not be done; stderr says why
	BadUsage = 2 // the command line or the input makes no sense
	None     = 3 // no such reader, or no card
	Refused  = 4 // send --ok, send -f: the card answered otherwise than asked for
)

// Status is an error that carries its exit code. A nil Err means that stderr already has
// all messages.
type Status struct {
	Code int
	Err  error
}

func (e Status) Error() string { return fmt.Sprint(e.Err) }
func (e Status) Unwrap() error { return e.Err }

// Usage is an error in the command line or the input, in words as for fmt.Errorf.
func Usage(format string, args ...any) error {
	return Status{BadUsage, fmt.Errorf(format, args...)}
}
