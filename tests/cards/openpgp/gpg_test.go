package openpgp

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
)

// Passwords, by the file in which the pinentry of the tests finds them.
var passwords = map[string]string{
	"user": "123456", "admin": "12345678", "reset": "resetcode", "new-user": "654321", "new-admin": "87654321", "new-reset": "resetcode",
	"passphrase": "",
}

// say has gpg take the lines of its standard input for answers.
const say = `say() { gpg --no-tty --command-fd 0 --status-fd 1 "$@"; }
exec 2>&1
`

// newGPG is a bench whose gpg has a home of its own.
func newGPG(t *testing.T, args ...string) *bench {
	t.Helper()
	need(t, map[string]string{"gpg": "gnupg", "/usr/lib/gnupg/scdaemon": "scdaemon", "ssh-add": "openssh-client", "bash": "bash"})
	b := newBench(t, args...)
	b.before = say
	pins := filepath.Join(b.home, "pins")
	b.env = append(b.env, "GNUPGHOME="+b.home, "PINS="+pins)
	files := map[string]string{
		"scdaemon.conf":  "disable-ccid\npcsc-shared\npcsc-driver " + library + "\n",
		"gpg-agent.conf": "enable-ssh-support\npinentry-program " + filepath.Join(cc.Root(), "tests/cards/openpgp/testdata/pinentry.sh") + "\n",
		"gpg.conf":       "yes\n",
		"message":        "A message.\n",
	}
	for name, value := range passwords {
		files["pins/"+name] = value
	}
	if err := os.Mkdir(pins, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { b.run("gpgconf --kill all") })
	b.versions("gpg --version", "ssh -V")
	return b
}

// password has the pinentry answer something else from now on.
func password(name, value string) string { return "printf '%s' '" + value + "' >pins/" + name + "\n" }

// gpg with keys that the card makes, all through its life.
func TestGPG(t *testing.T) {
	b := newGPG(t, "--usb=off", "--sim", "openpgp")
	b.steps([]step{
		{"gpg", "card status", `gpg --card-status`, `Version \.*: 3\.4.*test card.*rsa2048 rsa2048 rsa2048.*retry counter : 3 0 3.*KDF setting \.*: off`, false},
		{"gpg", "name, language, salutation, login, URL", `printf '%s\n' admin name Sample Alice lang de sex f login alice url https://example.org/alice quit | say --card-edit >/dev/null
			gpg --card-status`, `cardholder: Alice Sample.*prefs \.*: de.*Salutation.*Ms.*https://example.org/alice.*Login data \.*: alice`, false},
		{"gpg", "algorithm attributes: Ed25519, X25519", `printf '%s\n' admin key-attr 2 1 2 1 2 1 quit | say --card-edit >/dev/null; gpg --card-status`, `ed25519 cv25519 ed25519`, false},
		{"gpg", "generate on the card", `printf '%s\n' admin generate n 0 'Alice Sample' alice@example.org '' quit | say --card-edit`, `KEY_CREATED B`, false},
		{"gpg", "fingerprints and times on the card", `gpg --card-status`, `created \.\.\.\.: 20.*created \.\.\.\.: 20.*created \.\.\.\.: 20.*ed25519/.*Alice Sample`, false},
		{"gpg", "sign, forced PIN", `gpg -o signed -s message; gpg --verify signed; gpg --card-status`, `Good signature from "Alice Sample.*Signature counter : [1-9]`, false},
		{"gpg", "decrypt", `gpg -o sealed --trust-model always -r alice -e message; gpg -d sealed`, `A message\.`, false},
		{"gpg", "PIN for several signatures", `printf '%s\n' admin forcesig quit | say --card-edit; gpg --card-status`, `Signature PIN \.*: not forced`, false},
		{"gpg", "change PIN, reset code, admin PIN", `printf '%s\n' admin passwd 1 4 3 q quit | say --card-edit; gpg --card-status`, `SC_OP_SUCCESS.*SC_OP_SUCCESS.*SC_OP_SUCCESS.*retry counter : 3 3 3`, false},
		{"gpg", "old PIN is wrong", `gpgconf --kill all; gpg -o again -s message`, `Bad PIN`, true},
		{"gpg", "new PIN is right", password("user", "654321") + `gpg -o again -s message; gpg --verify again; gpg --card-status`, `Good signature.*retry counter : 3 3 3`, false},
		{"gpg", "three wrong PINs block", `gpgconf --kill all` + "\n" + password("user", "000000") + `for i in 1 2 3; do gpg -d sealed || gpgconf --kill all; done
			gpg --card-status`, `retry counter : 0 3 3`, false},
		{"gpg", "a blocked PIN is not asked", password("user", "654321") + `gpg -d sealed`, `PIN blocked|PIN is blocked|Bad PIN`, true},
		{"gpg", "unblock with the reset code", password("new-user", "112233") + `printf '%s\n' unblock quit | say --card-edit; gpg --card-status`, `retry counter : 3 3 3`, false},
		{"gpg", "decrypt with the PIN after that", password("user", "112233") + `gpg -d sealed`, `A message\.`, false},
		{"ssh-add", "key of gpg-agent", `export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket); ssh-add -L | tee key.pub`, `ssh-ed25519 \S+ cardno:`, false},
		{"ssh-keygen", "sign and verify through gpg-agent", `export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket)
			ssh-keygen -Y sign -n file -f key.pub message; echo "alice $(cut -d' ' -f1,2 key.pub)" >allowed
			ssh-keygen -Y verify -n file -I alice -f allowed -s message.sig <message`, `Good "file" signature for alice`, false},
		{"gpg", "factory reset", `printf '%s\n' admin factory-reset y yes quit | say --card-edit >/dev/null; gpgconf --kill all; gpg --card-status`, `cardholder: \[not set\].*rsa2048 rsa2048 rsa2048.*retry counter : 3 0 3.*Signature key \.*: \[none\]`, false},
		{"gpg", "KDF", password("user", "123456") + password("admin", "12345678") + `printf '%s\n' admin kdf-setup quit | say --card-edit >/dev/null; gpg --card-status`, `KDF setting \.*: on`, false},
		{"gpg", "admin PIN as a hash", `printf '%s\n' admin login bob quit | say --card-edit >/dev/null; gpgconf --kill all; gpg --card-status`, `Login data \.*: bob.*retry counter : 3 0 3`, false},
	})
}

