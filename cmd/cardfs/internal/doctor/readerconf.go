package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// entry is a reader in a file of reader.conf's.
type entry struct {
	file        string
	first, last int             // lines, from 1
	lines       map[string]line // by key
	// late is a DEVICENAME that pcscd does not take as this entry's, for it had taken the entry
	// as complete before.
	late line
}

type line struct {
	number int
	value  string // as it is in the file
}

// bareChars make a value without quotes (pcsc-lite 1.9.9 to 2.5.1, src/configfile.l).
const bareChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789=\\/-._@:"

// parseEntries reads a file as pcscd does: an entry is complete with FRIENDLYNAME, LIBPATH and
// one of CHANNELID and DEVICENAME, and what comes then is the next one's. But of a line that
// follows at once it is known whose it was meant to be.
func parseEntries(file, text string) (list []entry) {
	now, open := -1, false
	number := 0
	for s := range strings.Lines(text) {
		number++
		key, value, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(s, "\t", " ")), " ")
		if key == "" || key[0] == '#' {
			continue
		}
		if key != "FRIENDLYNAME" { // a name may have any character in its quotes
			value, _, _ = strings.Cut(value, "#")
		}
		l := line{number, strings.TrimSpace(value)}
		meant := key == "CHANNELID" || key == "DEVICENAME" && now >= 0 && strings.Contains(list[now].value("LIBPATH"), handler)
		if now >= 0 && !open && list[now].last+1 == number && !list[now].has(key) && meant {
			if key == "DEVICENAME" {
				list[now].late = l
			}
			list[now].last = number
			continue
		}
		if !open || list[now].has(key) {
			list = append(list, entry{file: file, first: number, lines: map[string]line{}})
			now = len(list) - 1
		}
		n := &list[now]
		n.lines[key], n.last = l, number
		open = !n.complete()
	}
	return list
}

func (n entry) has(key string) bool { return n.lines[key].number > 0 }

// complete reports whether pcscd makes a reader of the entry.
func (n entry) complete() bool {
	return n.has("FRIENDLYNAME") && n.has("LIBPATH") && (n.has("CHANNELID") || n.has("DEVICENAME"))
}

func (n entry) value(key string) string { return n.lines[key].value }

// ours reports whether the entry is for the readers of cardfs.
func (n entry) ours() bool {
	return strings.Contains(filepath.Base(n.value("LIBPATH")), handler) || strings.Contains(n.value("DEVICENAME")+n.late.value, "cardfs:")
}

func (n entry) at(key string) string { return fmt.Sprintf("%s:%d", n.file, n.lines[key].number) }

// device is the path of the slot that the entry names: by DEVICENAME or, without that, by
// CHANNELID, which is the slot's number.
func (n entry) device() string {
	if !n.has("DEVICENAME") {
		number, _ := strconv.ParseUint(n.value("CHANNELID"), 0, 32)
		return filepath.Join(client.Default, strconv.FormatUint(number, 10))
	}
	path := strings.TrimPrefix(strings.Trim(n.value("DEVICENAME"), `"'`), "cardfs:")
	if rest, ok := strings.CutPrefix(path, "slots="); ok {
		if _, after, ok := strings.Cut(rest, ":"); ok {
			path = after
		}
	}
	return path
}

// where is the line that says which slot it is.
func (n entry) where() string {
	if n.has("DEVICENAME") {
		return n.at("DEVICENAME")
	}
	return n.at("CHANNELID")
}

// mountDir is the mount of that slot.
func (n entry) mountDir() string {
	dir := filepath.Dir(n.device())
	if filepath.Base(dir) == "by-id" {
		dir = filepath.Dir(dir)
	}
	return dir
}

// entries are all of reader.conf's.
func (e *exam) entries() (list []entry) {
	if e.pcscd == nil {
		return nil
	}
	files, _ := os.ReadDir(e.path(e.pcscd.conf))
	for _, f := range files {
		file := filepath.Join(e.pcscd.conf, f.Name())
		if strings.HasPrefix(f.Name(), ".") || f.IsDir() {
			continue // pcscd leaves them out, too
		}
		list = append(list, parseEntries(file, e.readAll(file))...)
	}
	return list
}

