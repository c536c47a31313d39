package doctor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
)

// pcscd is how pcscd was built and what its USB drivers are.
type pcscd struct {
	version string // "1.9.9"
	drops   string // the directory of bundles
	conf    string // the directory of reader.conf's files
	running *process
	// ccid are the IDs that libccid's bundle has, nil without one.
	ccid map[string]bool
}

const (
	handler     = "libifdcardfs.so"
	ourBundle   = "ifd-cardfs.bundle"
	ccidBundle  = "ifd-ccid.bundle"
	infoPlist   = "Contents/Info.plist"
	handlerCall = "IFDHCreateChannel"
)

var (
	versionWord = regexp.MustCompile(`version (\d+(?:\.\d+)+)`)
	dropsWord   = regexp.MustCompile(`\busbdropdir=(\S+)`)
	confWord    = regexp.MustCompile(`\b(?:configdir|serialconfigdir)=(\S+)`)
)

// findPcscd asks pcscd how it was built. nil: it is not installed.
func (e *exam) findPcscd() *pcscd {
	out, err := e.run("pcscd", "--version")
	if err != nil && out == "" {
		return nil
	}
	word := func(r *regexp.Regexp, otherwise string) string {
		if m := r.FindStringSubmatch(out); m != nil {
			return m[1]
		}
		return otherwise
	}
	p := &pcscd{
		version: word(versionWord, "of unknown version"),
		drops:   word(dropsWord, "/usr/lib/pcsc/drivers"),
		conf:    word(confWord, "/etc/reader.conf.d"),
	}
	if i := slices.IndexFunc(e.processes, func(p process) bool { return p.name == "pcscd" }); i >= 0 {
		p.running = &e.processes[i]
	}
	if text := e.read(filepath.Join(p.drops, ccidBundle, infoPlist)); text != "" {
		p.ccid = plistIDs(text)
	}
	return p
}

// plistIDs are the IDs of a bundle, as "04b9:1300".
func plistIDs(text string) map[string]bool {
	vendors, products := plistArray(text, "ifdVendorID"), plistArray(text, "ifdProductID")
	ids := map[string]bool{}
	for i := range min(len(vendors), len(products)) {
		v, err1 := strconv.ParseUint(vendors[i], 0, 16)
		p, err2 := strconv.ParseUint(products[i], 0, 16)
		if err1 == nil && err2 == nil {
			ids[fmt.Sprintf("%04x:%04x", v, p)] = true
		}
	}
	return ids
}

var plistString = regexp.MustCompile(`<string>\s*([^<]*?)\s*</string>`)

// plistArray are the strings of a key: of its array, or the one that is all.
func plistArray(text, key string) (list []string) {
	_, rest, ok := strings.Cut(text, "<key>"+key+"</key>")
	if !ok {
		return nil
	}
	rest = strings.TrimSpace(rest)
	end := "</string>"
	if strings.HasPrefix(rest, "<array>") {
		end = "</array>"
	}
	i := strings.Index(rest, end)
	if i < 0 {
		return nil
	}
	for _, m := range plistString.FindAllStringSubmatch(rest[:i+len(end)], -1) {
		list = append(list, m[1])
	}
	return list
}

// pcscdThere says which pcscd there is.
func (e *exam) pcscdThere() {
	if e.pcscd == nil {
		e.ok("pcscd is not installed; only PC/SC programs need it")
		return
	}
	if e.pcscd.running == nil {
		e.ok("pcscd %s is installed, and does not run now", e.pcscd.version)
		return
	}
	e.ok("pcscd %s runs as pid %d", e.pcscd.version, e.pcscd.running.pid)
}

// restartPcscd is a command by which pcscd reads its configuration anew.
func (e *exam) restartPcscd() string {
	switch {
	case e.systemd && e.unit(pcscdUnit).found:
		return e.sudo("systemctl restart " + pcscdUnit)
	case e.pcscd != nil && e.pcscd.running != nil:
		return e.sudo("kill "+strconv.Itoa(e.pcscd.running.pid)) + " && sleep 1 && " + e.sudo("pcscd")
	}
	return e.sudo("pcscd")
}

// thenRestart is the end of a command that changes what pcscd reads when it starts.
func (e *exam) thenRestart() string {
	if e.pcscd == nil || e.pcscd.running == nil || !e.systemd || !e.unit(pcscdUnit).found {
		return ""
	}
	return " && " + e.sudo("systemctl try-restart "+pcscdUnit)
}

// handlerThere reports whether pcscd can have the readers of cardfs at all.
func (e *exam) handlerThere() bool {
	return e.pcscd != nil && (e.exists(e.handlerFile()) || e.exists(filepath.Join(e.pcscd.drops, ourBundle)))
}

