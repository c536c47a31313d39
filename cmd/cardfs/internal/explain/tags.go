package explain

import "strings"

// The name of a tag depends on what it stands in: 82 is a file descriptor in a FCP and the
// application interchange profile in an EMV record.

// context is where a data object stands.
type context int

const (
	anywhere context = iota
	inFCP            // file control parameters, ISO/IEC 7816-4:2020 table 11
	inEMV
	inCRT     // control reference templates, §10.3
	inDynamic // dynamic authentication data, §11.5.5
	inSM      // secure messaging, §10.2
	inASN1    // X.690
	inPIV
	inGP  // GlobalPlatform
	inKey // a public key, ISO/IEC 7816-8:2016 table 3
)

// inside is the context of what stands in tag, which stands in outer.
func inside(outer context, tag uint32) context {
	if outer == inFCP && (tag == 0xA0 || tag == 0xA1 || tag == 0xAB) { // access rules have tags of their own
		return anywhere
	}
	switch tag {
	case 0x62, 0x64, 0x6F:
		return inFCP
	case 0x30, 0x31:
		return inASN1
	case 0xA5, 0x70, 0x77, 0xBF0C:
		return inEMV
	case 0x7C:
		return inDynamic
	case 0x7B:
		return inCRT
	case 0x7F4E, 0x7F4C:
		return inASN1
	case 0x7F49:
		return inKey
	case 0x53:
		return inPIV
	case 0xE3, 0xE0, 0x66, 0x73:
		return inGP
	case 0xA4, 0xA6, 0xAA, 0xAC, 0xB4, 0xB6, 0xB8:
		if outer != inASN1 {
			return inCRT
		}
	}
	return outer
}

// tagName is "" for a tag without a known name.
func tagName(in context, tag uint32) string {
	if name := namesIn[in][tag]; name != "" {
		return name
	}
	if in != inASN1 {
		if name := tagNames[tag]; name != "" {
			return name
		}
	}
	if tag <= 0xFF && tag&0xC0 == 0 && in != inPIV {
		return universal[tag]
	}
	return ""
}

// tagNames are the interindustry tags of ISO/IEC 7816-4:2020 and 7816-6, EMV's two-byte
// tags and those of card-verifiable certificates (ISO/IEC 7816-8).
var tagNames = table(`
41 country code
42 issuer identification number, or certification authority reference
43 card service data
44 initial access data
45 card issuer's data
46 pre-issuing data
47 card capabilities
48 status information
4D extended header list
4F application identifier (AID)
50 application label
51 file reference, or path
52 command to perform
53 discretionary data
54 offset
56 track 1
57 track 2 equivalent data
58 track 3
59 card expiration date
5A application primary account number (PAN)
5B name
5C tag list
5D header list
5E log-in data
5F20 cardholder name, or certificate holder reference
5F21 track 1
5F22 track 2
5F23 track 3
5F24 application expiration date
5F25 application effective date
5F26 card effective date
5F27 interchange control
5F28 issuer country code
5F29 interchange profile, or certificate profile identifier
5F2A transaction currency code
5F2B date of birth
5F2C cardholder nationality
5F2D language preference
5F2E cardholder biometric data
5F2F PIN usage policy
5F30 service code
5F32 transaction counter
5F33 transaction date
5F34 card or PAN sequence number
5F35 sex
5F36 currency exponent
5F37 static internal authentication, or signature
5F38 static internal authentication, first
5F39 static internal authentication, second
5F3A dynamic internal authentication
5F40 cardholder portrait
5F41 element list
5F42 address
5F43 handwritten signature
5F44 application image
5F45 display message
5F46 timer
5F47 message reference
5F48 cardholder private key
5F49 cardholder public key
5F4A public key of certification authority
5F4C certificate holder authorization
5F4D integrated circuit manufacturer
5F4E certificate content
5F50 issuer URL
5F52 historical bytes
5F53 international bank account number
5F54 bank identifier code
5F55 issuer country code, two letters
5F56 issuer country code, three letters
5F57 account type
60 common data template
61 application template
62 file control parameters (FCP)
63 wrapper
64 file management data (FMD)
65 cardholder related data
66 card data
67 authentication data
68 special user requirements
69 physical characteristics
6A log-in template
6B qualified name
6C cardholder image template
6D application image template
6E application related data
6F file control information (FCI)
70 record, or card-specific template
71 issuer script template 1
72 issuer script template 2
73 discretionary data objects
74 DF descriptor
77 response message template format 2
78 compatible tag allocation authority
79 coexistent tag allocation authority
7A security support template
7B security environment template
7C dynamic authentication template
7D secure messaging template
7E interindustry template
7F20 display control template
7F21 card-verifiable certificate
7F2E biometric data template
7F48 cardholder private key template
7F49 public key
7F4C certificate holder authorization template
7F4E certificate body
7F60 biometric information template
7F66 extended length information
9F01 acquirer identifier
9F02 amount, authorised
9F03 amount, other
9F04 amount, other (binary)
9F05 application discretionary data
9F06 application identifier of the terminal
9F07 application usage control
9F08 application version number
9F09 application version number of the terminal
9F0B cardholder name, extended
9F0D issuer action code, default
9F0E issuer action code, denial
9F0F issuer action code, online
9F10 issuer application data
9F11 issuer code table index
9F12 application preferred name
9F13 last online ATC register
9F14 lower consecutive offline limit
9F15 merchant category code
9F16 merchant identifier
9F17 PIN try counter
9F18 issuer script identifier
9F1A terminal country code
9F1B terminal floor limit
9F1C terminal identification
9F1D terminal risk management data
9F1E interface device serial number
9F1F track 1 discretionary data
9F20 track 2 discretionary data
9F21 transaction time
9F22 certification authority public key index
9F23 upper consecutive offline limit
9F26 application cryptogram
9F27 cryptogram information data
9F2D ICC PIN encipherment public key certificate
9F2E ICC PIN encipherment public key exponent
9F2F ICC PIN encipherment public key remainder
9F32 issuer public key exponent
9F33 terminal capabilities
9F34 cardholder verification method results
9F35 terminal type
9F36 application transaction counter (ATC)
9F37 unpredictable number
9F38 processing options data object list (PDOL)
9F39 point-of-service entry mode
9F3A amount, reference currency
9F3B application reference currency
9F40 additional terminal capabilities
9F41 transaction sequence counter
9F42 application currency code
9F44 application currency exponent
9F45 data authentication code
9F46 ICC public key certificate
9F47 ICC public key exponent
9F48 ICC public key remainder
9F49 dynamic data object list (DDOL)
9F4A static data authentication tag list
9F4B signed dynamic application data
9F4C ICC dynamic number
9F4D log entry
9F4E merchant name and location
9F4F log format
9F65 maximum length of data in a command
9F66 terminal transaction qualifiers
9F6C card transaction qualifiers
9F6E form factor indicator, or third party data
9F70 life cycle state
9F7F card production life cycle data
A5 proprietary information
BF0C FCI issuer discretionary data
E2 compressed application data
`)

