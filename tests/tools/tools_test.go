// Package tools tries the files of a mount with the tools and languages that people use on
// files, and checks the output of each.
package tools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/debian"
)

// limit is how long a tool may take that should take no time.
const limit = time.Minute

// dir is the mount: slots 0 and 1 have cards that echo (80EE), slot 2 is empty.
var dir string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if err := debian.Need(map[string]string{
		"busybox": "busybox-static", "/usr/lib/cargo/bin/coreutils/cat": "rust-coreutils", "bash": "bash", "dash": "dash",
		"zsh": "zsh", "fish": "fish", "python3": "python3", "perl": "perl", "ruby": "ruby", "tclsh": "tcl",
		"socat": "socat", "rsync": "rsync", "vim.tiny": "vim-tiny", "pv": "pv", "gcc": "gcc", "go": "golang",
	}); err != nil {
		return 1, err
	}
	tmp, err := os.MkdirTemp("", "cardfs-tools-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "bin")
	dir = filepath.Join(tmp, "cards")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Mkdir(dir, 0o755)); err != nil {
		return 1, err
	}
	for _, build := range []func(context.Context, string) error{buildCardfs, buildGo, buildC} {
		if err := build(context.Background(), bin); err != nil {
			return 1, err
		}
	}
	mount := exec.Command(filepath.Join(bin, "cardfs"), "mount", "-b", "--log", filepath.Join(tmp, "log"), "--usb=false",
		"--sim", "t1", "--sim", "apdu card=echo", "--sim", "t1 card=none", dir)
	mount.Stderr = os.Stderr
	if err := mount.Run(); err != nil {
		return 1, fmt.Errorf("%s: %w", mount, err)
	}
	defer func() {
		if out, uerr := exec.Command("fusermount3", "-u", "-z", dir).CombinedOutput(); uerr != nil {
			err = errors.Join(err, fmt.Errorf("fusermount3: %w: %s", uerr, out))
		}
	}()
	os.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	os.Setenv("D", dir)
	os.Setenv("LC_ALL", "C.UTF-8")
	os.Setenv("HOME", tmp)
	return m.Run(), nil
}

func buildCardfs(ctx context.Context, bin string) error {
	return command(ctx, cc.Root(), []string{"CGO_ENABLED=0"}, "go", "build", "-o", filepath.Join(bin, "cardfs"), "./cmd/cardfs")
}

func buildGo(ctx context.Context, bin string) error {
	return command(ctx, cc.Root(), []string{"CGO_ENABLED=0"}, "go", "build", "-o", filepath.Join(bin, "goclient"), "./tests/tools/goclient")
}

func buildC(ctx context.Context, bin string) error {
	return cc.Build(ctx, filepath.Join(bin, "stdioclient"), cc.Target{Sources: []string{"tests/tools/testdata/stdio.c"}})
}

