package main

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"
)

// jsonFlag adds --json to a command that prints one object or array.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON")
}

// printJSON prints an object or an array for people, too.
func printJSON(w io.Writer, object any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(object)
}

// printJSONLine prints an object on a line of its own.
func printJSONLine(w io.Writer, object any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(object)
}

func helpJSON() *cobra.Command {
	return &cobra.Command{
		Use:   "json",
		Short: "The JSON that the commands print",
		Long: `--json prints for programs what a command prints for people. list, ids and doctor print
one array, status, stats and version one object, over several lines; watch, send and atr
print an object for each event, exchange or ATR, each on a line of its own, as it comes.

A key means the same wherever it is. All keys are always there, unless it says otherwise;
what is not known, or makes no sense at the moment, is empty: "", false, []. Keys may be
added, never change their meaning. Hex is in upper case, with a blank between bytes.

A slot, in list and status:

  number       of the slot's directory; -1 for one that was bound elsewhere alone
  path         of the slot's directory
  state        starting, failed, empty, present (a card without power), powered
  error        the last error in words
  reader       the reader's model
  driver       its driver
  device       what it was attached as, or where it is plugged in
  by_id        the slot's name in by-id
  host         the machine that has the reader; empty: this one
  siblings     numbers of the slots of the same reader, this one included
  protocol     T=0, T=1 or memory, of a powered card
  atr          its ATR in hex
  card         what smartcard_list.txt calls a card with this ATR: an array of strings;
               empty if that list (pcsc-tools) is not installed, or does not know it
  transaction  true: somebody holds it
  status       an object with all lines of the file status, by their keys there

The counters of a slot, in stats:

  number path  as above
  stats        an object with all lines of the file stats, by their keys there: numbers

An event, in watch:

  number slot  number of the slot's directory, by two names
  seq          number of the event
  event        arrived, ready, failed, inserted, powered, reset, removed, left
  more         an object with what else the line says (cardfs help events), in strings as
               it has them: hex without blanks, blanks as underscores
  lost         how many events before this one were lost
  time         when it was read; only with --time

An exchange, in send:

  command      C-APDU in hex; from its data on [masked] where that is a secret
  name         of the command, "" if it has none
  command_words  name and parameters in words
  data         of the R-APDU, in hex, or [masked]
  sw           SW1 SW2, without a blank
  words        what SW1 SW2 say
  tlv          data as a tree of objects: tag, name, value and words, or children
  masked       true: something was
  time_us      microseconds from sending to the answer

An ATR, in atr:

  atr card     as above
  protocols    those that it offers, an array of strings as in protocol
  historical   its historical bytes in hex
  defects      what the standard has against it, in words
  lines        what atr prints of it without --json

A kind of USB reader, in ids:

  usb_id       vendor and product, as 04b9:1300
  reader driver  as above

A finding, in doctor:

  check        the name of what was looked at
  state        ok, warn, wrong, unknown
  text         what is, or what is wrong
  mend         a command for the shell that mends it, if there is one

The build, in version:

  version commit go_fuse go os arch  strings; commit is unknown outside a repository
  modified     true: built with changes that were not committed`,
	}
}
