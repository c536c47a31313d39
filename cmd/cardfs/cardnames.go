package main

import (
	"fmt"
	"sync"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/cards"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
)

// installed is the list of cards that this machine has.
var installed = sync.OnceValue(cards.Load)

// cardNames are the names of the cards that have this ATR, in hex; never nil.
func cardNames(atr string) []string {
	b, err := hextext.Parse(atr)
	if err != nil || len(b) == 0 {
		return []string{}
	}
	return append([]string{}, installed().Name(b)...)
}

// firstName is the first of a card's names, and how many more there are.
func firstName(names []string) string {
	switch len(names) {
	case 0:
		return ""
	case 1:
		return names[0]
	}
	return fmt.Sprintf("%s +%d", names[0], len(names)-1)
}

// shortCardName is the first name of a card with this ATR.
func shortCardName(atr string) string { return firstName(cardNames(atr)) }
