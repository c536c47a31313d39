package cards

import (
	"os"
	"testing"

	"github.com/cardfs/cardfs/tests/foreign"
	"github.com/cardfs/cardfs/tests/internal/gnupg"
)

// login runs Debian's sshd and ssh, which logs in to it, in a network of their own. sshd
// wants a user and a directory of its own, and writes its number when it listens.
const login = `#!/bin/sh
rm -f sshd.pid
exec unshare --net --pid --fork --kill-child sh -ec '
busybox ip link set lo up
unshare --mount sh -ec "
	mount --bind passwd /etc/passwd
	mount -t tmpfs tmpfs /run
	mkdir -m 755 /run/sshd
	LD_LIBRARY_PATH=$SSHD/lib/x86_64-linux-gnu $SSHD/usr/sbin/sshd -E $PWD/sshd.log -f $PWD/sshd_config"
until [ -e sshd.pid ]; do sleep 0.02; done
ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PasswordAuthentication=no "$@" root@127.0.0.1 "id -un; echo from \$SSH_CONNECTION"' sh "$@"
`

// loggedIn is what login says.
const loggedIn = `(?m)^root\nfrom 127\.0\.0\.1 `

// prepareLogin is for scripts that log in.
func (d *desk) prepareLogin() {
	d.t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		d.t.Fatal(err)
	}
	d.env = append(d.env, "SSHD="+foreign.Unpack(d.t, "openssh-server", "libwrap0"), "SSH_ASKPASS="+d.home+"/askpass", "SSH_ASKPASS_REQUIRE=force")
	d.write(map[string]string{
		"passwd":      string(passwd) + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n",
		"sshd_config": "HostKey " + d.home + "/host\nAuthorizedKeysFile " + d.home + "/authorized\nListenAddress 127.0.0.1\nStrictModes no\nUsePAM no\nPidFile " + d.home + "/sshd.pid\nPermitRootLogin yes\n",
		"askpass":     "#!/bin/sh\necho 123456\n",
		"login":       login,
	})
}

// logIn does the rows, which log in, or says why it does not.
func (d *desk) logIn(rows ...row) {
	d.t.Helper()
	if os.Getuid() != 0 {
		d.skip("sshd has to run as root, to log a user in", rows...)
		return
	}
	d.prepareLogin()
	d.do(rows...)
	if d.t.Failed() {
		log, _ := d.run("cat sshd.log")
		d.t.Logf("sshd said:\n%s", log)
	}
}

// gpgLogin is logins with the third key of an OpenPGP card, through gpg-agent and PKCS #11.
func gpgLogin(t *testing.T, part string, w way) {
	d := newGPG(t, part, w, "--sim", "openpgp")
	d.logIn(
		row{client: "gpg", action: "generate on the card", script: `ssh-keygen -q -t ed25519 -N '' -f host; touch authorized; ` + gnupg.Edit("admin "+gnupg.Curve25519+" "+gnupg.Alice), want: `KEY_CREATED B`},
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
		row{client: "ssh-keygen", action: "-D, public keys", script: `ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -D $P11 | grep "PIV AUTH" | tee id.pub authorized`, want: `^ecdsa-sha2-nistp256 .* PIV AUTH pubkey`},
		row{client: "ssh", action: "login by PKCS #11", script: `./login -o IdentityAgent=none -o PKCS11Provider=$P11 </dev/null`, want: loggedIn},
		row{client: "ssh-agent", action: "login", script: `echo hello >msg; ./agent ./login`, want: loggedIn},
		row{client: "ssh-agent", action: "sign and verify", script: `./agent ssh-keygen -Y sign -n file -f id.pub <msg >msg.sig; (echo -n "me "; cat id.pub) >signers
			ssh-keygen -Y verify -f signers -I me -n file -s msg.sig <msg`, want: `Good "file" signature`},
	)
}
