# SPDX-License-Identifier: BSD-3-Clause
# A CT-API program in Python: requests the card at port 0 and selects its MF.
import ctypes
import sys

ct = ctypes.CDLL(sys.argv[1])
for f in (ct.CT_init, ct.CT_data, ct.CT_close):
    f.restype = ctypes.c_int8

HOST, TERMINAL, CARD = 2, 1, 0


def data(unit, command):
    dad, sad = ctypes.c_ubyte(unit), ctypes.c_ubyte(HOST)
    answer = ctypes.create_string_buffer(258)
    n = ctypes.c_ushort(len(answer))
    code = ct.CT_data(1, ctypes.byref(dad), ctypes.byref(sad), len(command), command, ctypes.byref(n), answer)
    assert code == 0, code
    assert (dad.value, sad.value) == (HOST, unit), (dad.value, sad.value)
    return answer.raw[: n.value]


assert ct.CT_init(1, 7) == -1
assert ct.CT_init(1, 0) == 0
answer = data(TERMINAL, bytes.fromhex("2012010100"))
assert answer[-2:] == b"\x90\x01", answer.hex()
print("ATR", answer[:-2].hex())
print("SELECT", data(CARD, bytes.fromhex("00A4000C023F00")).hex())
assert ct.CT_close(1) == 0
assert ct.CT_close(1) == -8
print("closed")
