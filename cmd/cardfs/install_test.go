package main

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/config"
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

// files lists the files below dir with their modes.
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

// make install puts each file where programs look for it, readable by all whatever the umask.
// make uninstall removes them.
func TestInstall(t *testing.T) {
	root := t.TempDir()
	const conf = "/etc/cardfs.conf"
	variables := " DESTDIR=" + root + " PREFIX=/usr SBINDIR=/usr/sbin LIBDIR=/usr/lib/multiarch PCSC_DRIVERS=/usr/lib/pcsc/drivers EXTCAP_DIR=/usr/lib/multiarch/wireshark/extcap"
	sh(t, "umask 077; make install"+variables)
	installed := files(t, root)
	want := map[string]fs.FileMode{
		"/usr/bin/cardfs":                                             0o755,
		conf:                                                          0o644,
		"/usr/sbin/mount.cardfs":                                      fs.ModeSymlink | 0o777,
		"/usr/sbin/mount.fuse.cardfs":                                 fs.ModeSymlink | 0o777,
		"/usr/include/cardfs/cardfs.h":                                0o644,
		"/usr/include/cardfs/ctapi.h":                                 0o644,
		"/usr/lib/multiarch/libctapi-cardfs.so":                       fs.ModeSymlink | 0o777,
		"/usr/lib/multiarch/libctapi-cardfs.so.1":                     0o644,
		"/usr/lib/multiarch/cardfs/libpcsclite.so.1":                  0o644,
		"/usr/lib/multiarch/pkgconfig/libctapi-cardfs.pc":             0o644,
		"/usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Info.plist": 0o644,
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
	for _, page := range []string{"man1/cardfs.1", "man1/cardfs-mount.1", "man5/cardfs.5", "man5/cardfs.conf.5", "man7/cardfs-recipes.7", "man8/libifdcardfs.8", "man8/libpcsclite-cardfs.8", "man8/mount.cardfs.8"} {
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

	// The C libraries export only their interface, and need only libc.
	t.Run("symbols", func(t *testing.T) {
		for path, prefixes := range map[string]string{
			"/usr/lib/multiarch/cardfs/libpcsclite.so.1": "SCard g_rgSCard pcsc_stringify_error", // which: tests/clib
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
				begins := func(p string) bool { return strings.HasPrefix(s.Name, p) }
				if s.Section != elf.SHN_UNDEF && !slices.ContainsFunc(strings.Fields(prefixes), begins) {
					t.Errorf("%s shows %s", path, s.Name)
				}
			}
			needs, err := f.ImportedLibraries()
			linker := func(name string) bool { return strings.HasPrefix(name, "ld-linux") } // for variables of a thread
			if needs = slices.DeleteFunc(needs, linker); err != nil || len(needs) != 1 || needs[0] != "libc.so.6" {
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
			SYSTEMD_UNIT_PATH=$DIR: systemd-analyze verify --man=no $DIR/cardfs.service $DIR/pcscd.service`,
			"ROOT="+root, "DIR="+dir)
		unit, err := os.ReadFile(filepath.Join(dir, "cardfs.service"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(unit), "@") && !strings.Contains(string(unit), "@system-service @mount") {
			t.Errorf("something was left in\n%s", unit)
		}
		for _, key := range []string{"ExecStart", "ExecReload"} {
			line := regexp.MustCompile(`(?m)^` + key + `=\S+ mount (.*) \$CARDFS_ARGS (\S+)$`).FindStringSubmatch(string(unit))
			if line == nil {
				t.Fatalf("no %s in\n%s", key, unit)
			}
			cmd := newMount()
			if err := cmd.ParseFlags(strings.Fields(line[1])); err != nil || line[2] != client.Default {
				t.Errorf("%s: %s %s: %v", key, line[1], line[2], err)
			}
			if f := cmd.Flag("config").Value.String(); f != conf {
				t.Errorf("%s: --config %s", key, f)
			}
			if check := cmd.Flag("check").Value.String(); check != strconv.FormatBool(key == "ExecReload") {
				t.Errorf("%s: --check is %s", key, check)
			}
		}
	})

	// The configuration file has the service's settings, and its examples are valid.
	t.Run("conf", func(t *testing.T) {
		sh(t, `sed -E 's/"cardfs"/"root"/' $ROOT/etc/cardfs.conf >$DIR/plain
			sed -E 's/^#(\[|[a-z-]+ = )/\1/' $DIR/plain >$DIR/all
			for f in plain all; do $ROOT/usr/bin/cardfs mount --check --config $DIR/$f; done`, "ROOT="+root, "DIR="+t.TempDir())
		f, err := config.Read(root + conf)
		if err != nil || len(f.Attach)+len(f.Readers)+len(f.Quirks) > 0 {
			t.Errorf("%+v, %v", f, err)
		}
		got := map[string]string{}
		for _, option := range f.Mount {
			got[option.Name] = strings.Join(option.Values, ",")
		}
		if want := map[string]string{"allow-other": "true", "group": "cardfs", "mode": "0660"}; !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
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
		// fish looks there even if no desktop has set XDG_DATA_DIRS.
		sh(t, `dir=$(make -n install PREFIX=/usr/local DESTDIR=/root-of-nothing | sed -n 's|.*/root-of-nothing\(.*\)/cardfs.fish$|\1|p')
			env -i HOME=$ROOT PATH=$PATH fish -c 'string join \n -- $fish_complete_path' | grep -qx "$dir"`, "ROOT="+root)
	})

	// Files that somebody changed stay, even after another installation, and are reported.
	changed := map[string]string{
		conf: "# mine\n", "/etc/default/cardfs": "CARDFS_ARGS=--verbose\n",
		"/etc/fstab":                  "/dev/sda1 / ext4 defaults 0 1\ncardfs /mnt/cards fuse.cardfs _netdev 0 0\n",
		"/etc/reader.conf.d/cardfs":   "LIBPATH /usr/lib/pcsc/drivers/serial/libifdcardfs.so\n",
		"/etc/reader.conf.d/another":  "LIBPATH /usr/lib/pcsc/drivers/serial/libifdother.so\n",
		"/usr/share/man/man1/other.1": "",
	}
	for name, text := range changed {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+name), 0o755), os.WriteFile(root+name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "make install"+variables)
	out := sh(t, "make uninstall"+variables)
	left := files(t, root)
	for name, text := range changed {
		if got, err := os.ReadFile(root + name); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v; want what it was", name, got, err)
		}
		delete(left, name)
	}
	if len(left) > 0 {
		t.Errorf("make uninstall left %v", left)
	}
	var told []string
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(line, "left: "); ok {
			told = append(told, strings.ReplaceAll(strings.TrimSpace(text), root, ""))
		}
	}
	if want := []string{
		"/etc/cardfs.conf, your settings: rm /etc/cardfs.conf", "/etc/default/cardfs, your settings: rm /etc/default/cardfs",
		"/etc/reader.conf.d/cardfs, in which pcscd is told of readers: rm /etc/reader.conf.d/cardfs, or its entries", "lines in /etc/fstab: remove them",
	}; !slices.Equal(told, want) {
		t.Errorf("told: %q, want %q", told, want)
	}

	// Nothing else is left.
	for name := range changed {
		os.Remove(root + name)
	}
	sh(t, "make install"+variables)
	if out := sh(t, "make uninstall"+variables); strings.Contains(out, "left: ") {
		t.Error(out)
	}
	for path := range files(t, root) {
		t.Errorf("%s is left after make uninstall", path)
	}
}

// make uninstall reports what it leaves on the running system: the service, mounts, the group.
func TestLeft(t *testing.T) {
	dir := t.TempDir()
	program := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	left := func() string {
		return sh(t, `PATH=$DIR:$PATH cmd/cardfs/install/left.sh "" $DIR/etc`, "DIR="+dir)
	}
	program("awk", "exit 0")
	program("systemctl", "exit 3")
	program("getent", "exit 2")
	if out := left(); out != "" {
		t.Error(out)
	}
	program("awk", "echo /mnt/a; echo /mnt/b")
	program("systemctl", `[ "$2" = is-enabled ]`)
	program("getent", `[ "$*" = "group cardfs" ]`)
	if out, want := left(), "left: cardfs.service, running or enabled: systemctl disable --now cardfs; systemctl daemon-reload\n"+
		"left: a mount: umount /mnt/a\nleft: a mount: umount /mnt/b\nleft: the group cardfs: groupdel cardfs\n"; out != want {
		t.Errorf("%s, want\n%s", out, want)
	}
}
