// Command bench measures preauth beside the alternatives: a straight-line program that does only
// what is indispensable (floor), the same job built with Watermill (watermill), the textbook way to
// claim a row (textbook), a bare endpoint of a NATS micro service (micro), and what platforms do
// without preauth (sdk).
//
//	go -C test/bench run . ROW... [-rounds N]    some rows of the table of goals, or all
//	go -C test/bench run . ROW... -against REV   the same, also for the service as it was at REV
//	go -C test/bench run . -help
//
// Every program is a process of its own, with a NATS account and a database of its own, beside one
// nats-server, one database server and one stand-in for WeChat, which are processes too, on
// loopback addresses. Each figure is the ratio of two programs within one round. The table has the
// median over the rounds, the smallest and the largest. Nothing is left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 2 && os.Args[1] == programCommand {
		exit(runProgram(ctx, os.Args[2], os.Args[3:]))
	}
	exit(run(ctx, os.Args[1:], os.Stdout))
}

func exit(err error) {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	rounds     int
	components int
	length     time.Duration
	idle       time.Duration
	against    string
	plots      string
	dir        string
	profile    string
	verbose    bool
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&s.rounds, "rounds", 5, "`rounds` of each row")
	flags.IntVar(&s.components, "components", 100_000, "`components` of the row components")
	flags.DurationVar(&s.length, "length", 5*time.Second, "`time` for which a rate is measured in one round")
	flags.DurationVar(&s.idle, "idle", time.Minute, "`time` for which the row idle watches")
	flags.StringVar(&s.against, "against", "", "`revision` of this repository whose service is measured too, in the same rounds")
	flags.StringVar(&s.plots, "plots", "", "`directory` for the plots of the rows growth and trace")
	flags.StringVar(&s.dir, "dir", "", "`directory` for a temporary directory with the data; default: the system's")
	flags.StringVar(&s.profile, "profile", "", "`directory` for a CPU profile of preauth in each row; the service then runs within this command")
	flags.BoolVar(&s.verbose, "verbose", false, "show each measurement as it is made")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: go -C test/bench run . ROW... [flags]\n\nrows:")
		for _, r := range rows {
			fmt.Fprintf(flags.Output(), "  %-11s %s\n", r.name, r.about)
		}
		fmt.Fprintln(flags.Output(), "  all         every row\n\nflags:")
		flags.PrintDefaults()
	}
	var names []string
	for len(args) > 0 { // names and flags may come in any order
		if err := flags.Parse(args); err != nil {
			return err
		}
		args = flags.Args()
		if len(args) > 0 {
			names, args = append(names, args[0]), args[1:]
		}
	}
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	if s.rounds < 1 {
		return errors.New("-rounds must be at least 1")
	}
	return measure(ctx, s, chosen, out)
}

// choose returns the rows of the given names.
func choose(names []string) ([]row, error) {
	if slices.Contains(names, "all") {
		return rows, nil
	}
	var chosen []row
	for _, name := range names {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no row is called %q: choose from %s, or all", name, strings.Join(rowNames(), ", "))
		}
		chosen = append(chosen, rows[i])
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("name a row: %s, or all; -help tells more", strings.Join(rowNames(), ", "))
	}
	return chosen, nil
}

func rowNames() []string {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.name
	}
	return names
}
