package link

import "testing"

// ISO/IEC 7816-4:2013 §5.3.4: SW1 is 6X or 9X. Of a masked answer nothing else is shown,
// and not the last two bytes either where they are no SW1 SW2.
func TestMaskedAnswer(t *testing.T) {
	for answer, want := range map[string]string{
		"":                 masked,
		"\x90":             masked,
		"\x90\x00":         "90 00",
		"\x63\xC2":         "63 C2",
		"\x12\x34":         masked,
		"\x80\x00":         masked,
		"\x12\x34\x56":     masked,
		"\x12\x34\x90\x00": masked + " 90 00",
		"\x12\x34\x6A\x82": masked + " 6A 82",
		"\x12\x34\x70\x00": masked,
		"\x12\x34\xA0\x00": masked,
	} {
		if got := maskedAnswer([]byte(answer)); got != want {
			t.Errorf("% X: %q, want %q", answer, got, want)
		}
	}
}
