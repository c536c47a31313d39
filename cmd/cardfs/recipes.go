package main

import "github.com/spf13/cobra"

// Each block of commands of this topic is run by tests/docs, as root, beside the mount
// cards, which holds a simulated iKey 3000.
func helpRecipes() *cobra.Command {
	return &cobra.Command{
		Use:   "recipes",
		Short: "Languages, containers, other machines, and programs beside cardfs",
		Long: `SHELLS AND LANGUAGES

Whatever opens a file for reading and writing, writes a line and reads one can exchange
APDUs. In bash, zsh, ksh and dash the answer comes on the descriptor of the command:

  { echo 00A4000C023F00 >&3; cat <&3; } 3<>cards/0/apdu

fish has no <>, and awk opens a file a second time to read it, which is another channel
and has no answers. There, and wherever a line is all that is wanted:

  cardfs send 0 00A4000C023F00
  echo 00A4000C023F00 | cardfs send 0 - | awk '{ print $NF }'

Python: open without buffering, so that each write is one command.

  python3 -c 'f = open("cards/0/apdu", "r+b", buffering=0)
  f.write(b"00A4000C023F00\n"); print(f.readline().decode(), end="")'

Node.js reads files in a pool of four threads. A read that waits for a card or an answer
occupies one, and four of them stop everything else that uses the pool: open with
O_NONBLOCK, or raise UV_THREADPOOL_SIZE.

  UV_THREADPOOL_SIZE=16 node -e 'const fs = require("fs"), f = fs.openSync("cards/0/apdu", "r+")
  fs.writeSync(f, "00A4000C023F00\n"); const b = Buffer.alloc(100)
  console.log(b.toString("latin1", 0, fs.readSync(f, b)).trim())'

Go's and Python's own poll loops (deadlines, asyncio) work on every file.

OTHER MACHINES

Readers of another machine become readers here, by the driver remote, which starts sshfs:

  mkdir -p here
  cardfs mount -b --usb=off here
  cardfs attach --mount here remote ssh://localhost$PWD/cards
  cardfs send --mount here 0 00A4000C023F00
  fusermount3 -u here

Without a cardfs here, sshfs carries the text of the files, waiting opens included, with
these options; without direct_io exchanges read nothing, without sshfs_sync a refused write
looks like success:

  mkdir -p far
  sshfs -o direct_io,sshfs_sync,max_conns=8 localhost:$PWD/cards far
  cardfs send --mount far 0 00A4000C023F00
  fusermount3 -u far

To a cardfs here, cardfs attach remote DIR gives the readers of another machine that is
mounted so; with ssh://HOST/DIR it mounts by itself. While sshfs is gone they are starting,
and they come back with it.

A call that waits occupies one of the connections, and when all wait the mount stands
still: give the far cardfs an --open-timeout. Two opens of one file share a connection: let
each lock and unlock from a mount of its own. A read that fails looks like end of file;
after the line errors it is a line. There is no ioctl, and flock locks this machine only;
the lines lock and unlock lock the reader itself, and power, protocol and control as lines
of the same open are admitted by them (cardfs help files). Pull none of this over a network
that you do not trust with PINs, except through ssh.

CONTAINERS

A container needs cardfs's files, not the device: bind the one slot that it may use.
cardfs send and the other commands work on such a directory alone:

  mkdir -p card
  bwrap --dev-bind / / --bind $PWD/cards/0 $PWD/card cardfs send $PWD/card 00A4000C023F00

With podman and docker it is the option -v /mnt/cards/0:/card; for PC/SC programs -v
/mnt/cards/0:/mnt/cards/0 and the library (man libpcsclite-cardfs). The kernel compares the ids
of users outside: in a user namespace mount with --allow-other, and with --group or --mode
for the id that the container's user has outside. flock(1) is refused (EOPNOTSUPP) where the
opener is in a process namespace that cardfs cannot see into. flock(2) on a descriptor that
is open for reading and writing, and the lines lock and unlock, work everywhere.

TRANSACTIONS

flock(2) on apdu keeps out whoever else uses the files, and pcscd's handler with it. For
a PC/SC program that runs by cardfs pcsc, SCardBeginTransaction is that lock. With pcscd
it keeps out pcscd's other clients alone: pcscd does not tell its handlers. So a script
beside such programs takes the lock, and is safe from them, but they are not safe from a
script that does not:

  cardfs send --lock 0 00A4000C023F00 00B0000010

TWO MOUNTS

Each cardfs has its own readers, numbers and permissions. A USB reader belongs to the one
that took it first, so let only one serve USB. Commands then need to know which is meant:

  mkdir -p lab
  cardfs mount -b --usb=off --sim t1 lab
  CARDFS_MOUNT=lab cardfs list
  umount lab

OPENSC

OpenSC's PKCS #11 module has a fixed number of slots, 16 where its configuration says
nothing, and readers beyond them are not seen. In /etc/opensc/opensc.conf, inside
app opensc-pkcs11 { pkcs11 { ... } }, raise max_virtual_slots. Where a program sees none of
a farm's last readers, this is the first place to look.

SIMULATED READERS

A token's card cannot be taken out, so sim N remove says that a token cannot do that;
unplug the token, or take a reader with a slot:

  cardfs attach sim t1
  cardfs sim 0 unplug
  cardfs sim 0 plug
  cardfs sim 1 remove

VSMARTCARD

The cards of vsmartcard, libcacard and their like connect to the driver vpcd. Debian 12's
own vicc (package vsmartcard-vpicc 3.3) does not start: its modules are installed where
Python does not look, and they want a module Crypto that Debian does not have. Build
vsmartcard from its sources for it.

  cardfs attach vpcd 127.0.0.1:35963`,
	}
}