// readAll keeps the number of the lines, which read does not.
func (e *exam) readAll(file string) string {
	text, _ := os.ReadFile(e.path(file))
	return string(text)
}

// change is a command that writes a line of an entry anew.
func (e *exam) change(n entry, key, value string) string {
	return e.sudo(fmt.Sprintf("sed -i %s %s", quote(fmt.Sprintf("%dc%-12s %s", n.lines[key].number, key, value)), quote(n.file))) + e.thenRestart()
}

// comment is a command that has pcscd ignore an entry.
func (e *exam) comment(n entry) string {
	return e.sudo(fmt.Sprintf("sed -i '%d,%ds/^/#/' %s", n.first, n.last, quote(n.file))) + e.thenRestart()
}

// readerConf looks at the entries of reader.conf. One that is wrong ends pcscd when it starts,
// whoever's it is.
func (e *exam) readerConf() {
	all := e.entries()
	if e.pcscd == nil {
		return
	}
	before := len(e.Findings)
	seen := map[string]entry{}
	ours := 0
	for _, n := range all {
		if n.ours() {
			ours++
			first, again := seen[n.device()]
			if again {
				e.wrong(e.comment(n), "%s names the reader of %s once more: pcscd lists it twice", n.where(), first.where())
				continue
			}
			seen[n.device()] = n
		}
		e.library(n)
		if n.ours() {
			e.deviceName(n)
		}
	}
	if len(e.Findings) > before {
		return
	}
	if p := e.pcscd.running; p != nil && len(all) > 0 {
		if file, ok := e.newer(all, e.since(p)); ok {
			e.warn(e.restartPcscd(), "%s was changed after pcscd started, which reads it only then", file)
			return
		}
	}
	e.ok("%s has nothing that pcscd refuses; readers of cardfs in it: %d", e.pcscd.conf, ours)
}

// newer finds a file that was changed after a time.
func (e *exam) newer(all []entry, start time.Time) (file string, ok bool) {
	for _, n := range all {
		info, err := os.Stat(e.path(n.file))
		if err == nil && !start.IsZero() && info.ModTime().After(start.Add(time.Second)) {
			return n.file, true
		}
	}
	return "", false
}

// library looks at LIBPATH.
func (e *exam) library(n entry) {
	path := n.value("LIBPATH")
	bare := strings.Trim(path, `"'`)
	good := e.handlerFile()
	inBundle := strings.Contains(bare, ourBundle+"/")
	switch {
	case !n.has("LIBPATH"):
	case path != bare && strings.Trim(bare, bareChars) == "" && e.exists(bare):
		e.wrong(e.change(n, "LIBPATH", bare), "%s: pcscd takes no quotes around LIBPATH", n.at("LIBPATH"))
	case n.ours() && (!e.exists(bare) || !filepath.IsAbs(bare) || strings.Trim(bare, bareChars) != "") && e.exists(good):
		e.wrong(e.change(n, "LIBPATH", good), "%s: pcscd ends when it reads LIBPATH %s: there is no such library", n.at("LIBPATH"), path)
	case n.ours() && !e.exists(bare):
		e.wrong(e.installOurs("libifdcardfs"), "%s: pcscd ends when it reads LIBPATH %s: there is no such library", n.at("LIBPATH"), path)
	case !e.exists(bare):
		e.wrong(e.comment(n), "%s: pcscd ends when it reads LIBPATH %s: there is no such library", n.at("LIBPATH"), path)
	case inBundle && e.exists(good):
		e.warn(e.change(n, "LIBPATH", good), "%s: pcscd warns of a library in a bundle, and numbers its readers together with the bundle's own", n.at("LIBPATH"))
	}
}

