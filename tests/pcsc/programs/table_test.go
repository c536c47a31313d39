package programs

const (
	cacATR   = "3b:7a:18:00:00:73:66:74:65:20:63:64:31:34:34"
	tokenATR = "3b:b7:94:00:81:31:fe:65:53:50:4b:32:33:90:00:d1"

	modulePath = "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"
	examples   = "/usr/share/doc/python3-pyscard/examples/"
	perl       = "/usr/share/doc/libpcsc-perl/examples/"
)

// programs are those that end by themselves.
func programs() []row {
	return []row{
		{name: "opensc-tool -l", script: `opensc-tool -l`, want: "3 .*No"},
		{name: "opensc-tool -a", script: `opensc-tool -a`, want: cacATR},
		{name: "opensc-tool -n", script: `opensc-tool -n`, want: "CAC"},
		{name: "opensc-tool -s", script: `opensc-tool -r 1 -s 00A4000C023F00 -s 00B2010400`, want: "Received"},
		{name: "opensc-tool, T=0", script: `opensc-tool -r 2 -a; opensc-tool -r 2 -s 00A4000C023F00 -s 80EE000002010100`, want: "SW1=0x90"},
		{name: "opensc-tool, no card", script: `opensc-tool -r 3 -a`, want: "Card not present", code: 1},
		{name: "opensc-tool --reset", script: `opensc-tool -r 1 --reset=cold && opensc-tool -r 1 --reset=warm && opensc-tool -r 1 -a`, want: tokenATR},
		{name: "opensc-tool, provider_library", script: `cat >opensc.conf <<END
app default { reader_driver pcsc { provider_library = $LIB; } }
END
export OPENSC_CONF=$PWD/opensc.conf; unset LD_LIBRARY_PATH; opensc-tool -l; opensc-tool -a`, want: cacATR},
		{name: "pkcs11-tool -L", script: `pkcs11-tool -L`, want: "token label"},
		{name: "pkcs11-tool -O", script: `pkcs11-tool -O`, want: "Certificate Object.*CN=cardfs cert1", mask: `object \d+`},
		{name: "pkcs11-tool --test", script: `pkcs11-tool --test --login --pin $PIN`, want: "SHA256-RSA-PKCS: OK.*RSA-PKCS-OAEP.*1 errors"}, // the card has no random numbers
		{name: "pkcs11-tool -T, -M", script: `pkcs11-tool -L -T; pkcs11-tool -M`, want: "SHA256-RSA-PKCS"},
		{name: "pkcs15-tool --dump", script: `pkcs15-tool --dump`, want: "Private RSA Key.*X.509 Certificate"},
		{name: "pkcs15-tool --read-certificate", script: `pkcs15-tool --read-certificate 0001 | openssl x509 -noout -subject`, want: "CN = cardfs cert1"},
		{name: "pkcs15-tool --verify-pin", script: `pkcs15-tool --verify-pin --auth-id 01 --pin $PIN; pkcs15-tool --list-keys`, want: "Private RSA Key"},
		{name: "pkcs15-crypt --sign", script: `head -c 32 /dev/zero >digest && pkcs15-crypt --sign --key 0002 --pin $PIN --pkcs1 --sha-256 --raw --input digest | od -An -tx1 | head -2`, want: "[0-9a-f]{2} "},
		{name: "piv-tool, openpgp-tool", script: `piv-tool -n; piv-tool -r 4 -n; openpgp-tool -r 4 -C; cardos-tool -i -r 1; eidenv -r 1`, want: "Card is invalid or cannot be handled", code: 1},
		{name: "pcsc_scan -r", script: `pcsc_scan -r`, want: "3: Simulated T=1 reader 03 00"},
		{name: "pcsc_scan -c", script: `pcsc_scan -n -c`, want: "Card state.*ATR", mask: scanMask},
		{name: "pcsc_demo.c", script: `pcsc_demo; pcsc_demo 1`, want: "SCardDisconnect: OK"},
		{name: "scriptor", script: `printf 'reset\n00 A4 00 0C 02 3F 00\n80 EE 00 00 02 01 02 00\n' >script; scriptor -r "Simulated T=1 reader 01 00" script`, want: "< 01 02 90 00"},
		{name: "libpcsc-perl single_reader.pl", script: `perl ` + perl + `single_reader.pl`, want: "Closing context"},
		{name: "libpcsc-perl multiple_readers.pl", script: `perl ` + perl + `multiple_readers.pl`, want: "Closing context"},
		{name: "libpcsc-perl test.pl", script: `perl ` + perl + `test.pl </dev/null`, want: "ok 6"},
		python("simple/getATR.py", "3B 7A"),
		python("simple/getATR_context.py", "3B 7A"),
		python("simple/selectDF_TELECOM.py", "A0 A4"),
		python("simple/simpleAPDU.py", ""),
		python("framework/sample_ATR.py", ""),
		python("framework/sample_CardConnectionDecorator.py", "3F 7A"),
		python("framework/sample_ConsoleConnectionTracer.py", "connecting to"),
		python("framework/sample_CustomCardType.py", ""),
		python("framework/sample_CustomErrorChecker.py", ""),
		python("framework/sample_ErrorChecking.py", ""),
		python("framework/sample_ExclusiveCardConnection.py", "3B 7A"),
		python("framework/sample_apduTracerInterpreter.py", "A0 A4|SELECT"),
		python("scard-api/sample_control.py", "CM_IOCTL_GET_FEATURE_REQUEST: 12").but(`active protocol \d`,
			"a direct connection says the protocol at once: cardfs negotiates when a card gets power, pcscd when a client connects"),
		python("scard-api/sample_getATR.py", "0x3B 0x7A").masked(`Virtual card port 04 00\nState: 0x1?0034\n`), // as in scanMask
		python("scard-api/sample_getAttrib.py", "b'Simulated T=0 reader 02 00").but(`CURRENT_PROTOCOL_TYPE -+\n[^-]*`,
			"pcscd and its drivers do not have SCARD_ATTR_CURRENT_PROTOCOL_TYPE"),
		python("scard-api/sample_listCards.py", ""),
		python("scard-api/sample_listInterfaces.py", ""),
		python("scard-api/sample_locateCards.py", "not supported"),
		{name: "pyscard scard-api/sample_pinpad.py", script: "/usr/bin/python3 " + examples + "scard-api/sample_pinpad.py", want: "Not a pinpad", code: 1},
		python("scard-api/sample_readerGroups.py", "SCard.DefaultReaders"),
		python("scard-api/sample_readers.py", "03 00"),
		python("scard-api/sample_selectDFTelecom.py", "Connected"),
		python("scard-api/sample_transaction.py", "Transaction ended"),
		{name: "gpg --card-status", script: gpg(`echo 'reader-port Virtual card port 04 00' >>scdaemon.conf; gpg --card-status; gpg-connect-agent 'SCD SERIALNO' 'SCD GETATTR DISP-NAME' 'SCD CHECKPIN D2760001240103040006123456780000' /bye </dev/null`), want: "Name of cardholder: Jane Doe.*PIN retry counter : 3 0 3.*S SERIALNO D2760001240103040006123456780000"},
		{name: "gpg, a card not for it", script: gpg(`gpg --card-status; gpg-connect-agent 'SCD GETINFO reader_list' 'SCD SERIALNO' 'SCD GETATTR $DISPSERIALNO' /bye`), want: "ERR|S SERIALNO"},
		{name: "gpg, pcsc-shared", script: gpg(`echo pcsc-shared >>scdaemon.conf; gpg-connect-agent 'SCD SERIALNO' 'SCD APDU --atr' 'SCD APDU 00A40400' /bye; LD_LIBRARY_PATH=${LIB%%libpcsc*} opensc-tool -a`), want: cacATR},
		{name: "yubico-piv-tool", script: `yubico-piv-tool -r 'port 04' -a list-readers -a version -a status -a verify-pin -P ` + keysPIN + `; yubico-piv-tool -r 'port 04' -a read-certificate -s 9a | openssl x509 -noout -subject; yubico-piv-tool -a version`,
			want: "verified PIN.*version 5.4.3 found.*66051.*cardfs PIV.*CN = cardfs PIV.*Failed to connect", code: 1},
		{name: "ykcs11", script: `pkcs11-tool --module /usr/lib/x86_64-linux-gnu/libykcs11.so -L`, want: "No slots", code: 1}, // it wants a reader named Yubico
		{name: "p11tool --list-all", script: `p11tool --provider ` + modulePath + ` --list-tokens; p11tool --provider ` + modulePath + ` --list-all-certs 'pkcs11:manufacturer=Common%20Access%20Card'`, want: "pkcs11:"},
		{name: "ssh-keygen -D", script: `ssh-keygen -D ` + modulePath, want: "ssh-rsa"},
		{name: "piv-go", script: `piv-go`, want: "01 00: selecting piv applet: .*6a82.*04 00: version {5 4 3}, serial 66051.*3 retries.*CN=cardfs PIV"},
		// Debian's Java is linked with libpcsclite.so.1, and has no use for the property
		// sun.security.smartcardio.library, by which others find it.
		{name: "Java's smartcardio", script: `java -Dsun.security.smartcardio.library=$LIB -cp $BUILT Cards A000000079010000`, want: "T=1"},
	}
}

// What pcsc_scan prints of the time, and its turning bar.
// The last card comes by itself, to pcscd perhaps before it looks for the first time.
const scanMask = `(?m) ?[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4}$|(?:\r ?[-\\|/]? ?)+|Virtual card port 04 00\n +Event number: [01]\n`

// python is an example of Debian's python3-pyscard.
func python(name, want string) row {
	return row{name: "pyscard " + name, script: "timeout 30 /usr/bin/python3 " + examples + name + " </dev/null", want: want, mask: `0x[0-9a-f]{8,}`}
}

func (r row) masked(mask string) row {
	r.mask = mask
	return r
}

// but masks what is not the same through pcscd, and says why.
func (r row) but(mask, why string) row {
	r.mask, r.differs = mask, why
	return r
}

// gpg has scdaemon use the side's library, though its environment has no path to it.
func gpg(script string) string {
	return `unset LD_LIBRARY_PATH
printf 'pcsc-driver %s\ndisable-ccid\n' "${LIB/#libpcsc/$(echo /usr/lib/*-linux-gnu/)libpcsc}" >scdaemon.conf
gpg --batch --list-keys 2>/dev/null
` + script + `
gpgconf --kill all`
}
