// Package secrets looks for PINs and keys in all that cardfs writes down while programs use the
// simulated cards: log, trace, captures, recordings, events, status and state files.
package secrets

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

var program string

func TestMain(m *testing.M) { daemon.Main(m, &program) }

// readers are simulated ones of each level and protocol, and how a card presents itself in them.
var readers = []string{"apdu card=%s", "apdu card=%s atr=contactless", "t1 card=%s", "t0 card=%s atr=t0", "char-t1 card=%s",
	"char-t0 card=%s atr=t0", "ccid card=%s", "ccid card=%s atr=t0", "ccid-short card=%s", "ccid-ext card=%s"}

func TestSecrets(t *testing.T) {
	for _, level := range []string{"--usb=off", "-v", "-vv"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			b := &bench{T: t, dir: t.TempDir()}
			args := []string{"--usb=off", level}
			for i, r := range readers {
				if level != "-vv" && i > 0 {
					break
				}
				for _, card := range []string{"piv model=yubikey", "openpgp"} {
					state := filepath.Join(b.dir, fmt.Sprint("state", len(b.states)))
					b.states = append(b.states, state)
					args = append(args, "--sim", fmt.Sprintf(r, card)+" state="+state)
				}
			}
			b.daemon = daemon.Start(t, program, daemon.MountPoint(t), args...)
			for n := range b.states {
				b.speak(n)
			}
			b.search()
		})
	}
}

// bench is a daemon with cards, and where it writes.
type bench struct {
	*testing.T
	daemon  *daemon.Daemon
	dir     string
	states  []string // state files, by slot
	outputs []output
	secrets []secret
}

// output is what somebody wrote.
type output struct {
	name string
	text []byte
}

// marker is a name of no application: a command that anybody may see.
const marker = "F0 4D 41 52 4B %02X"

// speak has a slot followed in all ways while a client speaks to its card.
func (b *bench) speak(n int) {
	b.Helper()
	session, pcap := filepath.Join(b.dir, fmt.Sprint("session", n)), filepath.Join(b.dir, fmt.Sprint("pcap", n))
	trace, events := new(proc.Log), new(proc.Log)
	for _, x := range []struct {
		cmd *exec.Cmd
		log *proc.Log
	}{
		{exec.Command("cat", b.daemon.Path(fmt.Sprint(n, "/trace"))), trace},
		{exec.Command("cat", b.daemon.Path(fmt.Sprint(n, "/event"))), events},
		{exec.Command(program, "record", "--mount", b.daemon.Dir, fmt.Sprint(n), session), new(proc.Log)},
		{exec.Command(program, "capture", "--mount", b.daemon.Dir, fmt.Sprint(n), "-w", pcap), new(proc.Log)},
	} {
		follower, err := proc.Start(x.cmd, x.log)
		if err != nil {
			b.Fatal(err)
		}
		defer follower.Kill()
	}
	c := b.open(n)
	defer c.file.Close()
	c.followed = func(mark string) bool {
		s, _ := os.ReadFile(session)
		p, _ := os.ReadFile(pcap)
		return strings.Contains(trace.String(), mark) && bytes.Contains(s, []byte(mark)) && bytes.Contains(p, hex.Bytes(mark))
	}
	c.mark(0)
	if n%2 == 0 {
		c.piv()
	} else {
		c.openpgp()
	}
	c.mark(1)
	b.secrets = append(b.secrets, c.secrets...)
	b.keep(fmt.Sprint("trace of ", n), trace.String())
	b.keep(fmt.Sprint("event of ", n), events.String())
	for _, name := range []string{"status", "stats"} {
		b.keep(fmt.Sprint(name, " of ", n), b.daemon.Read(fmt.Sprint(n, "/", name)))
	}
	for _, file := range []string{session, pcap} {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		b.keep(filepath.Base(file), string(text))
	}
}

func (b *bench) keep(name, text string) {
	if text == "" {
		b.Errorf("%s is empty", name)
	}
	b.outputs = append(b.outputs, output{name, []byte(text)})
}

// search looks for all secrets of all slots in everything.
func (b *bench) search() {
	metrics, err := exec.Command(program, "metrics", "--mount", b.daemon.Dir).Output()
	if err != nil {
		b.Error(err)
	}
	b.keep("metrics", string(metrics))
	b.keep("ctl", b.daemon.Read("ctl"))
	b.daemon.Stop()
	b.keep("log", b.daemon.Log.String())
	for _, o := range b.outputs {
		b.none(o.name, search(o.text, b.secrets))
	}
	pins := slices.DeleteFunc(b.secrets, func(s secret) bool { return s.key })
	for _, file := range b.states {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		b.none(filepath.Base(file), search(text, pins))
	}
}

