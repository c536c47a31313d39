# SPDX-License-Identifier: BSD-3-Clause
# A CT-API program in Python: requests the cards of the two slots at port 0 and
# selects their MF; then what must not work.
import ctypes
import sys

ct = ctypes.CDLL(sys.argv[1])
for f in (ct.CT_init, ct.CT_data, ct.CT_close):
    f.restype = ctypes.c_int8

HOST, TERMINAL, CARD, CARD2 = 2, 1, 0, 2


def data(unit, command, room=258, want=0):
    dad, sad = ctypes.c_ubyte(unit), ctypes.c_ubyte(HOST)
    answer = ctypes.create_string_buffer(258)
    n = ctypes.c_ushort(room)
    code = ct.CT_data(1, ctypes.byref(dad), ctypes.byref(sad), len(command), command, ctypes.byref(n), answer)
    assert code == want, code
    if code != 0:
        assert n.value == 0, n.value
        return b""
    assert (dad.value, sad.value) == (HOST, unit), (dad.value, sad.value)
    return answer.raw[: n.value]


assert ct.CT_init(1, 7) == -1
assert ct.CT_init(1, 0) == 0
answer = data(TERMINAL, bytes.fromhex("2012010100"))
assert answer[-2:] == b"\x90\x01", answer.hex()
print("ATR", answer[:-2].hex())
print("SELECT", data(CARD, bytes.fromhex("00A4000C023F00")).hex())
print("REQUEST", data(TERMINAL, bytes.fromhex("20120200")).hex())
print("SELECT", data(CARD2, bytes.fromhex("00A4000C023F00")).hex())
print("STATUS", data(TERMINAL, bytes.fromhex("2013008000")).hex())
data(TERMINAL, b"\x20\x13\x00", want=-1)
data(TERMINAL, bytes.fromhex("2013008000"), room=3, want=-11)
data(4, bytes.fromhex("00A4000C023F00"), want=-1)
assert ct.CT_close(1) == 0
assert ct.CT_close(1) == -8
print("closed")
