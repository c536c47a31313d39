package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers"
)

// world is a machine made up by a test.
type world struct {
	*testing.T
	Host
	env  map[string]string
	says map[string]string // what a program prints, by its name and arguments; others fail
}

// stranger is a number that no user of a real machine has.
const stranger = 54321

// newWorld makes a machine with nothing on it. The user is not root.
func newWorld(t *testing.T) *world {
	w := &world{T: t, env: map[string]string{}, says: map[string]string{}}
	w.Host = Host{
		Root: t.TempDir(), User: User{Name: "ann", UID: stranger, Groups: []int{stranger}},
		Getenv: func(key string) string { return w.env[key] }, Run: w.run, Drivers: drivers.All(drivers.Env{}),
		CheckConf: func(string) string { return "" },
	}
	w.file("/proc/filesystems", "nodev\tfuse\n")
	return w
}

func (w *world) run(_ context.Context, program string, args ...string) (string, error) {
	out, ok := w.says[strings.Join(append([]string{filepath.Base(program)}, args...), " ")]
	if !ok {
		return "", errors.New("exit status 1")
	}
	return out, nil
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// file makes a file.
func (w *world) file(name, text string) {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.must(os.WriteFile(w.path(name), []byte(text), 0o644))
}

func (w *world) link(name, to string) {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.must(os.Symlink(to, w.path(name)))
}

func (w *world) dir(name string) {
	w.Helper()
	w.must(os.MkdirAll(w.path(name), 0o755))
}

// programs installs programs. A line "command: output" gives the output of one.
func (w *world) programs(lines ...string) {
	w.Helper()
	for _, l := range lines {
		command, out, _ := strings.Cut(l, ": ")
		name := "/usr/bin/" + strings.Fields(command)[0]
		w.file(name, "")
		w.must(os.Chmod(w.path(name), 0o755))
		w.says[command] = out
	}
}

// packages says that cardfs was installed as a Debian package, with these others.
func (w *world) packages(names ...string) {
	w.programs("apt-get", "dpkg-query")
	for _, name := range names {
		w.says["dpkg-query --show --showformat=${db:Status-Status} "+name] = "installed"
	}
}

// group makes a group with these members.
func (w *world) group(name string, gid int, members ...string) {
	w.programs(fmt.Sprintf("getent group %s: %s:x:%d:", name, name, gid), fmt.Sprintf("getent group %d: %s:x:%d:", gid, name, gid), "id")
	for _, m := range members {
		w.says["id -G "+m] = strings.TrimSpace(w.says["id -G "+m] + fmt.Sprintf(" %d", gid))
		w.says["id -Gn "+m] = strings.TrimSpace(w.says["id -Gn "+m] + " " + name)
	}
}

func (w *world) account(name string, uid int) {
	w.programs(fmt.Sprintf("getent passwd %d: %s:x:%d:%d::/home/%s:/bin/sh", uid, name, uid, uid, name))
}

// systemd makes systemd run and report these properties of a unit.
func (w *world) systemd(unit, properties string) {
	w.dir("/run/systemd/system")
	w.programs("systemctl")
	w.says["systemctl show "+unit] = strings.ReplaceAll(properties, " ", "\n")
}

// mount mounts a cardfs at a directory, with slots that have these status files.
func (w *world) mount(dir, options string, slots ...string) {
	w.Helper()
	w.file(dir+"/ctl", "")
	table, _ := os.ReadFile(w.path("/proc/self/mountinfo"))
	w.file("/proc/self/mountinfo", string(table)+fmt.Sprintf("36 35 0:%d / %s rw,nosuid - fuse.cardfs cardfs rw,%s\n", 40+len(table), dir, options))
	for n, status := range slots {
		w.file(fmt.Sprintf("%s/%d/status", dir, n), status)
		for line := range strings.Lines(status) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "by-id "); ok {
				w.link(dir+"/by-id/"+id, fmt.Sprintf("../%d", n))
			}
		}
	}
}

// usb plugs a device in: port "1-2" has number 2 on bus 1.
func (w *world) usb(port, vendor, product string, classes ...string) (dir string) {
	w.Helper()
	dir = "/sys/bus/usb/devices/" + port
	w.file(dir+"/idVendor", vendor+"\n")
	w.file(dir+"/idProduct", product+"\n")
	w.file(dir+"/busnum", port[:1]+"\n")
	w.file(dir+"/devnum", port[2:]+"\n")
	for n, class := range classes {
		w.file(fmt.Sprintf("%s/%s:1.%d/bInterfaceClass", dir, port, n), class+"\n")
	}
	w.file(fmt.Sprintf("/dev/bus/usb/00%s/00%s", port[:1], port[2:]), "")
	return dir
}

// process adds a process that has these files open.
func (w *world) process(pid int, name string, open ...string) {
	w.Helper()
	w.file(fmt.Sprintf("/proc/%d/comm", pid), name+"\n")
	for n, file := range open {
		w.link(fmt.Sprintf("/proc/%d/fd/%d", pid, n+3), file)
	}
}

// pcscd installs pcscd as Debian does.
func (w *world) pcscd() {
	w.programs("pcscd --version: pcsc-lite version 1.9.9.\nEnabled features: Linux libudev usbdropdir=/usr/lib/pcsc/drivers ipcdir=/run/pcscd configdir=/etc/reader.conf.d")
}

const drops = "/usr/lib/pcsc/drivers/"

// handler installs the handler, with a bundle that has these IDs.
func (w *world) handler(ids ...string) {
	w.file(drops+"serial/libifdcardfs.so", "ELF IFDHCreateChannel")
	w.file(drops+"ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so", "ELF IFDHCreateChannel")
	w.file(drops+"ifd-cardfs.bundle/Contents/Info.plist", plist(ids...))
}

func plist(ids ...string) string {
	var vendors, products strings.Builder
	for _, id := range ids {
		vendor, product, _ := strings.Cut(id, ":")
		fmt.Fprintf(&vendors, "\t\t<string>0x%s</string>\n", strings.ToUpper(vendor))
		fmt.Fprintf(&products, "\t\t<string>0x%s</string>\n", product)
	}
	return "<dict>\n<key>CFBundleExecutable</key>\n<string>libifdcardfs.so</string>\n<key>ifdVendorID</key>\n<array>\n" + vendors.String() +
		"</array>\n<key>ifdProductID</key>\n<array>\n" + products.String() + "</array>\n</dict>\n"
}

// finds compares the findings of a check with want: lines "state text", each followed by a line
// "> mend" if there is a remedy.
func (w *world) finds(check, want string) {
	w.Helper()
	var got strings.Builder
	for _, f := range w.Examine(w.Context()) {
		if f.Check != check {
			continue
		}
		fmt.Fprintf(&got, "%s %s\n", f.State, f.Text)
		if f.Mend != "" {
			fmt.Fprintf(&got, "> %s\n", f.Mend)
		}
	}
	var lines []string
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if got := strings.TrimSpace(got.String()); got != strings.Join(lines, "\n") {
		w.Errorf("%s finds\n%s\nwant\n%s", check, got, strings.Join(lines, "\n"))
	}
}
