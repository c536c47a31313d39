package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/cardfs/cardfs/tests/internal/proc"
)

// task is something that a client does with a mounted cardfs.
type task struct {
	name  string
	many  bool     // on the mount with many readers
	args  []string // of filebench; DIR is the mount
	times float64  // what the daemon does for it, in exchanges; 0: the client tells how many a second
}

const milliseconds = "250"

func tasks(readers int) []task {
	times := func(name string, many bool, mode, count, file string) task {
		n, _ := strconv.Atoi(count)
		return task{name, many, []string{mode, count, apdu, "DIR/" + file}, float64(n + n/10)}
	}
	rate := func(name string, clients int) task {
		return task{name, true, []string{"many", milliseconds, apdu, "DIR", strconv.Itoa(clients)}, 0}
	}
	return []task{
		times(ioctlSim, false, "ioctl", "500", "0/apdu"),
		times(textSim, false, "text", "500", "0/apdu"),
		times("binary, sim", false, "binary", "500", "0/apdu"),
		times(openOne, false, "open", "100", "0"),
		times(openMany, true, "open", "100", "0"),
		rate(rateOne, 1),
		rate("two clients", 2),
		rate(rateMany, readers),
	}
}

// version is a cardfs with one reader and one with many, both at work.
type version struct{ one, many *proc.Process }

// sample is the result of one run of a task.
type sample struct {
	wall, fast float64 // for each exchange: the median, the fastest tenth
	cpu        float64 // of the daemon
}

// against measures two versions of cardfs in turns, and prints the ratio of one to the
// other.
func against(ctx context.Context, o options) (err error) {
	e := &env{options: o}
	defer func() {
		if cerr := e.close(); err == nil {
			err = cerr
		}
	}()
	if err := e.build(ctx); err != nil {
		return err
	}
	var versions [2]version
	for i, program := range []string{o.against, o.cardfs} {
		e.cardfs = program
		if versions[i], err = e.version(ctx, strconv.Itoa(i)); err != nil {
			return err
		}
	}
	res := map[string][2][]sample{}
	todo := slices.DeleteFunc(tasks(o.readers), func(t task) bool { return !strings.Contains(t.name, o.only) })
	for round := range o.rounds {
		for _, t := range todo {
			got := res[t.name]
			for turn := range 2 {
				i := turn ^ round&1
				s, err := e.sample(ctx, t, i, versions[i])
				if err != nil {
					return fmt.Errorf("%s: %w", t.name, err)
				}
				got[i] = append(got[i], s)
			}
			res[t.name] = got
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round+1, o.rounds)
	}
	fmt.Fprintln(os.Stderr)
	return compare(os.Stdout, e, todo, res, versions)
}

// version starts a version's mounts and powers every card.
func (e *env) version(ctx context.Context, name string) (v version, err error) {
	sims := func(n int) (args []string) {
		args = []string{"--usb=false"}
		for range n {
			args = append(args, "--sim", "apdu")
		}
		return args
	}
	if v.one, err = e.mount(ctx, "one"+name, sims(1)...); err != nil {
		return v, err
	}
	if v.many, err = e.mount(ctx, "many"+name, sims(e.readers)...); err != nil {
		return v, err
	}
	atrs := []string{e.path("one" + name + "/0/atr")}
	for i := range e.readers {
		atrs = append(atrs, e.path(fmt.Sprintf("many%s/%d/atr", name, i)))
	}
	for _, atr := range atrs {
		if _, err := os.ReadFile(atr); err != nil {
			return v, err
		}
	}
	return v, nil
}

func (e *env) sample(ctx context.Context, t task, i int, v version) (s sample, err error) {
	daemon, dir := v.one, e.path("one"+strconv.Itoa(i))
	if t.many {
		daemon, dir = v.many, e.path("many"+strconv.Itoa(i))
	}
	args := slices.Clone(t.args)
	for i, a := range args {
		args[i] = strings.Replace(a, "DIR", dir, 1)
	}
	before, err := onCPU(daemon.Pid())
	if err != nil {
		return s, err
	}
	took, err := samples(exec.CommandContext(ctx, e.path("filebench"), args...))
	if err != nil {
		return s, err
	}
	after, err := onCPU(daemon.Pid())
	slices.Sort(took)
	s = sample{median(took), median(took[:(len(took)+9)/10]), after - before}
	if t.times == 0 {
		ms, _ := strconv.ParseFloat(milliseconds, 64)
		s.cpu /= s.wall * ms / 1e3 // approximately: the clients' start and end are not counted
		s.wall = 1e9 / s.wall
		s.fast = s.wall
	} else {
		s.cpu /= t.times
	}
	return s, err
}

// compare prints the medians of the ratios of each round, and of the two fastest tenths.
func compare(w io.Writer, e *env, todo []task, res map[string][2][]sample, versions [2]version) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s\n%s against %s\n", machine(e.options), e.cardfs, e.against)
	fmt.Fprintln(t, "an exchange\ttime\tfastest tenth\tdaemon's CPU\tmedians of the times\tof the CPU\t")
	for _, task := range todo {
		r := res[task.name]
		pick := func(f func(sample) float64) (ratio, old, new float64) {
			var v [3][]float64
			for k := range r[0] {
				a, b := f(r[0][k]), f(r[1][k])
				v[0], v[1], v[2] = append(v[0], b/a), append(v[1], a), append(v[2], b)
			}
			return median(v[0]), median(v[1]), median(v[2])
		}
		fastest := func(i int) float64 {
			v := []float64{}
			for _, s := range r[i] {
				v = append(v, s.fast)
			}
			slices.Sort(v)
			return median(v[:(len(v)+9)/10])
		}
		wall, a, b := pick(func(s sample) float64 { return s.wall })
		cpu, c, d := pick(func(s sample) float64 { return s.cpu })
		fmt.Fprintf(t, "%s\t%.3f\t%.3f\t%.3f\t%s : %s\t%s : %s\t\n", task.name, wall, fastest(1)/fastest(0), cpu,
			nanoseconds(b), nanoseconds(a), nanoseconds(d), nanoseconds(c))
	}
	var reader [2]float64
	for i, v := range versions {
		many, err := resident(v.many)
		if err != nil {
			return err
		}
		one, err := resident(v.one)
		if err != nil {
			return err
		}
		reader[i] = (many - one) / float64(e.readers-1)
	}
	fmt.Fprintf(t, "%s\t%.3f\t\t\t%s : %s\t\t\n", memory, reader[1]/reader[0], kibibytes(reader[1]), kibibytes(reader[0]))
	return t.Flush()
}