// gpg with keys that it made itself, and moves to the card. Each kind signs and deciphers.
func TestGPGKeytocard(t *testing.T) {
	for _, kind := range [][3]string{
		{"rsa2048", "rsa2048", "rsa2048"}, {"ed25519", "cv25519", "ed25519"}, {"nistp256", "nistp256", "nistp256/ecdsa"},
		{"nistp384", "nistp384", "nistp384/ecdsa"}, {"nistp521", "nistp521", "nistp521/ecdsa"},
	} {
		t.Run(kind[0], func(t *testing.T) {
			b := newGPG(t, "--usb=off", "--sim", "openpgp")
			b.steps([]step{
				{"gpg", "make " + kind[0], `gpg --batch --passphrase '' --quick-gen-key bob ` + kind[0] + ` sign never
					F=$(gpg --list-keys --with-colons bob | awk -F: '/^fpr/ {print $10; exit}')
					gpg --batch --passphrase '' --quick-add-key $F ` + kind[1] + ` encr never
					gpg --batch --passphrase '' --quick-add-key $F ` + kind[2] + ` auth never`, ``, false},
				{"gpg", "keytocard " + kind[0], `printf '%s\n' keytocard y 1 'key 1' keytocard 2 'key 1' 'key 2' keytocard 3 save | say --edit-key bob
					gpg --card-status`, kind[0] + " " + kind[1] + " " + kind[0] + `.*Signature counter : 0`, false},
				{"gpg", "sign", `gpg --list-secret-keys bob | grep '^sec>'; gpg -o signed -s message; gpg --verify signed; gpg --card-status`, `sec>.*Good signature from "bob".*Signature counter : 1`, false},
				{"gpg", "decrypt", `gpg -o sealed --trust-model always -r bob -e message; gpg -d sealed`, `A message\.`, false},
				{"ssh-add", "key of gpg-agent", `export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket); ssh-add -L | grep cardno: | tee key.pub`, `cardno:`, false},
				{"ssh-keygen", "sign and verify", `export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket)
					ssh-keygen -Y sign -n file -f key.pub message; echo "bob $(cut -d' ' -f1,2 key.pub)" >allowed
					ssh-keygen -Y verify -n file -I bob -f allowed -s message.sig <message`, `Good "file" signature for bob`, false},
			})
		})
	}
}
