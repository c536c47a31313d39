// Package gnupg prepares gpg for tests that have it use an OpenPGP card.
package gnupg

import (
	"errors"
	"os"
	"path/filepath"
)

// passwords are those that the pinentry answers with, by what it is asked for: of a new card,
// and what they are changed to.
var passwords = map[string]string{
	"user": "123456", "admin": "12345678", "reset": "resetcode", "new-user": "654321", "new-admin": "87654321", "new-reset": "resetcode",
	"passphrase": "",
}

// Prepare makes a home for gpg of the directory home, whose path has to be short: sockets lie
// in it. scdaemon is the text of scdaemon.conf, pinentry the path of pinentry.sh of this package
// where gpg runs. It returns what has to be in gpg's environment. There is a file message to
// sign, and "say", a gpg that takes its answers from standard input.
func Prepare(home, scdaemon, pinentry string) (env []string, err error) {
	files := map[string]string{
		"bin/say":        "#!/bin/sh\nexec gpg --no-tty --command-fd 0 --status-fd 1 \"$@\"\n",
		"scdaemon.conf":  scdaemon,
		"gpg-agent.conf": "enable-ssh-support\npinentry-program " + pinentry + "\n",
		"gpg.conf":       "yes\n",
		"message":        "A message.\n",
	}
	for name, value := range passwords {
		files["pins/"+name] = value
	}
	for _, dir := range []string{"bin", "pins"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(home, dir), 0o700))
	}
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(home, name), []byte(text), 0o700))
	}
	return []string{"GNUPGHOME=" + home, "PINS=" + home + "/pins", "PATH=" + home + "/bin:" + os.Getenv("PATH")}, err
}

// What scripts of bash say.
const (
	Status = "gpg --card-status\n"
	Forget = "gpgconf --kill all\n" // scdaemon and the agent keep a PIN that was right
	Sign   = "gpg -o signed -s message; gpg --verify signed\n"
	Seal   = "gpg -o sealed --trust-model always -r alice -e message; gpg -d sealed\n"
	Alice  = "generate n 0 'Alice Sample' alice@example.org ''"   // for Edit
	Again  = "generate n y 0 'Alice Sample' alice@example.org ''" // in place of keys that the card has

	Curve25519 = "key-attr 2 1 2 1 2 1" // for Edit: Ed25519 and X25519
)

// Password has the pinentry answer something else from now on.
func Password(name, value string) string { return "printf '%s' '" + value + "' >pins/" + name + "\n" }

// Edit has gpg --card-edit take these answers.
func Edit(answers string) string {
	return "printf '%s\\n' " + answers + " quit | say --expert --card-edit\n"
}
