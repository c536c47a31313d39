package iso7816

import (
	"bytes"
	"fmt"
	"testing"
)

// A machine that is done, or whose command was taken back, has nothing of the command any
// more, which may be a PIN.
func TestMachinesAreWiped(t *testing.T) {
	verify := []byte{0, 0x20, 0, 1, 8, '1', '2', '3', '4', '5', '6', '7', '8'}
	mem := func(m Machine) []byte {
		switch m := m.(type) {
		case *T0:
			return m.buf[:]
		case *T1:
			return append(m.ibuf[:], m.rbuf[:]...)
		}
		return nil
	}
	check := func(what string, m Machine) {
		t.Helper()
		if b := mem(m); bytes.Contains(b, []byte("123")) || bytes.Contains(b, []byte("78")) {
			t.Errorf("%s: % X", what, b)
		}
	}
	t1 := func(ifsc int) *T1 { return NewT1(T1Config{Params: Params{T: 1, IFSC: ifsc}, IFSD: DefaultIFSC}) }
	for _, tt := range []struct {
		name  string
		m     Machine
		comes [][]byte
	}{
		{"T=0", NewT0(T0Config{Mode: T0TPDU}), [][]byte{{0x90, 0x00}}},
		{"T=1", t1(254), [][]byte{{0, 0, 2, 0x90, 0x00, 0x92}}},
		{"T=1, chained", t1(10), [][]byte{{0, 0x90, 0, 0x90}, {0, 0, 2, 0x90, 0x00, 0x92}}},
		{"T=1, noise", t1(254), [][]byte{{1}, {2}, {3}}},
	} {
		step := tt.m.Start(verify, nil)
		if !bytes.Contains(mem(tt.m), []byte("123")) {
			t.Errorf("%s: the test looks at the wrong place", tt.name)
		}
		for _, rx := range tt.comes {
			step = tt.m.Next(rx, nil)
		}
		if !step.Done {
			t.Errorf("%s: not done: %+v", tt.name, step)
		}
		check(fmt.Sprint(tt.name, ", done"), tt.m)
	}
	m := t1(254)
	m.Start(verify, nil)
	m.Withdraw()
	check("T=1, taken back", m)
	for _, m := range []Machine{NewT0(T0Config{Mode: T0TPDU}), t1(254)} {
		m.Start(verify, nil)
		m.Wipe()
		check(fmt.Sprintf("%T, left in the middle", m), m)
	}
}

// Of an answer that failed nothing is left where it was collected, which may be an array
// that the caller does not know.
func TestPartsOfAnswersAreWiped(t *testing.T) {
	for _, tt := range []struct {
		m     Machine
		comes []byte
	}{
		{NewT1(T1Config{Params: Params{T: 1}, IFSD: DefaultIFSC}), block(0x20, []byte("secret")...)},
		{NewT0(T0Config{Mode: T0TPDU}), []byte("secret\x61\x04")},
	} {
		for _, room := range []int{0, 100} {
			dst := make([]byte, 3, 3+room)
			copy(dst, "xyz")
			tt.m.Start([]byte{0, 0x84, 0, 0, 10}, dst)
			step := tt.m.Next(tt.comes, nil)
			got := tt.m.Response()
			if step.Done || string(got) != "xyzsecret" {
				t.Fatalf("%T: %+v, %q", tt.m, step, got)
			}
			for !step.Done {
				step = tt.m.Next(nil, ErrTimeout)
			}
			if string(got) != "xyz\x00\x00\x00\x00\x00\x00" {
				t.Errorf("%T, room for %d: %q", tt.m, room, got)
			}
			switch tt.m.(type) { // they are dead
			case *T1:
				tt.m = NewT1(T1Config{Params: Params{T: 1}, IFSD: DefaultIFSC})
			case *T0:
				tt.m = NewT0(T0Config{Mode: T0TPDU})
			}
		}
	}
}

// A response that outgrows its array leaves nothing there, but what was the caller's.
func TestResponseOutgrows(t *testing.T) {
	secret := []byte("0123456789")
	for _, tt := range []struct {
		name  string
		m     Machine
		le    byte
		comes [][]byte
	}{
		{"T=1", NewT1(T1Config{Params: Params{T: 1, IFSC: 254}, IFSD: DefaultIFSC}), 10, [][]byte{
			block(0x20, secret[:6]...), block(0x40, append(secret[6:10:10], 0x90, 0x00)...),
		}},
		{"T=0", NewT0(T0Config{Mode: T0TPDU}), 10, [][]byte{append(secret[:10:10], 0x90, 0x00)}},
		{"T=0, GET RESPONSE", NewT0(T0Config{Mode: T0TPDU}), 10, [][]byte{
			append(secret[:6:6], 0x61, 0x04), append(secret[6:10:10], 0x90, 0x00),
		}},
	} {
		for room := range 12 {
			dst := make([]byte, 2, 2+room)
			copy(dst, "xy")
			step := tt.m.Start([]byte{0, 0x84, 0, 0, tt.le}, dst)
			for _, rx := range tt.comes {
				step = tt.m.Next(rx, nil)
			}
			if !step.Done || step.Err != nil || string(tt.m.Response()) != "xy0123456789\x90\x00" {
				t.Fatalf("%s, room for %d: %+v, %q", tt.name, room, step, tt.m.Response())
			}
			if left := dst[:cap(dst)]; string(left[:2]) != "xy" || bytes.ContainsAny(left[2:], string(secret)) {
				t.Errorf("%s, room for %d: %q is left", tt.name, room, left)
			}
			if tt.name == "T=1" { // the sequence numbers begin anew
				tt.m = NewT1(T1Config{Params: Params{T: 1, IFSC: 254}, IFSD: DefaultIFSC})
			}
		}
	}
}
