// Package script is the little language of `cardfs send -f` and `cardfs send -i`: a line is
// a command in hex or by its name, with what its answer has to be, or does something else,
// as setting a variable.
//
//	line     = [ command [ "=" pattern { "|" pattern } ] [ "->" NAME ] | verb ] [ "#" comment ]
//	command  = bytes | name { argument }
//	bytes    = { HEX | "$" NAME | "${" NAME "}" | '"' text '"' | "(" bytes ")" }
//	verb     = "set" NAME bytes | "prompt" NAME [ bytes ] | "echo" text
//	         | "reset" | "cold" | "lock" | "unlock"
//
// A script is checked whole before its first command is sent. Only what depends on an answer
// or on what a user types is checked later, before it is sent. A command is never sent
// twice.
//
// Errors show no byte of a line: it may hold a PIN, or be one, typed into the wrong place.
package script

// Host does what lines ask for. Its errors are in words for the user already.
type Host interface {
	// Exchange sends a command and shows it and its answer. A secret one holds what a
	// user typed.
	Exchange(capdu []byte, secret bool) (rapdu []byte, err error)
	Reset(how string) error // "reset" or "cold"
	Lock() error
	Unlock() error
	// Ask has the user type something that is not echoed.
	Ask(what string) ([]byte, error)
	Echo(text string) error
}