func command(ctx context.Context, in string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = in, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// The card of slot 1 answers 80EE0000 Lc data Le with the data and 90 00.
const (
	one   = "80EE0000020101 00"
	two   = "80EE0000020202 00"
	three = "80EE0000020303 00"
)

const atr = "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"

// tool is a line of the table: a script by a shell or an interpreter, and what it prints
// on both its outputs together, as a regular expression.
type tool struct {
	name   string
	by     []string // the interpreter; the script is its last argument
	script string
	want   string
	code   int
}

var (
	bash    = []string{"bash", "-c"}
	dash    = []string{"dash", "-c"}
	zsh     = []string{"zsh", "-fc"}
	fish    = []string{"fish", "--no-config", "-c"}
	ash     = []string{"busybox", "sh", "-c"}
	python  = []string{"python3", "-c"}
	perl    = []string{"perl", "-e"}
	ruby    = []string{"ruby", "-e"}
	uutils  = "/usr/lib/cargo/bin/coreutils/"
	answers = "01 01 90 00\n02 02 90 00\n03 03 90 00\n"
)

func TestTools(t *testing.T) {
	for _, group := range [][]tool{reading(), exchanging(), refused()} {
		for _, tt := range group {
			t.Run(tt.name, func(t *testing.T) { tt.run(t) })
		}
	}
	for _, tt := range following() { // these take a while
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

func (tt tool) run(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, tt.by[0], append(tt.by[1:len(tt.by):len(tt.by)], tt.script)...)
	cmd.Dir = t.TempDir()
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if code != tt.code || !regexp.MustCompile("^(?s:"+tt.want+")$").MatchString(out.String()) {
		t.Errorf("%s\nexit code %d, output %q\nwant %d, %s", tt.script, code, out.String(), tt.code, tt.want)
	}
}

// reading: text files have their true length.
func reading() (list []tool) {
	line := atr + "\n"
	for name, prefix := range map[string]string{"GNU": "", "busybox": "busybox ", "uutils": uutils} {
		for _, tt := range []struct{ what, script, want string }{
			{"cat", "cat $D/0/atr", line},
			{"cat | cat", "cat $D/0/atr | " + prefix + "cat", line},
			{"head -c 5", "head -c 5 $D/0/atr", "3B B7"},
			{"tail -n 1", "tail -n 1 $D/0/atr", line},
			{"cp", "cp $D/0/atr copy && cat copy", line},
			{"dd", "dd if=$D/0/atr bs=7 2>/dev/null", line},
			{"wc -l", "wc -l <$D/0/atr", ` *1\n`},
			{"wc -c", "wc -c <$D/0/atr", ` *48\n`},
			{"od", "od -An -c -N 2 $D/0/atr", ` +3 +B\n`},
			{"cmp", "cp $D/0/atr copy; " + prefix + "cmp copy $D/0/atr", ""},
			{"head status", "head -n 1 $D/0/status", "state powered\n"},
		} {
			if name == "uutils" && tt.what == "cmp" {
				continue // it has none
			}
			list = append(list, tool{name + " " + tt.what, bash, prefix + tt.script, regexp.QuoteMeta(tt.want), 0})
			if strings.ContainsAny(tt.want, `*+`) {
				list[len(list)-1].want = tt.want
			}
		}
	}
	return append(list, []tool{
		// These cannot work: they trust the size of a stream, and read nothing.
		{"busybox tail -c of an exchange", bash, `{ echo '` + one + `' >&3; busybox tail -c 6 <&3; } 3<>$D/1/apdu; true`, "(90 00\\n)?", 0},
		{"uutils wc -c of an exchange", bash, `{ echo '` + one + `' >&3; ` + uutils + `wc -c <&3; } 3<>$D/1/apdu`, "[0-9]+\n", 0},
		{"ls -l tells the length", bash, `set -- $(ls -ln $D/0/atr); echo $5`, "48\n", 0},
		// Although stat comes before the open that powers the card, the file must not seem
		// empty.
		{"busybox cat powers the card", bash, `n=$(cardfs attach --mount $D sim t1) && stat -c %s $D/$n/atr && busybox cat $D/$n/atr && stat -c %s $D/$n/atr; cardfs detach --mount $D $n`, "4096\n" + line + "48\n", 0},
		{"stat and cat agree", bash, `for f in status atr power protocol stats; do [ $(stat -c %s $D/0/$f) = $(cat $D/0/$f | wc -c) ] || echo $f; done; [ $(stat -c %s $D/ctl) = $(cat $D/ctl | wc -c) ] || echo ctl`, "", 0},
		{"tar", bash, `tar cf - -C $D/0 status atr | tar xOf - | cmp - <(cat $D/0/status $D/0/atr) && echo same`, "same\n", 0},
		{"gzip", bash, `gzip -c $D/0/atr | zcat`, regexp.QuoteMeta(line), 0},
		{"rsync", bash, `rsync $D/0/atr $D/0/status . && cmp atr $D/0/atr && cmp status $D/0/status && echo same`, "same\n", 0},
		{"cp -r of what ends", bash, `cp $D/0/{atr,status,power,protocol} . && ls`, "atr\npower\nprotocol\nstatus\n", 0},
		{"grep", bash, `grep -c '^state powered$' $D/0/status`, "1\n", 0},
		{"sort", bash, `sort $D/0/status | grep ^state`, "state powered\n", 0},
		{"awk", bash, `awk '/^protocol/ { print $2 }' $D/0/status`, "T=1\n", 0},
		{"xxd -p by python", python, `import os,binascii; print(binascii.hexlify(open(os.environ["D"]+"/0/atr","rb").read(2)).decode())`, "3342\n", 0},
		{"python shutil.copyfile", python, `import shutil,os; shutil.copyfile(os.environ["D"]+"/0/atr","c"); print(open("c").read(),end="")`, regexp.QuoteMeta(line), 0},
		{"pv", bash, `pv -q $D/0/atr`, regexp.QuoteMeta(line), 0},
		{"socat", bash, `socat -u OPEN:$D/0/atr -`, regexp.QuoteMeta(line), 0},
		{"fish", fish, `cat $D/0/atr`, regexp.QuoteMeta(line), 0},
		{"vim writes power", bash, `vim.tiny -es -u NONE -c '1s/.*/reset/' -c 'w!' -c 'q!' $D/0/power; echo $?`, "0\n", 0},
		{"dd conv=fsync", bash, `echo reset | dd of=$D/0/power conv=fsync,notrunc 2>&1 | grep -i -e not -e invalid`, "", 1},
		{"Go Sync", bash, `goclient sync $D/0/power reset`, "", 0},
		{"truncate and touch", bash, `truncate -s 0 $D/0/power && touch $D/0/power && echo done`, "done\n", 0},
		{"sync", bash, `sync $D/0/power && echo done`, "done\n", 0},
	}...)
}

// exchanging: each command gets its own answer, whichever tool reads and seeks.
func exchanging() []tool {
	list := []tool{
		{"bash read", bash, `exec 3<>$D/1/apdu; printf '` + one + `\n` + two + `\n` + three + `\n' >&3; for i in 1 2 3; do read -r l <&3; echo "$l"; done`, answers, 0},
		{"head -1 of three", bash, `exec 3<>$D/1/apdu; printf '` + one + `\n` + two + `\n` + three + `\n' >&3; for i in 1 2 3; do head -n 1 <&3; done`, answers, 0},
		{"bash one by one", bash, `exec 3<>$D/1/apdu; for c in '` + one + `' '` + two + `' '` + three + `'; do echo "$c" >&3; read -r l <&3; echo "$l"; done`, answers, 0},
		{"zsh sysread", zsh, `zmodload zsh/system; exec 3<>$D/1/apdu; for c in '` + one + `' '` + two + `' '` + three + `'; do print -u 3 $c; sysread -i 3 l; print -n $l; done`, answers, 0},
		{"flock(1) and cardfs send", bash, `flock $D/1/apdu cardfs send --mount $D 1 '` + one + `'`, "01 01 90 00\n", 0},
		{"python r+ seek loop", python, pythonLoop(`"r+"`, ``), answers, 0},
		{"python rb+ seek loop", python, pythonLoop(`"rb+"`, `.encode()`), answers, 0},
		{"python unbuffered", python, pythonLoop(`"rb+", buffering=0`, `.encode()`), answers, 0},
		{"python os", python, `import os
f=os.open(os.environ["D"]+"/1/apdu",os.O_RDWR)
for c in "` + one + `","` + two + `","` + three + `":
    os.write(f,c.encode()); print(os.read(f,999).decode(),end="")`, answers, 0},
		{"python os, seek to 0", python, `import os
f=os.open(os.environ["D"]+"/1/apdu",os.O_RDWR)
for c in "` + one + `","` + two + `","` + three + `":
    os.lseek(f,0,0); os.write(f,c.encode()+b"\n"); os.lseek(f,0,0); print(os.read(f,999).decode(),end="")`, answers, 0},
		{"python readline", python, `import os
f=open(os.environ["D"]+"/1/apdu","r+b",buffering=0)
f.write(b"` + one + `\n` + two + `\n` + three + `\n")
for i in 1,2,3: print(f.readline().decode(),end="")`, answers, 0},
		{"python asyncio", python, `import os,asyncio
async def main():
    loop=asyncio.get_running_loop(); f=os.open(os.environ["D"]+"/1/apdu",os.O_RDWR|os.O_NONBLOCK)
    for c in "` + one + `","` + two + `","` + three + `":
        os.write(f,c.encode()+b"\n"); got=loop.create_future()
        loop.add_reader(f,lambda: got.done() or got.set_result(os.read(f,999)))
        print((await got).decode(),end=""); loop.remove_reader(f)
asyncio.run(main())`, answers, 0},
		{"perl seek loop", perl, `open my $f,"+<","$ENV{D}/1/apdu" or die; for my $c ("` + one + `","` + two + `","` + three + `") { seek $f,0,0; print $f "$c\n"; seek $f,0,0; print scalar <$f>; }`, answers, 0},
		{"perl sysread", perl, `open my $f,"+<","$ENV{D}/1/apdu" or die; for my $c ("` + one + `","` + two + `","` + three + `") { syswrite $f,"$c\n"; sysread $f,my $l,999; print $l; }`, answers, 0},
		{"ruby seek loop", ruby, `f=File.open("#{ENV["D"]}/1/apdu","r+"); ["` + one + `","` + two + `","` + three + `"].each { |c| f.seek 0; f.puts c; f.seek 0; print f.gets }`, answers, 0},
		{"tcl seek loop", bash, `echo 'set f [open $env(D)/1/apdu r+]; foreach c {{` + one + `} {` + two + `} {` + three + `}} { seek $f 0; puts $f $c; seek $f 0; puts [gets $f] }' | tclsh`, answers, 0},
		{"C stdio", bash, `stdioclient $D/1/apdu '` + one + `' '` + two + `' '` + three + `'`, answers, 0},
		{"Go", bash, `goclient exchange $D/1/apdu '` + one + `' '` + two + `' '` + three + `'`, answers, 0},
		{"Go io.Copy to TCP", bash, `goclient tcp $D/1/apdu '` + one + `' '` + two + `'`, "01 01 90 00\n02 02 90 00\n", 0},
		{"socat", bash, `printf '` + one + `\n` + two + `\n' | socat -t 5 - OPEN:$D/1/apdu,rdwr`, "01 01 90 00\n02 02 90 00\n", 0},
		{"socat with a pause first", bash, `(sleep 0.3; echo '` + one + `'; sleep 0.3; echo '` + two + `') | socat -t 5 - OPEN:$D/1/apdu,rdwr`, "01 01 90 00\n02 02 90 00\n", 0},
		{"dd", bash, `exec 3<>$D/1/apdu; echo '` + one + `' | dd status=none >&3; dd status=none bs=100 count=1 <&3`, "01 01 90 00\n", 0},
		// This cannot work: awk opens the file again for reading, and that is another channel.
		{"awk opens twice: no answer", bash, `awk 'BEGIN { f = ENVIRON["D"] "/1/apdu"; print "` + one + `" >f; close(f); getline l <f; print "[" l "]" }'`, `\[\]\n`, 0},
	}
	for shell, by := range map[string][]string{"bash": bash, "dash": dash, "zsh": zsh, "busybox sh": ash} {
		for cat, name := range map[string]string{"cat": "GNU", "busybox cat": "busybox", uutils + "cat": "uutils"} {
			if shell == "busybox sh" && name == "GNU" {
				continue // cat is its own there
			}
			list = append(list, tool{"the README's line, " + shell + ", cat of " + name, by,
				`{ echo '` + one + `' >&3; ` + cat + ` <&3; } 3<>$D/1/apdu`, "01 01 90 00\n", 0})
		}
	}
	return list
}

func pythonLoop(mode, encode string) string {
	return `import os
f=open(os.environ["D"]+"/1/apdu",` + mode + `)
for c in "` + one + `","` + two + `","` + three + `":
    f.seek(0); f.write((c+"\n")` + encode + `); f.flush() if hasattr(f,"flush") else 0; f.seek(0); l=f.readline()
    print(l if isinstance(l,str) else l.decode(),end="")`
}

// following: the event streams begin with the present state, and do not end.
func following() []tool {
	const first = `1 0 arrived [^\n]*\n`
	return []tool{
		{"head event", bash, `head -n 1 $D/0/event`, first, 0},
		{"head top event", bash, `head -n 1 $D/event`, first, 0},
		{"busybox cat event", bash, `timeout 5 busybox cat $D/event | head -n 1`, first, 0},
		{"uutils cat event", bash, `timeout 5 ` + uutils + `cat $D/event | head -n 1`, first, 0},
		{"pv event", bash, `timeout 5 pv -q $D/event | head -n 1`, first, 0},
		// It fills a buffer of 64 KiB first, so it waits where it used to end without output.
		{"shutil.copyfile(event)", python, `import shutil,os,signal
def enough(*a): raise TimeoutError
signal.signal(signal.SIGALRM,enough); signal.setitimer(signal.ITIMER_REAL,1)
try: shutil.copyfile(os.environ["D"]+"/event","c"); print("ended")
except TimeoutError: print("waits")`, "waits\n", 0},
		{"while read", bash, `while read -r seq slot what rest; do echo $slot $what; break; done <$D/event`, "0 arrived\n", 0},
		{"dash while read", dash, `while read -r seq slot what rest; do echo $slot $what; break; done <$D/event`, "0 arrived\n", 0},
		{"python select with a time-out", python, `import os,select
f=os.open(os.environ["D"]+"/2/event",os.O_RDONLY|os.O_NONBLOCK)
print(select.select([f],[],[],5)[0]==[f]); os.read(f,65536)
print(select.select([f],[],[],0.2)[0])`, "True\n\\[\\]\n", 0},
		{"python asyncio on event", python, `import os,asyncio
async def main():
    calls=0; f=os.open(os.environ["D"]+"/2/event",os.O_RDONLY|os.O_NONBLOCK)
    def got():
        nonlocal calls
        calls+=1; os.read(f,65536)
    asyncio.get_running_loop().add_reader(f,got); await asyncio.sleep(0.5); print(calls)
asyncio.run(main())`, "1\n", 0},
		{"python os.set_blocking", python, `import os
f=os.open(os.environ["D"]+"/2/event",os.O_RDONLY); os.read(f,65536); os.set_blocking(f,False)
try: os.read(f,1)
except BlockingIOError: print("EAGAIN")`, "EAGAIN\n", 0},
		{"Go deadline", bash, `goclient deadline $D/2/event`, "arrived\ni/o timeout\n", 0},
	}
}

// refused: each kind of nonsense has one errno, as in procfs.
func refused() (list []tool) {
	for _, script := range []string{
		"rm -f $D/0/atr", "rm -f $D/event", "rmdir $D/0", "chmod 777 $D/0/atr", "chmod 777 $D/0", "mkdir $D/new", "mkdir $D/0/new",
		"ln -s x $D/0/link", "ln $D/0/atr $D/0/hard", "mv $D/0/atr $D/0/rta", "mv $D/0 $D/9", "mknod $D/0/pipe p", "touch $D/0/new", "chown 1 $D/0/atr",
		"sed -i s/3B/3F/ $D/0/atr", "rm $D/by-id/*", "touch $D/new", "cp /etc/hostname $D/0/new",
	} {
		list = append(list, tool{script, bash, script, `[^\n]*: (Operation not permitted|Permission denied)\n(.*not permitted\n|.*denied\n)*`, 1})
		if strings.HasPrefix(script, "sed") {
			list[len(list)-1].code = 4
		}
	}
	return list
}
