# SPDX-License-Identifier: BSD-3-Clause
# A pyscard program that reads a memory card, presents its PSC and writes to it.
from smartcard.System import readers
from smartcard.util import toHexString

connection = readers()[0].createConnection()
connection.connect()
print("ATR", toHexString(connection.getATR()))
for command in ("FF B0 00 00 04", "FF D6 00 41 02 42 43", "FF 20 00 00 03 FF FF FF", "FF D6 00 41 02 42 43", "FF B0 00 40 04"):
    data, sw1, sw2 = connection.transmit([int(b, 16) for b in command.split()])
    print(command[:5], toHexString(data + [sw1, sw2]))
connection.disconnect()