func (e *exam) handlerFile() string { return filepath.Join(e.pcscd.drops, "serial", handler) }

// removeCCID is a command that takes libccid away from pcscd, "" if it is not there. Debian's
// pcscd needs some package with drivers; libifdcardfs is one.
func (e *exam) removeCCID() string {
	if e.pcscd == nil || e.pcscd.ccid == nil {
		return ""
	}
	dir := filepath.Join(e.pcscd.drops, ccidBundle)
	mend := e.sudo("mv " + dir + " " + strings.TrimSuffix(dir, ".bundle") + ".off")
	if e.packaged("libccid") && e.packaged("cardfs") {
		mend = e.sudo("apt-get install libifdcardfs libccid-") // the minus sign removes it
	}
	return mend + e.thenRestart()
}

// libccid looks whether pcscd's own driver wants a reader that cardfs wants, too.
func (e *exam) libccid() {
	switch {
	case e.pcscd == nil:
		return
	case e.pcscd.ccid == nil:
		e.ok("libccid is not installed: cardfs has CCID readers to itself")
		return
	}
	both := false
	for _, d := range e.devices {
		if !e.pcscd.ccid[d.id] || e.served(d) {
			continue
		}
		both = true
		first := "whoever comes first gets it"
		if p := e.pcscd.running; p != nil && slices.Contains(p.open, d.node) {
			first = "pcscd came first"
		}
		e.wrong(e.removeCCID(), "%s: libccid in pcscd and cardfs both want it, and %s: decide for one of them, or have cardfs leave USB alone (mount --usb=off)", d, first)
	}
	if !both {
		e.ok("libccid is installed; it and cardfs would both want a CCID reader that is in its list, and none is plugged in or cardfs has it")
	}
}

// bundle looks at the bundle by which pcscd finds USB readers itself.
func (e *exam) bundle() {
	if e.pcscd == nil {
		return
	}
	dir := filepath.Join(e.pcscd.drops, ourBundle)
	mend := e.installOurs("libifdcardfs")
	plist := e.read(filepath.Join(dir, infoPlist))
	if plist == "" {
		e.warn(mend, "%s is not installed: PC/SC programs see USB readers only by reader.conf", ourBundle)
		return
	}
	has := plistIDs(plist)
	var lacks []string
	for _, known := range hotplug.KnownIDs(e.Drivers) {
		if !has[known.ID] {
			lacks = append(lacks, known.ID)
		}
	}
	lib := ""
	if names := plistArray(plist, "CFBundleExecutable"); len(names) == 1 {
		lib = filepath.Join(dir, "Contents/Linux", names[0])
	}
	code, err := os.ReadFile(e.path(lib))
	other, errOther := os.ReadFile(e.path(e.handlerFile()))
	switch {
	case len(lacks) > 0:
		e.wrong(mend+e.thenRestart(), "%s is of an older cardfs: pcscd does not find %s by it (cardfs ids)", dir, strings.Join(lacks, ", "))
	case lib == "" || err != nil:
		e.wrong(mend+e.thenRestart(), "%s has no library: %v", dir, err)
	case !bytes.Contains(code, []byte(handlerCall)):
		e.wrong(mend+e.thenRestart(), "%s is no IFD handler", lib)
	case errOther == nil && !bytes.Equal(code, other):
		e.warn(mend+e.thenRestart(), "%s and %s are of two versions of cardfs", lib, e.handlerFile())
	default:
		e.ok("%s is there, with the %d readers of cardfs ids", dir, len(has))
	}
}

// since is when a process started; zero if that is not known.
func (e *exam) since(p *process) time.Time {
	stat := e.read(fmt.Sprintf("/proc/%d/stat", p.pid))
	// The name, in parentheses, may have blanks. The start is field 22 (proc(5)).
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 20 {
		return time.Time{}
	}
	ticks, _ := strconv.ParseInt(f[19], 10, 64)
	for line := range strings.Lines(e.read("/proc/stat")) {
		if boot, ok := strings.CutPrefix(line, "btime "); ok {
			seconds, _ := strconv.ParseInt(strings.TrimSpace(boot), 10, 64)
			return time.Unix(seconds, ticks*int64(time.Second)/100)
		}
	}
	return time.Time{}
}

// groupsOf are the groups of a process.
func (e *exam) groupsOf(p *process) (groups []int) {
	for line := range strings.Lines(e.read(fmt.Sprintf("/proc/%d/status", p.pid))) {
		key, value, _ := strings.Cut(line, ":")
		if key != "Groups" && key != "Gid" {
			continue
		}
		for word := range strings.FieldsSeq(value) {
			if n, err := strconv.Atoi(word); err == nil {
				groups = append(groups, n)
			}
		}
	}
	return groups
}
