package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/examples/internal/commandline"
)

// Options are the values of the flags.
type options struct {
	rounds      int
	slot        time.Duration // length of one measurement
	settle      time.Duration // wait before the memory is read
	limit       time.Duration // limit of the run; the first round is always completed
	idle        int           // WebSockets
	rate        int           // requests a second
	connections int
	grow        bool
	scale       bool
	quick       bool
	soak        time.Duration // zero: none
	pickers     bool
	only        []string       // programs; empty: all
	rows        *regexp.Regexp // nil: all
	before      string         // file of another demo balancer; empty: none
	out         string         // directory for the files; empty: none
}

const maxIdle = 10_000

// parse parses the command line. Its error has one line. It is [flag.ErrHelp] if the flags were
// listed on help.
func parse(args []string, help io.Writer) (*options, error) {
	o := &options{settle: 1500 * time.Millisecond, connections: 64}
	f := o.flags()
	if err := commandline.Parse(f, args, help, "bench compares the library's demo balancer with a bare ReverseProxy, and with HAProxy, nginx and Caddy.\n\n"); err != nil {
		return nil, err
	}
	if o.quick {
		o.hurry(f)
	}
	if o.pickers && (o.soak > 0 || o.out != "") {
		return nil, errors.New("flag -pickers goes with -rounds, -slot and -quick alone")
	}
	if o.soak > 0 && o.before != "" {
		return nil, errors.New("flag -soak compares nothing, so it does not go with -before")
	}
	if o.soak > 0 {
		o.only = []string{nameStickylb}
	}
	if o.grow && !given(f, "limit") {
		o.limit *= growLimit
	}
	if o.scale && !given(f, "limit") {
		o.limit += scaleLimit
	}
	return o, o.check()
}

// growLimit is how many times longer a run with -grow may last.
const growLimit = 3

// scaleLimit is how much longer a run with -scale may last.
const scaleLimit = 6 * time.Minute

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints errors, in one line
	f.IntVar(&o.rounds, "rounds", 5, "`number` of rounds; in each, every program is measured once in everything")
	f.DurationVar(&o.slot, "slot", 500*time.Millisecond, "`duration` of one measurement")
	f.DurationVar(&o.limit, "limit", 510*time.Second, "`duration` of the run: once everything has been measured, nothing begins that would probably end later; by itself, -grow makes it three times as long")
	f.IntVar(&o.idle, "idle", 4000, "`number` of idle WebSockets to measure the memory of, up to 10000; far fewer may all fit into what a heap has free anyway, and the limit of descriptors must allow twice as many")
	f.IntVar(&o.rate, "rate", 2000, "requests a `second` at which the latency is measured, whether answers come or not")
	f.BoolVar(&o.grow, "grow", false, "also measure 10 to 10000 connections and 3 to 3000 targets")
	f.BoolVar(&o.scale, "scale", false, "also measure 100000 targets, targets that flap, 1000000 learned sessions, 10000 WebSockets and 10000 idle clients at once, and contention; takes up to six minutes more")
	f.DurationVar(&o.soak, "soak", 0, "instead of comparing, keep stickylb at half load for this `duration` and print its memory")
	f.BoolVar(&o.pickers, "pickers", false, "instead of comparing programs, measure how long the pickers take with 10000 targets, quiet and while these change")
	f.Func("only", "`names` of programs to compare, with commas between; all without", o.setOnly)
	f.Func("run", "regular `expression` of names of the table's rows; measures only what has such a row", o.setRows)
	f.StringVar(&o.before, "before", "", "`file` of another version's demo balancer, to compare with under the name "+nameBefore+": go build -o FILE ./examples/demo")
	f.StringVar(&o.out, "o", "", "`directory` for the files "+fileTable+", "+fileShort+" (the main rows), "+fileChart+" and "+fileSamples)
	f.BoolVar(&o.quick, "quick", false, "one short round that shows that everything works; its figures mean little")
	return f
}

func (o *options) setOnly(value string) error {
	for name := range strings.SplitSeq(value, ",") {
		i := slices.IndexFunc(programs, func(p *program) bool { return strings.EqualFold(p.name, name) })
		if i < 0 {
			return errors.New("the programs are " + programNames())
		}
		o.only = append(o.only, programs[i].name)
	}
	return nil
}

func (o *options) setRows(value string) (err error) {
	o.rows, err = regexp.Compile(value)
	return err
}

func programNames() string {
	var names []string
	for _, p := range programs {
		if p.name != nameBefore { // its own flag asks for it
			names = append(names, p.name)
		}
	}
	return strings.Join(names, ", ")
}

// wants reports whether a program is to be compared.
func (o *options) wants(name string) bool {
	if name == nameBefore {
		return o.before != ""
	}
	return len(o.only) == 0 || slices.Contains(o.only, name)
}

// wantsRows reports whether a scenario with these rows is to be measured.
func (o *options) wantsRows(rows []metric) bool {
	return o.rows == nil || slices.ContainsFunc(rows, func(m metric) bool { return o.rows.MatchString(m.Name) })
}

func given(f *flag.FlagSet, name string) bool {
	found := false
	f.Visit(func(one *flag.Flag) { found = found || one.Name == name })
	return found
}

// hurry sets small values for all flags that were not given.
func (o *options) hurry(f *flag.FlagSet) {
	o.connections = 16
	o.settle = 50 * time.Millisecond
	for name, value := range map[string]string{"rounds": "1", "slot": "50ms", "idle": "50", "rate": "200"} {
		if !given(f, name) {
			f.Set(name, value) // cannot fail
		}
	}
}

func (o *options) check() error {
	for _, n := range []struct {
		name       string
		value, max int
	}{{"rounds", o.rounds, 1000}, {"idle", o.idle, maxIdle}, {"rate", o.rate, 1_000_000}} {
		if n.value < 1 || n.value > n.max {
			return fmt.Errorf("invalid value \"%d\" for flag -%s: must be from 1 to %d", n.value, n.name, n.max)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"slot", o.slot}, {"limit", o.limit}} {
		if d.value <= 0 {
			return fmt.Errorf("invalid value %q for flag -%s: must be above zero", d.value, d.name)
		}
	}
	if o.soak < 0 {
		return fmt.Errorf("invalid value %q for flag -soak: must not be below zero", o.soak)
	}
	return nil
}
