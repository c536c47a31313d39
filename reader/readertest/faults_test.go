package readertest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A driver in order passes, and so does one whose cards are fixed or cannot be silenced.
func TestSuite(t *testing.T) {
	for _, fault := range []string{"none", "fixed", "never silent", "Open does not look at ctx"} {
		t.Run(fault, func(t *testing.T) { Suite(t, fixture(fault)) })
	}
}

const (
	env         = "READERTEST_FAULT"
	envDeadline = "READERTEST_DEADLINE"
)

// TestFault is the suite with a driver that breaks a rule. TestFaults runs it in a process
// of its own.
func TestFault(t *testing.T) {
	fault := os.Getenv(env)
	if fault == "" {
		t.Skip("a process of its own that TestFaults starts")
	}
	if d, err := time.ParseDuration(os.Getenv(envDeadline)); err == nil {
		deadline = d
	}
	Suite(t, fixture(fault))
}

// Each rule of the suite finds the driver that breaks it.
func TestFaults(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ fault, test, says string }{
		{"Slots changes", "Open", "slot 0 changes"},
		{"gone at once", "Open", "gone at once"},
		{"one slot", "Open", "1 slots, the device has 2"},
		{"Open fails", "Open", "Open: "},
		{"Open hangs", "Open", "Open hangs"},
		{"Open leaves a goroutine", "Open", "unexpected goroutines"},
		{"Close hangs", "Open", "Close hangs"},
		{"forgotten", "Open", "slot 0: a slot has Remove and Insert"},
		{"Open hides why it ended", "OpenCancelled", "context canceled"},
		{"Open fails and gives a reader", "OpenCancelled", "want none"},
		{"Open ended early has no slots", "OpenCancelled", "0 slots, the device has 2"},
		{"Open ended early is of no use", "OpenCancelled", "power on, cold"},
		{"power is not seen", "Status", "status 1, <nil>; want 2"},
		{"power stays", "Status", "status stays 2"},
		{"PowerOff fails", "Status", "power off"},
		{"an absent card is there", "Status", "status stays"},
		{fixedFirst, "Status", "status stays"},
		{"nobody is told", "Status", "nobody is told that the card was taken out"},
		{"a warm reset has another ATR", "PowerOnOff", "warm reset: ATR 3B 01 00"},
		{"off twice is an error", "PowerOnOff", "power off"},
		{"the 30th answer is another", "Exchange", "answer 6F 00"},
		{"the answer takes the place of dst", "ExchangeKeepsDst", "appended to"},
		{"there is no answer", "ExchangeKeepsDst", "appended to"},
		{"the second slot answers otherwise", "SlotsApart", "6F 00"},
		{"an absent card is mute", "NoCard", "power on without a card"},
		{"a card that was taken out has time", "NoCard", "exchange without a card"},
		{"an error takes dst away", "NoCard", "dst is"},
		{"a card that was taken out has time", "RemovedDuringExchange", "want no card in the slot"},
		{"a mute card has time", "Mute", "power on of a mute card"},
		{"a silent card has half of its time", "Timeout", "less than 500ms"},
		{"a time-out is damage", "Timeout", "want no answer"},
		{"Exchange does not look at ctx", "CancelledBefore", "exchange: <nil>"},
		{"PowerOn does not look at ctx", "CancelledBefore", "power on: <nil>"},
		{"Status hangs", "CancelledBefore", "Status hangs"},
		{"a ctx that ended is a time-out", "CancelledDuring", "want context canceled"},
		{"Exchange goes on for ever", "CancelledDuring", "hangs"},
		{"Gone stays open", "GoneBefore", "waiting for Gone hangs"},
		{"a device that left has no card", "GoneBefore", "after the device left"},
		{"a device that left has no card", "GoneDuring", "device left after"},
		{"Gone stays open", "GoneDuring", "hangs"},
		{"Close ends nothing", "CloseDuring", "hangs"},
		{"an exchange that Close ended succeeded", "CloseDuring", "succeeded"},
	} {
		t.Run(tt.fault+"/"+tt.test, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(exe, "-test.run", "^TestFault$/^"+tt.test+"$", "-test.timeout", "1m")
			cmd.Env = append(os.Environ(), env+"="+tt.fault)
			for _, w := range []string{"hangs", "stays", "nobody"} {
				if strings.Contains(tt.says, w) { // it does so for ever
					cmd.Env = append(cmd.Env, envDeadline+"=1s")
				}
			}
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), tt.says) {
				t.Errorf("%v, want a failure that says %q:\n%s", err, tt.says, out)
			}
		})
	}
}
