"""What the scripts need of a mounted cardfs beyond read and write."""
import errno
import fcntl
import os
import struct

BINARY = 0xCF02  # _IO(0xCF, 2)


def exchange_request(size):
    """CARDFS_EXCHANGE(size): _IOC(_IOC_READ | _IOC_WRITE, 0xCF, 1, size)."""
    return 3 << 30 | size << 16 | 0xCF << 8 | 1


def exchange(fd, command, size=16383):
    """One exchange by ioctl. The answer, or its length if it did not fit."""
    buf = bytearray(size)
    struct.pack_into("=I", buf, 0, len(command))
    buf[4:4 + len(command)] = command
    before = bytes(buf)
    n = fcntl.ioctl(fd, exchange_request(size), buf, True)
    assert n == struct.unpack_from("=I", buf)[0], (n, buf[:4])
    end = 4 if n > size - 4 else 4 + n
    assert buf[end:] == before[end:], "more than the answer was copied back"
    return n if n > size - 4 else bytes(buf[4:end])


def says(name, f, *args):
    """f fails with the errno called name."""
    try:
        r = f(*args)
    except OSError as e:
        assert e.errno == getattr(errno, name), "%s instead of %s" % (
            errno.errorcode.get(e.errno, e.errno), name)
        return
    raise AssertionError("%r instead of %s" % (r, name))


def commands(fd):
    """How many commands reached the simulated card: GET DATA 0101, itself not counted."""
    r = exchange(fd, bytes.fromhex("00CA010100"))
    assert r[-2:] == b"\x90\x00", r.hex()
    return int.from_bytes(r[:-2], "big")


NONE, EXCLUSIVE, SHARED, DIRECT = range(4)  # of enum CARDFS_SHARE_...


def connect(fd, share):
    """CARDFS_CONNECT. What is in the slot: a dictionary of struct cardfs_connection."""
    buf = bytearray(200)
    struct.pack_into("=I", buf, 0, share)
    fcntl.ioctl(fd, 3 << 30 | 200 << 16 | 0xCF << 8 | 4, buf, True)
    n = struct.unpack_from("=9I", buf)
    now = dict(zip(("share", "card", "active", "offered", "changes", "epoch", "connections", "locked"), n))
    now["atr"] = bytes(buf[36:36 + n[8]])
    now["reader"] = buf[72:].split(b"\0")[0].decode()
    return now
