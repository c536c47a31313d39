package main

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/tests/cc"
)

// sh runs a shell command at the top of the tree; it must succeed.
func sh(t *testing.T, command string, env ...string) string {
	t.Helper()
	cmd := exec.Command("sh", "-euc", command)
	cmd.Dir = cc.Root()
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// files lists the files below dir, and their modes.
func files(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	list := map[string]fs.FileMode{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		list[strings.TrimPrefix(path, dir)] = info.Mode()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// make install puts each thing where programs look for it, readable by all
// whatever the umask; make uninstall removes it.
func TestInstall(t *testing.T) {
	root := t.TempDir()
	variables := " DESTDIR=" + root + " PREFIX=/usr SBINDIR=/usr/sbin LIBDIR=/usr/lib/multiarch PCSC_DRIVERS=/usr/lib/pcsc/drivers EXTCAP_DIR=/usr/lib/multiarch/wireshark/extcap"
	sh(t, "umask 077; make install"+variables)
	installed := files(t, root)
	want := map[string]fs.FileMode{
		"/usr/bin/cardfs":                                                        0o755,
		"/usr/sbin/mount.cardfs":                                                 fs.ModeSymlink | 0o777,
		"/usr/sbin/mount.fuse.cardfs":                                            fs.ModeSymlink | 0o777,
		"/usr/include/cardfs/cardfs.h":                                           0o644,
		"/usr/include/cardfs/ctapi.h":                                            0o644,
		"/usr/lib/multiarch/libctapi-cardfs.so":                                  fs.ModeSymlink | 0o777,
		"/usr/lib/multiarch/libctapi-cardfs.so.1":                                0o644,
		"/usr/lib/multiarch/pkgconfig/libctapi-cardfs.pc":                        0o644,
		"/usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Info.plist":            0o644,
		"/usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so": 0o644,
		"/usr/lib/multiarch/wireshark/extcap/cardfs-extcap":                      0o755,
		ifdLibrary:                               0o644,
		"/usr/lib/systemd/system/cardfs.service": 0o644,
		"/usr/lib/systemd/system/pcscd.service.d/cardfs.conf": 0o644,
		"/usr/lib/sysusers.d/cardfs.conf":                     0o644,
		"/usr/lib/udev/rules.d/70-cardfs.rules":               0o644,
		"/usr/share/bash-completion/completions/cardfs":       0o644,
		"/usr/share/zsh/site-functions/_cardfs":               0o644,
		"/usr/share/fish/vendor_completions.d/cardfs.fish":    0o644,
	}
	for _, page := range []string{"man1/cardfs.1", "man1/cardfs-mount.1", "man5/cardfs.5", "man8/libifdcardfs.8", "man8/mount.cardfs.8"} {
		want["/usr/share/man/"+page] = 0o644
	}
	want["/usr/share/man/man8/mount.fuse.cardfs.8"] = fs.ModeSymlink | 0o777
	for path, mode := range want {
		if got, ok := installed[path]; !ok || got != mode {
			t.Errorf("%s: mode %v, want %v", path, got, mode)
		}
	}
	for path, mode := range installed {
		if strings.HasPrefix(path, "/usr/share/man/man1/cardfs-") && mode == 0o644 {
			continue // of each command
		}
		if _, ok := want[path]; !ok {
			t.Errorf("%s was installed, too", path)
		}
	}

	t.Run("bundle", func(t *testing.T) {
		plist, err := os.ReadFile(root + "/usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Info.plist")
		if err != nil {
			t.Fatal(err)
		}
		ids := strings.Count(sh(t, root+"/usr/bin/cardfs ids"), "\n")
		for _, key := range []string{"ifdVendorID", "ifdProductID", "ifdFriendlyName"} {
			array := regexp.MustCompile(`(?s)<key>` + key + `</key>\s*<array>(.*?)</array>`).FindSubmatch(plist)
			if array == nil || strings.Count(string(array[1]), "<string>") != ids || ids == 0 {
				t.Errorf("%s: not one for each of the %d lines of cardfs ids:\n%s", key, ids, plist)
			}
		}
	})

	// The C libraries show their interface and nothing else, and need only libc.
	t.Run("symbols", func(t *testing.T) {
		for path, prefix := range map[string]string{
			ifdLibrary: "IFDH",
			"/usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so": "IFDH",
			"/usr/lib/multiarch/libctapi-cardfs.so":                                  "CT_",
		} {
			f, err := elf.Open(root + path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			symbols, err := f.DynamicSymbols()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range symbols {
				if s.Section != elf.SHN_UNDEF && !strings.HasPrefix(s.Name, prefix) {
					t.Errorf("%s shows %s", path, s.Name)
				}
			}
			if needs, err := f.ImportedLibraries(); err != nil || len(needs) != 1 || needs[0] != "libc.so.6" {
				t.Errorf("%s needs %q, %v; want libc.so.6 alone", path, needs, err)
			}
		}
	})

	t.Run("units", func(t *testing.T) {
		if _, err := exec.LookPath("systemd-analyze"); err != nil {
			t.Skip("NOT TESTED: systemd-analyze is missing (apt-get install systemd)")
		}
		dir := t.TempDir()
		sh(t, `sed "s|/usr/bin/cardfs|$ROOT&|" $ROOT/usr/lib/systemd/system/cardfs.service >$DIR/cardfs.service
			cp -r $ROOT/usr/lib/systemd/system/pcscd.service.d $DIR
			printf '[Service]\nExecStart=/bin/true\n' >$DIR/pcscd.service
			SYSTEMD_UNIT_PATH=$DIR: systemd-analyze verify $DIR/cardfs.service $DIR/pcscd.service`,
			"ROOT="+root, "DIR="+dir)
		unit, err := os.ReadFile(filepath.Join(dir, "cardfs.service"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(unit), "@") && !strings.Contains(string(unit), "@system-service @mount") {
			t.Errorf("something was left in\n%s", unit)
		}
		line := regexp.MustCompile(`(?m)^ExecStart=\S+ mount (.*) \$CARDFS_ARGS (\S+)$`).FindStringSubmatch(string(unit))
		if line == nil {
			t.Fatalf("no ExecStart in\n%s", unit)
		}
		if err := newMount().ParseFlags(strings.Fields(line[1])); err != nil || line[2] != client.Default {
			t.Errorf("ExecStart: %s %s: %v", line[1], line[2], err)
		}
	})

	t.Run("library", func(t *testing.T) {
		dir := t.TempDir()
		source := "#include <cardfs/ctapi.h>\n#include <cardfs/cardfs.h>\nint main(void) { return (signed char)CT_init(1, 0) == ERR_HOST ? 0 : 1; }\n"
		if err := os.WriteFile(filepath.Join(dir, "ct.c"), []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		sh(t, `cc -Wall -Wextra -Werror -I$ROOT/usr/include -L$ROOT/usr/lib/multiarch -o $DIR/ct $DIR/ct.c -lctapi-cardfs
			LD_LIBRARY_PATH=$ROOT/usr/lib/multiarch $DIR/ct`, "ROOT="+root, "DIR="+dir, "CARDFS_MOUNT="+dir)
	})

	t.Run("completion", func(t *testing.T) {
		sh(t, `bash -euc '. $ROOT/usr/share/bash-completion/completions/cardfs; complete -p cardfs'
			grep -q '#compdef cardfs' $ROOT/usr/share/zsh/site-functions/_cardfs
			grep -q 'complete -c cardfs' $ROOT/usr/share/fish/vendor_completions.d/cardfs.fish`, "ROOT="+root)
	})

	sh(t, "make uninstall"+variables)
	for path := range files(t, root) {
		t.Errorf("%s is left after make uninstall", path)
	}
}
