package client

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// hub is a line of ctl: a device without slots, whose driver announces readers.
type hub struct{ driver, device, state, problem string }

// hub finds what was attached in ctl.
func (c *Mount) hub(driver, device string) (h hub, ok bool) {
	for _, line := range c.ctlLines() {
		w := strings.Fields(line)
		if len(w) < 4 || w[0] != "hub" || w[1] != driver || w[2] != device {
			continue
		}
		h = hub{driver: driver, device: device, state: w[3]}
		for _, pair := range w[4:] {
			if reason, is := strings.CutPrefix(pair, "error="); is {
				h.problem = strings.ReplaceAll(reason, "_", " ")
			}
		}
		return h, true
	}
	return h, false
}

func (c *Mount) ctlLines() []string {
	text, err := os.ReadFile(c.Path("ctl"))
	if err != nil {
		return nil
	}
	return strings.Split(string(text), "\n")
}

// hubPause is the interval of looking for a hub: it has no slot, and so no events.
const hubPause = 50 * time.Millisecond

// awaitHub waits until the hub is ready and gives the numbers of its readers. A hub that is
// not ready yet may be, later.
func (c *Mount) awaitHub(h hub, wait time.Duration) ([]int, error) {
	removes := fmt.Sprintf("(cardfs detach %s %s removes it)", h.driver, h.device)
	for end := time.Now().Add(wait); ; time.Sleep(hubPause) {
		now, ok := c.hub(h.driver, h.device)
		switch {
		case !ok:
			return nil, fmt.Errorf("%s %s was detached while it started", h.driver, h.device)
		case now.state == "ready":
			return c.readersOf(h), nil
		case now.state == "failed":
			return nil, fmt.Errorf("%s %s failed to start: %s %s", h.driver, h.device, now.problem, removes)
		case now.problem != "":
			return nil, fmt.Errorf("%s %s is not ready, and tried again from time to time: %s %s", h.driver, h.device, now.problem, removes)
		case wait == 0:
			return nil, nil
		case time.Now().After(end):
			return nil, fmt.Errorf("%s %s is still starting after %v %s", h.driver, h.device, wait, removes)
		}
	}
}

// readersOf are the slots whose device is below the hub's.
func (c *Mount) readersOf(h hub) (numbers []int) {
	for _, line := range c.ctlLines() {
		w := strings.Fields(line)
		if len(w) < 4 || w[0] != "reader" || w[2] != h.driver || !strings.HasPrefix(w[3], h.device+"/") {
			continue
		}
		if n, err := strconv.Atoi(w[1]); err == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers
}