func (b *bench) none(where string, found []string) {
	b.Helper()
	if len(found) > 0 {
		b.Errorf("%s has parts of secrets in %d places, first of %s", where, len(found), found[0])
	}
}

// client speaks to a card over one open of apdu.
type client struct {
	*testing.T
	file     *os.File
	lines    *bufio.Reader
	followed func(mark string) bool
	ways     int // how many of ways the reader carries
	secrets  []secret
}

func (b *bench) open(n int) *client {
	b.Helper()
	f, err := os.OpenFile(b.daemon.Path(fmt.Sprint(n, "/apdu")), os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	c := &client{T: b.T, file: f, lines: bufio.NewReader(f), ways: len(ways)}
	if strings.HasPrefix(readers[n/2], "ccid-short") {
		c.ways-- // an extended length is refused by the core: no reader of that level has it
	}
	return c
}

// send returns what the card answers.
func (c *client) send(command []byte) []byte {
	c.Helper()
	if _, err := fmt.Fprintf(c.file, "%X\n", command); err != nil {
		c.Fatal(err)
	}
	line, err := c.lines.ReadString('\n')
	if err != nil {
		c.Fatalf("% X: %v", command[:4], err)
	}
	return hex.Bytes(line)
}

// want sends a command whose data may be secret, and checks the status word.
func (c *client) want(sw string, command []byte) []byte {
	c.Helper()
	r := c.send(command)
	if got := fmt.Sprintf("%X", r[len(r)-2:]); got != sw {
		c.Errorf("% X: %s, want %s", command[:4], got, sw)
	}
	return r[:len(r)-2]
}

// mark waits until all followers have seen a command.
func (c *client) mark(n int) {
	c.Helper()
	mark := fmt.Sprintf(marker, n)
	daemon.Eventually(c.T, "all followers see a command", func() bool {
		c.want("6A82", short("00A40400", hex.Bytes(mark)))
		return c.followed(mark)
	})
}

// ways are those in which a command can carry its data.
var ways = []func(header string, data []byte) [][]byte{
	func(header string, data []byte) [][]byte { return [][]byte{short(header, data)} },
	func(header string, data []byte) [][]byte { return chained(header, data, 7) },
	func(header string, data []byte) [][]byte { return [][]byte{extended(header, data)} },
}

func short(header string, data []byte) []byte {
	return slices.Concat(hex.Bytes(header), []byte{byte(len(data))}, data)
}

func extended(header string, data []byte) []byte {
	return slices.Concat(hex.Bytes(header), []byte{0, byte(len(data) >> 8), byte(len(data))}, data)
}

// chained cuts the data into commands of a chain (ISO/IEC 7816-4:2013 §5.3.3).
func chained(header string, data []byte, most int) (all [][]byte) {
	for ; len(data) > most; data = data[most:] {
		part := short(header, data[:most])
		part[0] |= 0x10
		all = append(all, part)
	}
	return append(all, short(header, data))
}

// all sends a command in one of the ways. Only the last of a chain may fail.
func (c *client) all(way int, sw, header string, parts ...[]byte) {
	c.Helper()
	commands := ways[way](header, slices.Concat(parts...))
	for _, k := range commands[:len(commands)-1] {
		c.want("9000", k)
	}
	c.want(sw, commands[len(commands)-1])
}

// secret remembers a value that must not be written anywhere.
func (c *client) secret(name, value string) []byte {
	window := min(8, len(value))
	if strings.ContainsAny(value, "!~(") { // four of such characters are found nowhere by chance
		window = 4
	}
	c.secrets = append(c.secrets, secret{name: name, value: []byte(value), window: window})
	return []byte(value)
}

// key remembers a key of n bytes, or what stands for a key.
func (c *client) key(name string, n int) []byte {
	value := c.bytes(n)
	c.secrets = append(c.secrets, secret{name: name, value: value, window: 8, key: true})
	return value
}

// bytes makes n bytes that are nowhere else.
func (c *client) bytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// piv sends each command that carries a PIN or a key of a YubiKey's PIV application.
func (c *client) piv() {
	c.want("9000", append(short("00A40400", hex.Bytes("A000000308")), 0))
	management := hex.Bytes("010203040506070801020304050607080102030405060708")
	authenticate := func() {
		c.Helper()
		challenge := c.want("9000", append(short("00870A9B", hex.Bytes("7C028100")), 0))[4:]
		block, _ := aes.NewCipher(management)
		block.Encrypt(challenge, challenge)
		c.want("9000", short("00870A9B", append(hex.Bytes("7C128210"), challenge...)))
	}
	pin, puk := []byte("123456\xFF\xFF"), []byte("12345678")
	for way := range c.ways {
		fresh := c.secret("PIN", fmt.Sprintf("Qz7!x%dW-", way))
		c.all(way, "9000", "00240080", pin, fresh)
		c.all(way, "63C2", "00200080", c.secret("wrong PIN", fmt.Sprintf("Kv~3%d_hR", way)))
		c.all(way, "9000", "00200080", fresh)
		other := c.secret("PUK", fmt.Sprintf("%d(mTy&5j", way))
		c.all(way, "9000", "00240081", puk, other)
		pin, puk = c.secret("PIN of digits", fmt.Sprintf("5820%d937", way)), other
		c.all(way, "9000", "002C0080", puk, pin)
		c.all(way, "9000", "00200080", pin)
		authenticate()
		key := c.key("management key", 24)
		c.all(way, "9000", "00FFFFFF", hex.Bytes("0A9B18"), key)
		management = key
		authenticate()
		c.all(way, "9000", "00FE119A", hex.Bytes("0620"), c.key("private key", 32))
	}
}

// openpgp sends each command that carries a password or a key of the OpenPGP application. Passwords
// are as long as they may be: 127 bytes.
func (c *client) openpgp() {
	c.want("9000", short("00A40400", hex.Bytes("D27600012401")))
	long := func(name string) []byte {
		return c.secret(name, base64.StdEncoding.EncodeToString(c.bytes(96))[:127])
	}
	pw1, pw3 := []byte("123456"), []byte("12345678")
	for way := range c.ways {
		fresh := long("PW1")
		c.all(way, "9000", "00240081", pw1, fresh)
		c.all(way, "6982", "00200081", long("wrong PW1"))
		c.all(way, "9000", "00200082", fresh)
		pw1 = fresh
		fresh = long("PW3")
		c.all(way, "9000", "00240083", pw3, fresh)
		c.all(way, "9000", "00200083", fresh)
		pw3 = fresh
		code := long("resetting code")
		c.all(way, "9000", "00DA00D3", code)
		pw1 = c.secret("PIN of digits", fmt.Sprintf("6931%d024", way))
		c.all(way, "9000", "002C0081", code, pw1)
		fresh = c.secret("PIN of digits", fmt.Sprintf("8402%d671", way))
		c.all(way, "9000", "002C0281", fresh)
		pw1 = fresh
		c.all(way, "9000", "00200082", pw1)
		aes := c.key("AES key", 16)
		c.all(way, "9000", "00DA00D5", aes)
		plain := c.key("what is deciphered", 16)
		cryptogram := c.want("9000", append(short("002A8680", plain), 0))
		if got := c.want("9000", append(short("002A8086", cryptogram), 0)); !bytes.Equal(got, plain) {
			c.Errorf("deciphered to %d other bytes", len(got))
		}
		c.all(way, "9000", "00DA00C2", hex.Bytes("122A8648CE3D030107"))
		c.all(way, "9000", "00DB3FFF", hex.Bytes("4D2A B800 7F480292205F4820"), c.key("private key", 32))
	}
	// From here on passwords are hashes (4.3.2), which are as good as the passwords.
	user, admin := c.secret("hash of PW1", string(c.bytes(32))), c.secret("hash of PW3", string(c.bytes(32)))
	c.all(1, "9000", "00DA00F9", hex.Bytes("810103820108830400001000840811111111111111118508222222222222222286083333333333333333"),
		hex.Bytes("8720"), user, hex.Bytes("8820"), admin)
	c.want("9000", append(hex.Bytes("00CA00F9"), 0)) // which brings the first hashes back from real cards
	for way := range c.ways {
		c.all(way, "9000", "00200082", user)
		c.all(way, "9000", "00200083", admin)
		fresh := c.secret("hash of a new PW1", string(c.bytes(32)))
		c.all(way, "9000", "00240081", user, fresh)
		user = fresh
	}
}
