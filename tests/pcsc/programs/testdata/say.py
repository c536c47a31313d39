"""Calls the functions that it reads, a line each, and says what they return.

It keeps one context and one card through all of them.
"""
import sys

from smartcard.scard import *

NAMES = {v & 0xFFFFFFFF: k.split("_", 2)[2] for k, v in globals().items()
         if k.startswith(("SCARD_S_", "SCARD_E_", "SCARD_W_", "SCARD_F_")) and isinstance(v, int)}
PCI = {SCARD_PROTOCOL_T0: SCARD_PCI_T0, SCARD_PROTOCOL_T1: SCARD_PCI_T1}
EMPTY, PRESENT, UNAWARE = SCARD_STATE_EMPTY, SCARD_STATE_PRESENT, SCARD_STATE_UNAWARE
STATES = {"CHANGED": SCARD_STATE_CHANGED, "UNKNOWN": SCARD_STATE_UNKNOWN, "UNAVAILABLE": SCARD_STATE_UNAVAILABLE,
          "EMPTY": SCARD_STATE_EMPTY, "PRESENT": SCARD_STATE_PRESENT, "EXCLUSIVE": SCARD_STATE_EXCLUSIVE,
          "INUSE": SCARD_STATE_INUSE, "MUTE": SCARD_STATE_MUTE}
context = card = protocol = None


def word(result):
    return NAMES.get(result & 0xFFFFFFFF, hex(result & 0xFFFFFFFF))


def establish():
    global context
    result, context = SCardEstablishContext(SCARD_SCOPE_USER)
    return word(result)


def valid():
    return word(SCardIsValidContext(context))


def readers():
    result, names = SCardListReaders(context, [])
    return word(result) + " " + "|".join(names)


def connect(reader, share=SCARD_SHARE_SHARED):
    global card, protocol
    result, new, active = SCardConnect(context, reader, share, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1)
    if result == SCARD_S_SUCCESS:
        card, protocol = new, active
    return word(result)


def exclusive(reader):
    return connect(reader, SCARD_SHARE_EXCLUSIVE)


def reconnect(how=SCARD_LEAVE_CARD):
    global protocol
    result, protocol = SCardReconnect(card, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, how)
    return word(result)


def reset():
    return reconnect(SCARD_RESET_CARD)


def disconnect():
    return word(SCardDisconnect(card, SCARD_LEAVE_CARD))


def begin():
    return word(SCardBeginTransaction(card))


def end():
    return word(SCardEndTransaction(card, SCARD_LEAVE_CARD))


def status():
    return word(SCardStatus(card)[0])


def send(command="80EE0000020102 00"):
    result, answer = SCardTransmit(card, PCI[protocol], list(bytes.fromhex(command)))
    return word(result) + "".join(" %02X" % (b & 0xFF) for b in answer)


def change(reader, had=UNAWARE, milliseconds=60000):
    result, states = SCardGetStatusChange(context, milliseconds, [(reader, had)])
    return " ".join([word(result)] + [name for name, bit in STATES.items() if states and states[0][1] & bit])


for line in sys.stdin:
    print(eval(line), flush=True)
