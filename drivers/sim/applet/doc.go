// Package applet is what the applications of simulated cards share: SELECT, command
// chaining and GET RESPONSE, BER-TLV, PINs with their counters, keys, and a file that keeps
// all that when the daemon ends.
//
// A Card is an icc.Card that holds one App or several. It reads each C-APDU, collects
// chained ones, hands whole Commands to the selected App, and cuts the Answer for short
// Le:
//
//	C-APDU --Parse--> Command --chain--> App.Process --> Answer --Store.Flush--> R-APDU
//
// An App changes its state, which is a struct that encoding/json can write, and says so
// with Store.Changed. The Card has the Store written before the answer goes out. A
// card that is killed at any moment has therefore counted every wrong PIN whose answer
// anybody saw.
//
// These cards are no place for keys that matter: whoever can read the state file has the keys.
package applet