// deviceName looks at DEVICENAME.
func (e *exam) deviceName(n entry) {
	l := n.lines["DEVICENAME"]
	path := n.device()
	dir := n.mountDir()
	at := slices.IndexFunc(e.mounts, func(m mount) bool { return m.dir == dir })
	switch {
	case n.late.number > 0:
		e.wrong(e.moveUp(n), "%s:%d: pcscd does not see DEVICENAME behind all of CHANNELID, LIBPATH and FRIENDLYNAME, and takes %s instead", n.file, n.late.number, path)
	case !n.complete():
		e.wrong(e.regenerate(n), "%s:%d: pcscd leaves out what has not all of FRIENDLYNAME, LIBPATH and DEVICENAME", n.file, n.first)
	case !filepath.IsAbs(path):
		e.wrong(e.change(n, "DEVICENAME", "cardfs:"+e.absolute(path)), "%s: the path in DEVICENAME %s is not absolute", n.at("DEVICENAME"), l.value)
	case strings.ContainsAny(l.value, `"'`):
		e.wrong(e.change(n, "DEVICENAME", strings.Trim(l.value, `"'`)), "%s: pcscd takes no quotes around DEVICENAME", n.at("DEVICENAME"))
	case l.number > 0 && strings.Trim(l.value, bareChars) != "":
		e.wrong(e.regenerate(n), "%s: pcscd takes only letters, digits and = \\ / - . _ @ : in DEVICENAME", n.at("DEVICENAME"))
	case l.number > 0 && !strings.HasPrefix(l.value, "cardfs:"):
		e.wrong(e.change(n, "DEVICENAME", "cardfs:"+path), "%s: DEVICENAME %s needs cardfs: in front", n.at("DEVICENAME"), l.value)
	case at < 0:
		e.warn(e.start(dir), "%s: no cardfs is mounted at %s; until it is, pcscd lists a reader without a card", n.where(), dir)
	case e.mounts[at].err != nil:
		e.unknown("", "%s: whether %s is there cannot be seen: %v", n.where(), path, e.mounts[at].err)
	case !e.exists(path):
		e.warn(e.regenerate(n), "%s: %s is not there: it is unplugged, or has another name now (ls %s/by-id)", n.where(), path, dir)
	case e.bundled(e.mounts[at], path):
		e.wrong(e.comment(n), "%s: pcscd finds %s by the bundle as well, and lists it twice", n.where(), filepath.Base(path))
	}
}

// moveUp is a command that writes DEVICENAME as the first line of its entry.
func (e *exam) moveUp(n entry) string {
	return e.sudo(fmt.Sprintf("sed -i -e %s -e %dd %s", quote(fmt.Sprintf("%di%-12s %s", n.first, "DEVICENAME", n.late.value)), n.late.number, quote(n.file))) + e.thenRestart()
}

// absolute makes a path in a mount of one that is relative.
func (e *exam) absolute(path string) string {
	dir := client.Default
	for _, m := range e.mounts {
		if m.err == nil {
			dir = m.dir
			break
		}
	}
	if i := strings.LastIndex(path, "by-id/"); i >= 0 {
		return filepath.Join(dir, path[i:])
	}
	return filepath.Join(dir, filepath.Base(path))
}

// regenerate is a command that makes the entries anew, where the file has no others.
func (e *exam) regenerate(n entry) string {
	for _, o := range e.entries() {
		if o.file == n.file && !o.ours() {
			return e.comment(n)
		}
	}
	return "cardfs reader-conf --mount " + quote(n.usableDir(e)) + " | " + e.write(n.file) + e.thenRestart()
}

// usableDir is the entry's mount, or the one that can be used.
func (n entry) usableDir(e *exam) string {
	dir := n.mountDir()
	for _, m := range e.mounts {
		if m.err == nil && !slices.ContainsFunc(e.mounts, func(m mount) bool { return m.dir == dir }) {
			return m.dir
		}
	}
	if !filepath.IsAbs(dir) {
		return client.Default
	}
	return dir
}

// start is a command that has a cardfs at dir.
func (e *exam) start(dir string) string {
	if dir == client.Default && e.systemd && e.unit(cardfsUnit).found {
		return e.sudo("systemctl restart " + cardfsUnit)
	}
	return e.sudo("mkdir -p "+quote(dir), "cardfs mount --background --allow-other "+quote(dir))
}

// bundled reports whether pcscd finds a slot's reader by the installed bundle.
func (e *exam) bundled(m mount, path string) bool {
	has := plistIDs(e.read(filepath.Join(e.pcscd.drops, ourBundle, infoPlist)))
	for _, s := range m.slots {
		if (s.status.Value("by-id") == filepath.Base(path) || fmt.Sprint(s.number) == filepath.Base(path)) &&
			s.status.Value("bus") == "usb" && has[s.status.Value("usb-id")] {
			return true
		}
	}
	return false
}
