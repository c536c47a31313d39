package ifd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// OpenSC has a driver for the Rutoken S, which was written for drivers that rewrite commands.
// It formats the simulated token, stores a PIN and data in it, and gets them back: by
// CREATE FILE, CREATE DO, DELETE, SELECT by ID and by path, and lists of files.
func TestRutokenOpenSC(t *testing.T) {
	m := mount(t, "--sim", "rutoken")
	s := newPcscd(t, conf("Rutoken", "cardfs:"+m.Dir+"/0"))
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("what only the token knows"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		command string // '' is an empty word
		fails   bool
		says    string
	}{
		{"opensc-tool --atr", false, "3b:6f:00:ff:00:56:72:75:54:6f:6b:6e:73:30:20:00:00:90:00"},
		{"opensc-tool --name", false, "Rutoken S card"},
		{"opensc-tool --send-apdu 00A40000023F00", false, "62 3D 81 02 00 20 80 02 00 00 82 02 38 00 83 02"},
		{"pkcs15-init --erase-card", false, ""},
		{"pkcs15-init --create-pkcs15 --so-pin 87654321 --so-puk '' --pin 12345678 --puk '' --label Tested", false, ""},
		{"pkcs15-init --store-pin --label user --auth-id 02 --pin 12345678 --puk '' --so-pin 87654321", false, ""},
		{"pkcs15-init --store-data " + secret + " --auth-id 02 --label told --pin 12345678", false, ""},
		{"pkcs15-tool --dump", false, "PKCS#15 Card [Tested]"},
		{"pkcs15-tool --list-pins", false, "PIN [user]"},
		{"pkcs15-tool --read-data-object told --pin 12345678 --raw", false, "what only the token knows"},
		{"pkcs15-tool --verify-pin --auth-id 02 --pin 12345679", true, "PIN code or key incorrect"},
		{"pkcs15-tool --verify-pin --auth-id 02 --pin 12345678", false, ""},
		{"pkcs15-init --delete-objects data --application-name pkcs15-init --label told --pin 12345678", false, ""},
		{"opensc-tool --list-files", false, "3f0050154401 type: wEF, ef structure: transparent, size: 256"},
	} {
		words := strings.Fields(x.command)
		for i := range words {
			words[i] = strings.Trim(words[i], "'")
		}
		out, err := s.Command(t.Context(), words[0], words[1:]...).CombinedOutput()
		if (err != nil) != x.fails || !strings.Contains(string(out), x.says) {
			t.Errorf("%s: %v, want %q in\n%s", x.command, err, x.says, out)
		}
	}
}
