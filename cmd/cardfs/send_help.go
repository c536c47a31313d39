package main

import (
	"fmt"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/explain"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/prompt"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/script"
)

func sendHelp() string {
	return `send exchanges C-APDUs with the card in slot N, all through one open of its apdu
file, and prints each R-APDU as a line of spaced hex, SW1 SW2 last.

Each HEX is one C-APDU; quote it where it has blanks. All are checked before the
first is sent. HEX - stands for lines of standard input, each checked when its
turn comes; blank lines and what follows a # are left out.

SW1 SW2 is data: send exits 0 when the card answered, whatever it says. With --ok
it stops after the first answer that is neither 9000 nor 61xx, and exits 4.

Without a card, send waits for one, as opening apdu does; --wait bounds that.

` + slotHelp + `

--explain prints a command behind "> " and its answer behind "< ", and below each,
indented, what they say: the command by its name and P1 P2, CLA, data and Le; data as a
tree of BER-TLV data objects if it is one wholly, else in hex and ASCII; SW1 SW2 in
words. PINs and keys, and what belongs to them, are [masked] as in trace: of such a
command the header is shown, of its answer SW1 SW2. The names are those of ISO/IEC
7816-4 and its neighbours; a card may mean something else.

--json prints an object for each exchange, one a line, masked as above; cardfs help json
lists its keys.

-f runs a script. All of its lines are checked before the first command is sent, but for
what depends on an answer or on what is typed. It ends at the first answer that is not
what its line expects: exit code 4, and FILE:LINE, what was expected and what came (of a
masked answer SW1 SW2). A line is

  COMMAND [= PATTERN [| PATTERN]...] [-> NAME]
                    sends COMMAND; its answer has to be as one PATTERN says; NAME is
                    set to the answer's data
  set NAME BYTES    sets a variable; it is used as $NAME or ${NAME}
  prompt NAME [fill=BYTES]
                    sets NAME to what is typed, without echo, at the terminal (--pin-fd:
                    to a line of that descriptor), filled up to the length of fill
  echo TEXT         prints TEXT, with variables in hex; with --json to standard error
  reset, cold       resets the card, warm or by power; an open without the lock is new then
  lock, unlock      takes and ends the slot's transaction

A # begins a comment, a \ at the end continues a line. BYTES are hex with blanks anywhere,
$NAME, "text", and ( BYTES ) for a length and BYTES: Lc at the fifth byte of a command, one
byte or 00 and two; the length of a data object anywhere else, as in 00CB3FFF (5C (5FC105)).
A PATTERN has hex digits, x or . for any digit, * for any bytes, and $NAME. One of two bytes
is SW1 SW2 alone, whatever the data: 9000, 61xx, 63Cx; any other is the whole answer, as
6F .. 84 * 9000. COMMAND is BYTES or one of these names; numbers are decimal, or hex with
0x, and LENGTH is Le; without it Le is 256:

` + columns(script.Usage()) + `
Options of these are cla=HEX for the class and sfi=N for a short EF identifier. The NAMEs
that select knows are the MF's, mf, and those of applications:

` + wrapped(applications(), 88) + `
-i reads such lines at a prompt, with line editing, a history (the arrow keys, ctrl-R) and
completion of names (the tabulator). A card that is pulled, or a reader that leaves, is an
error of one line. ctrl-C clears the line, ctrl-D ends; while the card works ctrl-C ends the
program. Hold the transaction with --lock only as long as you need it. Besides:

` + columns(prompt.Commands) + `
What PIN prompts read is not echoed and not in the history; nor is a line that sets a
variable, has a PIN or a key in it, is no command, or looks like a PIN. The history is
$XDG_STATE_HOME/cardfs/history, by default in ~/.local/state, its owner's alone.`
}

// columns are lines of a word and what it means.
func columns(rows [][2]string) string {
	var out strings.Builder
	for _, r := range rows {
		out.WriteString(strings.TrimRight(fmt.Sprintf("  %-34s %s", r[0], r[1]), " ") + "\n")
	}
	return out.String()
}

func applications() (names []string) {
	for _, a := range explain.Applications {
		names = append(names, a.Name)
	}
	return names
}

// wrapped are words in indented lines of that width.
func wrapped(words []string, width int) string {
	var out strings.Builder
	at := 0
	for _, w := range words {
		if at == 0 || at+1+len(w) > width {
			if at > 0 {
				out.WriteByte('\n')
			}
			out.WriteString(" ")
			at = 1
		}
		out.WriteString(" " + w)
		at += 1 + len(w)
	}
	return out.String() + "\n"
}
