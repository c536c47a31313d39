//go:build race

package vpcd

const raceEnabled = true
