package readertest

// Cards of both conventions and protocols, and of several rates.
const (
	Plain   Card = "3B 02 14 50"                                  // T=0
	Fast    Card = "3B 95 18 40 FF 62 01 02 01 04"                // T=0, F/D 372/12
	Inverse Card = "3F 65 00 00 01 02 03 04 05"                   // T=0, inverse convention
	Guarded Card = "3B C0 14 00"                                  // T=0, TC1 20
	Block   Card = "3B 80 81 31 FE 45 8B"                         // T=1, IFSC 254, BWI 4, CWI 5
	Quick   Card = "3B F2 98 00 FF C1 10 31 FE 55 C8 03 15"       // T=1, 512/12
	Top     Card = "3B B6 96 00 81 31 FE 45 53 49 4D 43 90 00 AF" // T=1, 512/32
	Dual    Card = "3F 97 94 80 31 FE 45 53 49 4D 44 55 90 00 DF" // inverse convention, T=0 and T=1, 512/8
)
