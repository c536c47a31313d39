package iso7816

// The traces of the scenarios, S1 to S34, as an interface device and a card
// speak ISO/IEC 7816-3:2006 §11.6. > goes to the card, < comes from it, <! comes
// damaged or is illegal, -- is silence for BWT; NAD 00 and LRC. The tests run
// each of them in other forms, too.

var scenarios = []scenario{
	{
		name: "S1 Plain exchange, sequence bits toggle",
		rule: "rule 2.1: an I-block is acknowledged by an I-block; N(S) of each side counts modulo 2",
		ops:  []op{exchange("0084000008", "11223344556677889000"), exchange("00A40000023F00", "9000"), exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89   ; case 2
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 40 07 00 A4 00 00 02 3F 00 DE
			< 00 40 02 90 00 D2
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S2 Command chained by the interface device (IFSC 16)",
		rule: "rule 2.2: with M=1 the acknowledgement is an R-block with N(R) = N(S)+1; the next part follows",
		ifsc: 16,
		ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "9000")},
		trace: `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 90 00 90   ; asks for N(S)=1
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 00 02 90 00 92
		`,
	},
	{
		name: "S3 Response chained by the card (IFSD 16)",
		rule: "rule 2.2, the card being the sender",
		ops:  []op{exchange("00B0000017", "A0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B69000")},
		trace: `
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 90 00 90
			< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E
		`,
	},
	{
		name: "S4 Chaining in both directions",
		rule: "rule 2.2 in both directions of one exchange",
		ifsc: 16,
		ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "A0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B69000")},
		trace: `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 90 00 90
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 90 00 90
			< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E
		`,
	},
	{
		name: "S5 Waiting time extension before the answer",
		rule: "rule 3: S(WTX request) is answered with the same value; n times BWT hold for the next block only",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			< 00 C3 01 09 CB   ; 9 x BWT wanted
			> 00 E3 01 09 EB   ; BWT * 9 until the next card block only
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S6 IFSD announced by the interface device first",
		rule: "rule 4: S(IFS request) announces the own receive size; S-blocks carry no number",
		ops:  []op{setup(254), exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 C1 01 FE 3E
			< 00 E1 01 FE 1E
			> 00 00 05 00 84 00 00 08 89   ; N(S) still 0: S-blocks carry no number
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S7 Card raises IFSC in the middle of a command chain",
		rule: "rule 4: valid once confirmed, in the middle of a chain, too",
		ifsc: 16,
		ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "9000")},
		trace: `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 C1 01 20 E0
			> 00 E1 01 20 C0
			< 00 90 00 90
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D   ; up to 32 bytes allowed now
			< 00 00 02 90 00 92
		`,
	},
	{
		name: "S8 Card's I-block arrives with a wrong EDC",
		rule: "rule 7.1: R-block with the N(S) still expected, error code 1 for EDC",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 00 0A 11 22 33 44 55 66 77 88 90 00 13   ; EDC wrong
			> 00 81 00 81   ; rule 7.1: N(R) = number still expected, EDC error
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12   ; resent
		`,
	},
	{
		name: "S9 Same with another error (EDC fine, undefined PCB)",
		rule: "rule 7.1: error code 2 for any other error",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 C5 00 C5   ; S-block type 5 does not exist
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S10 Interface device's I-block was corrupted on the way",
		rule: "rule 7.5: N(R) of the I-block just sent: repeat it",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			< 00 81 00 81   ; card still expects N(S)=0
			> 00 00 05 00 84 00 00 08 89   ; resent unchanged
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name:    "S11 Same in the second exchange (numbers 1)",
		rule:    "rule 7.5 with the other number",
		prelude: []op{exchange("00A40000", "9000")},
		ops:     []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 40 05 00 84 00 00 08 C9
			< 00 91 00 91
			> 00 40 05 00 84 00 00 08 C9
			< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52
		`,
	},
	{
		name: "S12 No answer within BWT",
		rule: "rule 7.1: silence for BWT counts as an invalid block, error code 2",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			< --   ; BWT elapsed
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12   ; card had the command and repeats its answer
		`,
	},
	{
		name: "S13 No answer because the card missed the command",
		rule: "rules 7.1 and 7.5 together",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			< --   ; BWT elapsed
			> 00 82 00 82
			< 00 80 00 80   ; nothing received yet
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S14 Acknowledge during command chaining is corrupted",
		rule: "rule 7.1 while a chain is sent",
		ifsc: 16,
		ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "9000")},
		trace: `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			<! 00 90 00 91   ; EDC wrong
			> 00 81 00 81   ; expects card I-block 0
			< 00 90 00 90   ; R-block repeated
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 00 02 90 00 92
		`,
	},
	{
		name: "S15 Middle block of a command chain is corrupted",
		rule: "rule 7.5 in a chain",
		ifsc: 16,
		ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "9000")},
		trace: `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 90 00 90
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 91 00 91   ; N(R)=1: block 1 not taken
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 00 02 90 00 92
		`,
	},
	{
		name: "S16 Interface device's R-block is lost during response chaining",
		rule: "rule 7.2: the same R-block again",
		ops:  []op{exchange("00B0000017", "A0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B69000")},
		trace: `
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 90 00 90   ; corrupted on the way
			< 00 91 00 91   ; card expects N(S)=1 next and reports an error
			> 00 90 00 90   ; rule 7.2: repeat the R-block
			< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E
		`,
	},
	{
		name: "S17 Second part of a card chain is corrupted",
		rule: "rule 7.1 while a chain is received",
		ops:  []op{exchange("00B0000017", "A0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B69000")},
		trace: `
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 90 00 90
			<! 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6F   ; EDC wrong
			> 00 91 00 91
			< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E
		`,
	},
	{
		name: "S18 S(IFS request) not understood by the card",
		rule: "rule 7.3: another answer than the S-response: repeat the request",
		ops:  []op{setup(254)},
		trace: `
			> 00 C1 01 FE 3E
			< 00 81 00 81
			> 00 C1 01 FE 3E   ; rule 7.3: repeat the request
			< 00 E1 01 FE 1E
		`,
	},
	{
		name: "S19 S(IFS response) of the card is corrupted",
		rule: "rule 7.3: an invalid block in place of the S-response: repeat the request",
		ops:  []op{setup(254)},
		trace: `
			> 00 C1 01 FE 3E
			<! 00 E1 01 FE 1F   ; EDC wrong
			> 00 C1 01 FE 3E   ; request again, not an R-block
			< 00 E1 01 FE 1E
		`,
	},
	{
		name: "S20 Card's WTX request is corrupted",
		rule: "rule 7.1: a damaged S(WTX request) is asked for again",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 C3 01 02 C1   ; EDC wrong
			> 00 81 00 81
			< 00 C3 01 02 C0
			> 00 E3 01 02 E0
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S21 Interface device's WTX response is lost",
		rule: "rule 7.3 at the card: it repeats its S(WTX request), which is answered again",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			< 00 C3 01 02 C0
			> 00 E3 01 02 E0   ; corrupted on the way
			< 00 C3 01 02 C0   ; request repeated
			> 00 E3 01 02 E0
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name:       "S22 Three failures, then resynchronisation",
		rule:       "rules 7.4.2, 6.3: two retransmissions, then S(RESYNCH request); all is as after a reset",
		prelude:    []op{setup(254), exchange("00A40000", "9000")},
		repeatable: true,
		ops:        []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 40 05 00 84 00 00 08 C9
			<! 00 40 0A 11 22 33 44 55 66 77 88 90 00 53   ; EDC wrong
			> 00 91 00 91
			<! 00 40 0A 11 22 33 44 55 66 77 88 90 00 53   ; EDC wrong
			> 00 91 00 91
			<! 00 40 0A 11 22 33 44 55 66 77 88 90 00 53   ; third failure
			> 00 C0 00 C0
			< 00 E0 00 E0
			> 00 C1 01 FE 3E   ; IFSD announced again
			< 00 E1 01 FE 1E
			> 00 00 05 00 84 00 00 08 89   ; numbers restart at 0, the whole APDU again
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name:    "S22 the same, the command must not be repeated",
		rule:    "policy: a command that the card may have executed is not sent again",
		prelude: []op{setup(254), exchange("00A40000", "9000")},
		ops:     []op{failure("0084000008", ErrProtocol, ErrInDoubt), exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 40 05 00 84 00 00 08 C9
			<! 00 40 0A 11 22 33 44 55 66 77 88 90 00 53   ; EDC wrong
			> 00 91 00 91
			<! 00 40 0A 11 22 33 44 55 66 77 88 90 00 53   ; EDC wrong
			> 00 91 00 91
			<! 00 40 0A 11 22 33 44 55 66 77 88 90 00 53   ; third failure
			> 00 C0 00 C0
			< 00 E0 00 E0
			> 00 C1 01 FE 3E   ; IFSD announced again
			< 00 E1 01 FE 1E
			> 00 00 05 00 84 00 00 08 89   ; numbers restart at 0, the whole APDU again
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12   ; the next command
		`,
	},
	{
		name:    "S23 Resynchronisation fails",
		rule:    "rule 6.4: at most three S(RESYNCH request), then the card must be reset",
		prelude: []op{exchange("00A40000", "9000"), exchange("00A40000", "9000"), abandon("00A40000")},
		ops:     []op{deadly("0084000008", ErrProtocol)},
		trace: `
			> 00 C0 00 C0
			< --   ; BWT elapsed
			> 00 C0 00 C0
			<! 00 E0 00 E1   ; EDC wrong
			> 00 C0 00 C0
			< 00 82 00 82   ; not the response
		`,
	},
	{
		name: "S24 First block after reset fails",
		rule: "rule 7.4.1: before the first valid block three attempts, no RESYNCH",
		ops:  []op{deadly("0084000008", ErrTimeout, ErrInDoubt)},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			< --   ; BWT elapsed
			> 00 82 00 82
			< --   ; BWT elapsed
			> 00 82 00 82
			< --   ; BWT elapsed
		`,
	},
	{
		name: "S25 Card aborts a command chain",
		rule: "rule 9: the card aborts our chain; its R-block gives back the right to send",
		ifsc: 16,
		ops:  []op{failure("00D60000140102030405060708090A0B0C0D0E0F1011121314", ErrProtocol), exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 C2 00 C2
			> 00 E2 00 E2
			< 00 90 00 90   ; gives the right to send back (unverified)
			> 00 40 05 00 84 00 00 08 C9   ; new command
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name:        "S26 Interface device aborts a response chain",
		rule:        "rule 9: we abort the chain of the card",
		maxResponse: 15,
		ops:         []op{failure("00B0000017", ErrProtocol, ErrInDoubt), exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 C2 00 C2
			< 00 E2 00 E2
			> 00 40 05 00 84 00 00 08 C9   ; new command
			< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52
		`,
	},
	{
		name: "S26 on request",
		rule: "rule 9",
		ops:  []op{aborted("00B0000017", errAbort, ErrInDoubt), exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 C2 00 C2
			< 00 E2 00 E2
			> 00 40 05 00 84 00 00 08 C9   ; new command
			< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52
		`,
	},
	{
		name: "S27 Wrong NAD in the answer",
		rule: "a NAD that is not ours with its nibbles exchanged is an invalid block",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 21 00 0A 11 22 33 44 55 66 77 88 90 00 33   ; EDC fine, NAD not the swapped one of the request
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S28 Illegal LEN",
		rule: "LEN FF is reserved",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 00 FF   ; LEN FF is reserved; wait for the end of the block (CWT)
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S29 Wrong N(S) in the card's I-block",
		rule: "an I-block with an N(S) not expected is invalid",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 40 0A 11 22 33 44 55 66 77 88 90 00 52   ; 1 received, 0 expected
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S30 Illegal R-blocks",
		rule: "an R-block has LEN 0 and bit 6 clear",
		ifsc: 16,
		ops:  []op{exchange("00D60000140102030405060708090A0B0C0D0E0F1011121314", "9000")},
		trace: `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			<! 00 90 01 00 91   ; R-block with LEN 1
			> 00 82 00 82
			<! 00 B0 00 B0   ; R-block with bit 6 set
			> 00 82 00 82
			< 00 90 00 90
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 00 02 90 00 92
		`,
	},
	{
		name: "S31 S-response nobody asked for",
		rule: "an S-response without its request is invalid",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 E1 01 20 C0   ; IFS response without request
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S32 IFS response with another value",
		rule: "rule 4: the confirmation carries the same value",
		ops:  []op{setup(254)},
		trace: `
			> 00 C1 01 FE 3E
			<! 00 E1 01 20 C0   ; must echo FE
			> 00 C1 01 FE 3E
			< 00 E1 01 FE 1E
		`,
	},
	{
		name: "S33 RESYNCH requested by the card (forbidden)",
		rule: "rule 6: only the interface device may ask for RESYNCH",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 C0 00 C0
			> 00 82 00 82   ; or RESYNCH as both OpenCT and libccid do
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
	{
		name: "S34 IFS request of 0 or FF by the card (reserved)",
		rule: "rule 4: sizes 00 and FF are reserved",
		ops:  []op{exchange("0084000008", "11223344556677889000")},
		trace: `
			> 00 00 05 00 84 00 00 08 89
			<! 00 C1 01 00 C0
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
		`,
	},
}
