package iso7816

import (
	"testing"
)

// echo1 answers each I-block with the same response, without allocating.
type echo1 struct {
	tx [300]byte
	r  []byte
}

func (e *echo1) answer(out []byte) []byte {
	b := append(e.tx[:0], 0, out[1]&0x40, 34)
	b = append(b, e.r...)
	return appendEDC(b, 0, false)
}

func TestT1Allocations(t *testing.T) {
	m := NewT1(T1Config{Params: DefaultParams(1), AutoIFSD: true})
	e := &echo1{r: make([]byte, 34)}
	capdu := []byte{0, 0xB0, 0, 0, 32}
	dst := make([]byte, 0, 300)
	if n := testing.AllocsPerRun(100, func() {
		s := m.Start(capdu, dst)
		for !s.Done {
			s = m.Next(e.answer(s.Send), nil)
		}
		if s.Err != nil || len(m.Response()) != 34 {
			t.Fatal(s.Err)
		}
	}); n != 0 {
		t.Errorf("%v allocations in an exchange", n)
	}
}

func BenchmarkT1(b *testing.B) {
	for _, char := range []bool{false, true} {
		b.Run(map[bool]string{false: "blocks", true: "characters"}[char], func(b *testing.B) {
			m := NewT1(T1Config{Params: DefaultParams(1), AutoIFSD: true, Character: char})
			e := &echo1{r: make([]byte, 34)}
			capdu := []byte{0, 0xB0, 0, 0, 32}
			dst := make([]byte, 0, 300)
			b.ReportAllocs()
			for b.Loop() {
				s := m.Start(capdu, dst)
				var in []byte
				for !s.Done {
					if len(s.Send) > 0 {
						in = e.answer(s.Send)
					}
					n := len(in)
					if char {
						n = s.Want
					}
					s = m.Next(in[:n], nil)
					in = in[n:]
				}
			}
		})
	}
}
