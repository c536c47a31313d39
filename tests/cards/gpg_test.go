package cards

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/gnupg"
)

// newGPG is a desk whose gpg has a home of its own.
func newGPG(t *testing.T, part string, w way, args ...string) *desk {
	t.Helper()
	d := newDesk(t, part, w, args...)
	library := "libpcsclite.so.1"
	if w == viaFiles {
		library = filepath.Join(built, "pcsc", library)
	}
	env, err := gnupg.Prepare(d.home, "disable-ccid\npcsc-shared\npcsc-driver "+library+"\n", filepath.Join(cc.Root(), "tests/internal/gnupg/pinentry.sh"))
	if err != nil {
		t.Fatal(err)
	}
	d.env = append(d.env, env...)
	t.Cleanup(func() { d.run(gnupg.Forget) })
	return d
}

const agentSocket = "export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket)\n"

// noBrainpool is why the card refuses these curves, and does not have them in DO FA (OpenPGP card 3.4.1
// §4.4.3.11).
const noBrainpool = "the card does not offer Brainpool, which the standard library lacks"

// sshSign has ssh-keygen sign with the key that gpg-agent has from the card.
const sshSign = agentSocket + `ssh-add -L | grep cardno: >key.pub
	rm -f message.sig; ssh-keygen -Y sign -n file -f key.pub message; echo "me $(cut -d' ' -f1,2 key.pub)" >allowed
	ssh-keygen -Y verify -n file -I me -f allowed -s message.sig <message`

// deleted has gpg forget the keys that the card had.
const deleted = "gpg --batch --delete-secret-and-public-key $(gpg --list-keys --with-colons | awk -F: '/^fpr/ {print $10; exit}')\n"

