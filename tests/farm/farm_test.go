package main

import (
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

var program string

func TestMain(m *testing.M) { daemon.Main(m, &program) }

// The table has a column for each farm, and a value in each row of it.
func TestTable(t *testing.T) {
	var out strings.Builder
	o := options{cardfs: program, machines: []int{1, 2}, readers: 2, delay: time.Millisecond, watch: 100 * time.Millisecond}
	if err := run(t.Context(), &out, o); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "2 readers a machine; the line takes 1ms each way\n\n| machines ") {
		t.Errorf("the table begins otherwise:\n%s", &out)
	}
	for line := range strings.Lines(out.String()[strings.Index(out.String(), "|"):]) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.TrimSpace(cells[2]) == "" || strings.TrimSpace(cells[3]) == "" {
			t.Errorf("a row without a value: %s", line)
		}
	}
	for _, want := range []string{"\n| readers ", "| 2 ", "| 4 ", "requests that cross the line"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}
