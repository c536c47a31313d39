package main

import "context"

// throughLibrary measures pcscd with libifdcardfs.
func (e *env) throughLibrary(context.Context) error {
	e.missing = "not written yet"
	return nil
}