// gpgLife is gpg with keys that the card makes, all through its life.
func gpgLife(t *testing.T, part string, w way) {
	d := newGPG(t, part, w, "--sim", "openpgp seed=26") // one by which keys of RSA are found soon
	gpg := func(action, script, want string) row {
		return row{client: "gpg", action: action, script: script, want: want}
	}
	refused := func(action, script, want string) row {
		return row{client: "gpg", action: action, script: script, want: want, fails: true}
	}
	d.do(
		gpg("card status", gnupg.Status, `Version \.*: 3\.4.*test card.*rsa2048 rsa2048 rsa2048.*retry counter : 3 0 3.*KDF setting \.*: off`),
		gpg("name, language, salutation, login, URL", gnupg.Edit(`admin name Sample Alice lang de sex f login alice url https://example.org/alice`)+gnupg.Status,
			`cardholder: Alice Sample.*prefs \.*: de.*Salutation.*Ms.*https://example.org/alice.*Login data \.*: alice`),
		notDone(gpg("key attributes: Brainpool", gnupg.Edit(`admin key-attr 2 6 2 6 2 6`)+gnupg.Status, `rsa2048 rsa2048 rsa2048`), noBrainpool),
		gpg("key attributes: P-256, P-384, P-521", gnupg.Edit(`admin key-attr 2 3 2 4 2 5`)+gnupg.Status, `nistp256 nistp384 nistp521`),
		gpg("generate, P-256, P-384, P-521", gnupg.Edit("admin "+gnupg.Alice), `KEY_CREATED B`),
		gpg("sign, P-256", gnupg.Sign, `Good signature from "Alice Sample`),
		gpg("decrypt, P-384", gnupg.Seal, `A message\.`),
		row{client: "ssh-keygen", action: "sign and verify through gpg-agent, P-521", script: sshSign, want: `Good "file" signature`},
		gpg("key attributes: RSA", gnupg.Edit(`admin key-attr 1 4096 1 3072 1 2048`)+gnupg.Status, `rsa4096 rsa3072 rsa2048`),
		gpg("generate, RSA 4096, 3072, 2048", deleted+gnupg.Edit("admin "+gnupg.Again), `KEY_CREATED B`),
		gpg("sign, RSA 4096", gnupg.Sign, `using RSA.*Good signature from "Alice Sample`),
		gpg("decrypt, RSA 3072", gnupg.Seal, `A message\.`),
		row{client: "ssh-keygen", action: "sign and verify through gpg-agent, RSA 2048", script: sshSign, want: `Good "file" signature`},
		gpg("factory reset", gnupg.Edit(`admin factory-reset y yes`)+gnupg.Forget+gnupg.Status, `cardholder: \[not set\].*rsa2048 rsa2048 rsa2048.*retry counter : 3 0 3.*Signature key \.*: \[none\]`),
		gpg("key attributes: Ed25519, X25519", gnupg.Edit("admin "+gnupg.Curve25519)+gnupg.Status, `ed25519 cv25519 ed25519`),
		gpg("generate, Ed25519, X25519", deleted+gnupg.Edit("admin "+gnupg.Alice), `KEY_CREATED B`),
		gpg("fingerprints and times on the card", gnupg.Status, `created \.\.\.\.: 20.*created \.\.\.\.: 20.*created \.\.\.\.: 20.*ed25519/.*Alice Sample`),
		gpg("sign, forced PIN", gnupg.Sign+gnupg.Status, `Good signature from "Alice Sample.*Signature counter : [1-9]`),
		gpg("decrypt", gnupg.Seal, `A message\.`),
		gpg("PIN for several signatures", gnupg.Edit(`admin forcesig`)+gnupg.Status, `Signature PIN \.*: not forced`),
		gpg("certificate of key 3, written and read", gnupg.Edit(`admin 'writecert 3 < message' 'readcert 3 > back'`)+"cmp message back", ``),
		gpg("private object, written and read", gnupg.Edit(`admin 'privatedo 1 < message'`)+gnupg.Status, `Private DO 1 \.*: A message`),
		gpg("change PIN, reset code, admin PIN", gnupg.Edit(`admin passwd 1 4 3 q`)+gnupg.Status, `SC_OP_SUCCESS.*SC_OP_SUCCESS.*SC_OP_SUCCESS.*retry counter : 3 3 3`),
		refused("sign, old PIN", gnupg.Forget+gnupg.Sign, `Bad PIN`),
		gpg("sign, new PIN", gnupg.Password("user", "654321")+gnupg.Sign+gnupg.Status, `Good signature.*retry counter : 3 3 3`),
		gpg("three wrong PINs block", gnupg.Forget+gnupg.Password("user", "000000")+"for i in 1 2 3; do gpg -d sealed || gpgconf --kill all; done\n"+gnupg.Status, `retry counter : 0 3 3`),
		refused("decrypt, PIN blocked", gnupg.Password("user", "654321")+gnupg.Seal, `PIN blocked|PIN is blocked|Bad PIN`),
		gpg("unblock with the reset code", gnupg.Password("new-user", "112233")+gnupg.Edit("unblock")+gnupg.Status, `retry counter : 3 3 3`),
		gpg("decrypt, the PIN of before", gnupg.Password("user", "112233")+"gpg -d sealed", `A message\.`),
		gpg("unblock with the admin PIN", gnupg.Forget+gnupg.Password("admin", "87654321")+gnupg.Password("new-user", "123456")+gnupg.Edit("admin passwd 2 q")+gnupg.Status, `SC_OP_SUCCESS.*retry counter : 3 3 3`),
		gpg("sign, the PIN of that", gnupg.Forget+gnupg.Password("user", "123456")+gnupg.Sign, `Good signature`),
		row{client: "ssh-keygen", action: "sign and verify through gpg-agent, Ed25519", script: sshSign, want: `Good "file" signature`},
		gpg("factory reset, keys and passwords", gnupg.Edit(`admin factory-reset y yes`)+gnupg.Forget+gnupg.Status, `retry counter : 3 0 3.*Signature key \.*: \[none\]`),
		gpg("generate with a backup of key 2", deleted+gnupg.Password("admin", "12345678")+gnupg.Password("passphrase", "of the backup")+
			gnupg.Edit("admin "+gnupg.Curve25519+" generate y 0 'Alice Sample' alice@example.org ''"), `KEY_CREATED B`),
		gpg("encrypt and decrypt", gnupg.Seal, `A message\.`),
		gpg("key 2 from its backup, decrypt", gnupg.Edit("admin factory-reset y yes")+gnupg.Forget+`printf '%s\n' "bkuptocard $(ls sk_*.gpg)" 2 save | say --edit-key alice`+"\n"+gnupg.Forget+"gpg -d sealed", `A message\.`),
		gpg("KDF", gnupg.Edit(`admin kdf-setup`)+gnupg.Status, `KDF setting \.*: on`),
		gpg("admin PIN as a hash", gnupg.Edit(`admin login bob`)+gnupg.Forget+gnupg.Status, `Login data \.*: bob.*retry counter : 3 0 3`),
	)
}

