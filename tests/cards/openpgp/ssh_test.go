package openpgp

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cardfs/cardfs/tests/foreign"
)

// server runs Debian's sshd on its standard input and output, as inetd would. It wants a user
// and a directory of its own, which it finds in a mount namespace.
const server = `exec unshare -m sh -ec '
mount --bind passwd /etc/passwd
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
export LD_LIBRARY_PATH=$SSHD/lib/x86_64-linux-gnu
exec "$SSHD/usr/sbin/sshd" -i -e -f "$PWD/sshd_config"' 2>sshd.log
`

const login = `ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ProxyCommand='sh sshd.sh' -o PasswordAuthentication=no`

// A login with the card's third key, through gpg-agent and through PKCS #11.
func TestSSHLogin(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("sshd has to run as root, to log a user in")
	}
	b := newGPG(t, "--usb=off", "--sim", "openpgp")
	need(t, map[string]string{"openpgp-tool": "opensc", "unshare": "util-linux", "ssh": "openssh-client"})
	b.env = append(b.env, "SSHD="+foreign.Unpack(t, "openssh-server", "libwrap0"))
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd":      string(passwd) + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n",
		"sshd.sh":     server,
		"sshd_config": "HostKey " + b.home + "/host\nAuthorizedKeysFile " + b.home + "/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n",
		"askpass":     "#!/bin/sh\necho 123456\n",
	} {
		if err := os.WriteFile(filepath.Join(b.home, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.steps([]step{
		{"gpg", "generate on the card", `ssh-keygen -q -t ed25519 -N '' -f host; printf '%s\n' admin key-attr 2 1 2 1 2 1 generate n 0 'Alice Sample' alice@example.org '' quit | say --card-edit`, `KEY_CREATED B`, false},
		{"ssh", "a login without the key", `touch authorized; export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket); ` + login + ` root@card id -un`, `Permission denied`, true},
		{"ssh", "a login through gpg-agent", `export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket); ssh-add -L >authorized; ` + login + ` root@card id -un`, `\broot\n`, false},
		{"openpgp-tool", "generate key 3", `gpgconf --kill all; openpgp-tool --gen-key 3 --key-type rsa2048 --verify CHV3 --pin 12345678`, `Fingerprint`, false},
		{"ssh-keygen", "public keys by PKCS #11", `ssh-keygen -D $(ls /usr/lib/*/opensc-pkcs11.so) | grep ssh-rsa | tee authorized`, `ssh-rsa `, false},
		{"ssh", "a login by PKCS #11", `export SSH_ASKPASS=$PWD/askpass SSH_ASKPASS_REQUIRE=force; ` + login + ` -o IdentityAgent=none -o PKCS11Provider=$(ls /usr/lib/*/opensc-pkcs11.so) root@card id -un </dev/null`, `\broot\n`, false},
	})
	if t.Failed() {
		log, _ := os.ReadFile(filepath.Join(b.home, "sshd.log"))
		t.Logf("sshd said:\n%s", log)
	}
}
