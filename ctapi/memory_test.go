package ctapi

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	chips "github.com/cardfs/cardfs/reader/icc"
)

// kvk is a German health-insurance card: H1 to H4, ATR data, the DIR data with its AID, and
// the application's object.
var kvk = unhex("A2 13 10 91 46 0B 81 15 45 46 4B 56 4B 01 02 03 04" +
	"61 0B 4F 06 D2 80 00 00 01 01 53 01 05" +
	"60 07 80 05 4F 54 54 4F 20")

// CT-BCS 1.0, REQUEST ICC: "90 00 synchronous ICC", "90 01 asynchronous ICC"; the file of a
// slot says in data object 22 how the card is clocked. The card's unit takes SELECT, READ and UPDATE
// BINARY, VERIFY and CHANGE REFERENCE DATA.
func TestSynchronousCard(t *testing.T) {
	for _, tt := range []struct {
		card, atr string
		clocked   byte
		exchanges []string // to unit 0: command, answer
	}{
		{"sle4442", "A2 13 10 91", 0x82, []string{
			"00 B0 00 00 04", "A2 13 10 91 90 00",
			"00 A4 04 00 06 D2 80 00 00 01 01", "90 00", // the KVK
			"00 B0 00 00 00", "60 07 80 05 4F 54 54 4F 20 90 00",
			"00 B0 00 02 10", "80 05 4F 54 54 4F 20 62 82",
			"00 A4 00 00 02 3F 00", "90 00",
			"00 20 00 00", "63 C3",
			"00 D6 00 40 01 11", "69 82",
			"00 20 00 00 03 FF FF FF", "90 00",
			"00 D6 00 40 01 11", "90 00",
			"00 24 00 00 06 FF FF FF 01 02 03", "90 00",
		}},
		{"sle4418", "92 23 10 91", 0x81, []string{"00 B0 03 FF 01", "FF 90 00"}},
		{"at24c32", "82 33 10 84", 0x80, []string{"00 B0 0F FF 00", "FF 90 00"}},
		{"sle4406", "11 22 33 44", 0x90, []string{"00 D6 00 00 01 00", "69 86"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			driver := sim.New()
			m := core.NewManager(core.Options{Drivers: []reader.Driver{driver}})
			defer m.Close(context.Background())
			if err := m.Attach("sim", "memory", map[string]string{"card": tt.card}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if tt.card == "sle4442" {
				driver.Contacts(m.Slot(0).Info().Device)[0].Card().(*chips.Memory).Fill(0, kvk)
			}
			terminal := New(m.Slot(0), core.Caller{Owner: t, Wait: true})
			defer terminal.Close()
			ask := func(command, want string) {
				t.Helper()
				answer, err := terminal.Exchange(context.Background(), unhex(command), nil)
				if err != nil || !bytes.Equal(answer, unhex(want)) {
					t.Errorf("%s: %s: % X, %v; want %s", tt.card, command, answer, err, want)
				}
			}
			ask("80 60 01 00 03 22 01 82", "6A 80") // without a card that has power nothing is known
			ask("20 12 01 01 00", tt.atr+" 90 00")  // the whole ATR
			ask("20 11 01 02 00", "90 00")          // RESET ICC: it has no historical bytes
			for value, want := range map[byte]string{0x80: "6A 80", 0x81: "6A 80", 0x82: "6A 80", tt.clocked: "90 00"} {
				answer, err := terminal.Exchange(context.Background(), []byte{0x80, 0x60, 1, 0, 3, 0x22, 1, value}, nil)
				if err != nil || !bytes.Equal(answer, unhex(want)) {
					t.Errorf("%s: SET INTERFACE PARAMETER %02X: % X, %v", tt.card, value, answer, err)
				}
			}
			ask("80 60 01 00 03 22 01 01", "64 A3") // T=0
			for i := 0; i < len(tt.exchanges); i += 2 {
				answer, err := terminal.Data(context.Background(), append([]byte{0, 2}, unhex(tt.exchanges[i])...), nil)
				if err != nil || !bytes.Equal(answer, append([]byte{2, 0}, unhex(tt.exchanges[i+1])...)) {
					t.Errorf("%s: %s: % X, %v; want %s", tt.card, tt.exchanges[i], answer, err, tt.exchanges[i+1])
				}
			}
			if got := protocolByte(m.Slot(0).Info()); got != tt.clocked {
				t.Errorf("%s: object 22 is %02X, want %02X", tt.card, got, tt.clocked)
			}
		})
	}
}