// gpgKeytocard is gpg with keys that it made itself, and moves to the card: one to sign, one to
// decrypt, one to log in. Which sizes each slot has is the other way around than in gpgLife.
func gpgKeytocard(t *testing.T, part string, w way) {
	kinds := [][3]string{
		{"rsa2048", "rsa4096", "rsa3072"}, {"nistp521", "nistp256", "nistp384"}, {"ed25519", "cv25519", "ed25519"},
		{"brainpoolP256r1", "brainpoolP256r1", "brainpoolP256r1"},
	}
	if soak() {
		for _, all := range []string{"rsa2048", "rsa3072", "rsa4096", "nistp256", "nistp384", "nistp521"} {
			kinds = append(kinds, [3]string{all, all, all})
		}
	}
	for _, kind := range kinds {
		t.Run(strings.Join(kind[:], "-"), func(t *testing.T) {
			t.Parallel()
			d := newGPG(t, part, w, "--sim", "openpgp")
			if err := os.CopyFS(d.home, os.DirFS(madeKeys(t, kind))); err != nil {
				t.Fatal(err)
			}
			move := row{client: "gpg", action: "keytocard, " + strings.Join(kind[:], ", "), want: strings.Join(kind[:], " ") + `.*Signature counter : 0`,
				script: `printf '%s\n' keytocard y 1 'key 1' keytocard 2 'key 1' 'key 2' keytocard 3 save | say --edit-key alice` + "\n" + gnupg.Status}
			if strings.HasPrefix(kind[0], "brainpool") {
				move.want, move.fails = `KEYTOCARD failed: Invalid value`, true
				d.do(notDone(move, noBrainpool))
				return
			}
			d.do(move,
				row{client: "gpg", action: "sign, " + kind[0], script: "gpg --list-secret-keys alice | grep '^sec>'\n" + gnupg.Sign + gnupg.Status, want: `sec>.*Good signature from "alice".*Signature counter : 1`},
				row{client: "gpg", action: "decrypt, " + kind[1], script: gnupg.Seal, want: `A message\.`},
				row{client: "ssh-keygen", action: "sign and verify through gpg-agent, " + kind[2], script: sshSign, want: `Good "file" signature`},
			)
		})
	}
}

var made struct {
	sync.Mutex
	homes map[[3]string]string
}

// madeKeys is a directory with what gpg has made: three keys of these kinds, to sign, decrypt and
// log in. They are made once for both ways.
func madeKeys(t *testing.T, kind [3]string) string {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	if home, ok := made.homes[kind]; ok {
		return home
	}
	auth := kind[2]
	if !strings.HasPrefix(auth, "rsa") && auth != "ed25519" {
		auth += "/ecdsa"
	}
	home, err := os.MkdirTemp(built, "") // short: gpg-agent's socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-ec", `trap 'gpgconf --kill all' EXIT
		make() { gpg --batch --passphrase '' "$@"; }
		make --quick-gen-key alice "$1" sign never
		key=$(gpg --list-keys --with-colons alice | awk -F: '/^fpr/ {print $10; exit}')
		make --quick-add-key $key "$2" encr never
		make --quick-add-key $key "$3" auth never
		cd "$GNUPGHOME"
		mkdir made
		cp -r pubring.kbx trustdb.gpg private-keys-v1.d made # not the sockets of the agent, which ends`, "sh", kind[0], kind[1], auth)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gpg makes %s: %v\n%s", kind, err, out)
	}
	if made.homes == nil {
		made.homes = map[[3]string]string{}
	}
	made.homes[kind] = filepath.Join(home, "made")
	return made.homes[kind]
}