// namesIn are the names that a context gives.
var namesIn = map[context]map[uint32]string{
	inFCP: table(`
80 file size without structural information
81 file size with structural information
82 file descriptor
83 file identifier
84 DF name (AID)
85 proprietary information
86 security attributes, proprietary
87 EF with an extension of the FCI
88 short EF identifier
8A life cycle status
8B security attributes, reference to expanded format
8C security attributes, compact format
8D security environment's EF
8E channel security attribute
8F profile indicator
A0 security attributes for data objects
A1 security attributes, proprietary
A2 short EF identifiers and their files
AB security attributes, expanded format
AC cryptographic mechanism identifiers
C6 PIN status template
`),
	inEMV: table(`
80 response message template format 1
82 application interchange profile
84 DF name (AID)
86 issuer script command
87 application priority indicator
88 short file identifier of the directory
89 authorisation code
8A authorisation response code
8C card risk management DOL 1 (CDOL1)
8D card risk management DOL 2 (CDOL2)
8E cardholder verification method list
8F certification authority public key index
90 issuer public key certificate
91 issuer authentication data
92 issuer public key remainder
93 signed static application data
94 application file locator
95 terminal verification results
97 transaction certificate DOL (TDOL)
98 transaction certificate hash
99 transaction PIN data
9A transaction date
9B transaction status information
9C transaction type
9D directory definition file name
9F65 maximum length of data in a command
`),
	inCRT: table(`
80 cryptographic mechanism
81 file reference
82 DF name
83 public or secret key reference
84 private or session key reference
87 initial value
88 previous data
89 proprietary data
91 random number
92 time stamp
94 challenge, or data for key derivation
95 usage qualifier
9D input to derivation
A4 authentication template (AT)
A6 key agreement template (KAT)
AA hash-code template (HT)
AC cryptographic mechanism identifier template
B4 cryptographic checksum template (CCT)
B6 digital signature template (DST)
B8 confidentiality template (CT)
`),
	inDynamic: table(`
80 witness
81 challenge
82 response
83 committed challenge
84 authentication code
85 exponential
86 encrypted
A0 identification data template
`),
	inSM: table(`
80 plain value
81 plain value
82 cryptogram of data objects
83 cryptogram of data objects
84 cryptogram of a command
85 cryptogram, odd INS
86 padding indicator and cryptogram
87 padding indicator and cryptogram
8E cryptographic checksum (MAC)
96 Le
97 Le
99 processing status
9E digital signature
`),
	inPIV: table(`
70 certificate
71 certificate information
72 MSCUID
F0 card identifier
F1 capability container version
F2 capability grammar version
FE error detection code
30 FASC-N
34 GUID
35 expiration date
3E issuer asymmetric signature
`),
	inGP: table(`
4F AID
80 DF or security environment
84 executable module AID
9F70 life cycle state
C4 executable load file AID
C5 privileges
CC security domain AID
CE executable load file version
C0 key information
C1 algorithm attributes
CF implicit selection
E0 key information template
E3 application in the registry
`),
	inKey: table(`
81 modulus, or prime p
82 public exponent, or coefficient a
83 coefficient b
84 generator G
85 order n
86 public point
87 cofactor
`),
	inASN1: table(`
42 certification authority reference
53 discretionary data, or role
5F20 certificate holder reference
5F24 certificate expiration date
5F25 certificate effective date
5F29 certificate profile identifier
5F37 signature
65 certificate extensions
7F21 card-verifiable certificate
7F49 public key
7F4C certificate holder authorization template
7F4E certificate body
`),
}

// universal are the tags of X.690 §8.1.2.2.
var universal = table(`
1 BOOLEAN
2 INTEGER
3 BIT STRING
4 OCTET STRING
5 NULL
6 OBJECT IDENTIFIER
9 REAL
A ENUMERATED
C UTF8String
12 NumericString
13 PrintableString
14 T61String
16 IA5String
17 UTCTime
18 GeneralizedTime
1A VisibleString
1E BMPString
30 SEQUENCE
31 SET
`)

// table reads lines of a tag in hex and its name.
func table(text string) map[uint32]string {
	m := make(map[uint32]string)
	for line := range strings.Lines(text) {
		word, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		tag := uint32(0)
		for _, c := range word {
			tag = tag<<4 | uint32(strings.IndexRune("0123456789ABCDEF", c))
		}
		if word != "" {
			m[tag] = name
		}
	}
	return m
}
