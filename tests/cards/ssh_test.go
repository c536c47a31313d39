package cards

import (
	"strconv"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/gnupg"
	"github.com/cardfs/cardfs/tests/internal/sshd"
)

// login logs in to the sshd of prepareLogin.
const login = `#!/bin/sh
exec ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PasswordAuthentication=no -p $SSHD_PORT "$@" $SSHD_USER@127.0.0.1 "id -un; echo from \$SSH_CONNECTION"
`

// loggedIn is what login says.
const loggedIn = `(?m)^\S+\nfrom 127\.0\.0\.1 `

// prepareLogin is for scripts that log in with a key in the file authorized.
func (d *desk) prepareLogin() {
	d.t.Helper()
	s := sshd.New(d.t, "AuthorizedKeysFile "+d.home+"/authorized")
	d.env = append(d.env, "SSHD_PORT="+strconv.Itoa(s.Port), "SSHD_USER="+s.User, "SSH_ASKPASS="+d.home+"/askpass", "SSH_ASKPASS_REQUIRE=force")
	d.write(map[string]string{"askpass": "#!/bin/sh\necho 123456\n", "login": login})
}

// logIn does the rows, which log in.
func (d *desk) logIn(rows ...row) {
	d.t.Helper()
	d.prepareLogin()
	d.do(rows...)
}

// gpgLogin is logins with the third key of an OpenPGP card, through gpg-agent and PKCS #11.
func gpgLogin(t *testing.T, part string, w way) {
	d := newGPG(t, part, w, "--sim", "openpgp")
	d.logIn(
		row{client: "gpg", action: "generate on the card", script: `touch authorized; ` + gnupg.Edit("admin "+gnupg.Curve25519+" "+gnupg.Alice), want: `KEY_CREATED B`},
		row{client: "ssh", action: "login without the key", script: agentSocket + `./login`, want: `Permission denied`, fails: true},
		row{client: "ssh", action: "login through gpg-agent", script: agentSocket + `ssh-add -L >authorized; ./login`, want: loggedIn},
		row{client: "openpgp-tool", action: "generate key 3", script: `gpgconf --kill all; openpgp-tool --gen-key 3 --key-type rsa2048 --verify CHV3 --pin 12345678`, want: `Fingerprint`},
		row{client: "ssh-keygen", action: "-D, public keys", script: `ssh-keygen -D $P11 | grep ssh-rsa | tee authorized`, want: `ssh-rsa `},
		row{client: "ssh", action: "login by PKCS #11", script: `./login -o IdentityAgent=none -o PKCS11Provider=$P11 </dev/null`, want: loggedIn},
	)
}

// pivLogin is logins with the first key of a PIV card, by PKCS #11 and through ssh-agent.
//
// Debian's ssh-agent is setgid: the libraries ignore the environment of such a program, but not
// that of a copy.
func pivLogin(t *testing.T, part string, w way) {
	d := newDesk(t, part, w, "--sim", "piv")
	d.write(map[string]string{"agent": `#!/bin/sh -e
[ -e ssh-agent ] || cp "$(command -v ssh-agent)" ssh-agent
eval "$(./ssh-agent -a "$PWD/socket-$$" -P '/usr/lib/*')" >/dev/null
trap 'kill $SSH_AGENT_PID' EXIT
ssh-add -s $P11 </dev/null
"$@"
`})
	d.logIn(
		row{client: "ssh-keygen", action: "-D, public keys", script: `ssh-keygen -D $P11 | grep "PIV AUTH" | tee id.pub authorized`, want: `^ecdsa-sha2-nistp256 .* PIV AUTH pubkey`},
		row{client: "ssh", action: "login by PKCS #11", script: `./login -o IdentityAgent=none -o PKCS11Provider=$P11 </dev/null`, want: loggedIn},
		row{client: "ssh-agent", action: "login", script: `echo hello >msg; ./agent ./login`, want: loggedIn},
		row{client: "ssh-agent", action: "sign and verify", script: `./agent ssh-keygen -Y sign -n file -f id.pub <msg >msg.sig; (echo -n "me "; cat id.pub) >signers
			ssh-keygen -Y verify -f signers -I me -n file -s msg.sig <msg`, want: `Good "file" signature`},
	)
}
