// Command chaos proves the promises of preauth under faults: it runs the real service, in several replicas,
// with a real NATS server, a real database and a stand-in for WeChat, uses it as clients do, kills and stops
// and cuts off all of these, waits until the system has settled, and decides from the history whether every
// promise was kept.
//
//	go -C test/chaos run . -for 30m              # from a fresh seed, which is printed
//	go -C test/chaos run . -for 5m -seed 4711    # the same choices again
//	go -C test/chaos run . -sum a.txt b.txt      # one table of what several runs have printed
//	go -C test/chaos test .                      # a short one
//
// Exit status: 0 if all promises were kept, 1 if one was broken, 2 if the harness itself failed. After a
// violation the directory with the history, the logs and the data is kept, and its name is printed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"preauth/internal/mysqlserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx))
}

func run(ctx context.Context) int {
	c := campaign{settleTime: usualSettleTime, log: func(format string, args ...any) {
		fmt.Fprintf(os.Stdout, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
	}}
	flag.DurationVar(&c.duration, "for", 5*time.Minute, "time with faults")
	flag.Uint64Var(&c.seed, "seed", newSeed(), "decides on what happens; by default a fresh one")
	flag.IntVar(&c.replicas, "replicas", 3, "replicas of the service")
	flag.IntVar(&c.components, "components", 12, "components whose tokens are announced")
	flag.IntVar(&c.natsServers, "nats", 1, "NATS servers: 1, or 3 for a cluster")
	engine := flag.String("engine", "", "database server: mariadb, mysql or tidb; by default the first that works")
	flag.DurationVar(&c.maxSkew, "skew", time.Minute, "by how much a clock is wrong at most")
	flag.StringVar(&c.dir, "dir", "", "new directory for the run's files, which is kept; by default a temporary one")
	sum := flag.Bool("sum", false, "print the sum of the tables in the files that are named, each with the output of a run")
	flag.Parse()
	if *sum {
		if err := printSum(flag.Args()); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 2
		}
		return 0
	}
	c.engine = mysqlserver.Engine(*engine)
	if c.replicas < 1 || c.components < 1 || c.duration <= 0 || c.natsServers != 1 && c.natsServers != 3 || flag.NArg() > 0 {
		flag.Usage()
		return 2
	}
	keep := c.dir != ""
	var err error
	if keep {
		err = os.Mkdir(c.dir, 0o700)
	} else {
		c.dir, err = temporaryDir()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 2
	}
	c.log("seed %d, %v, files in %s", c.seed, c.duration, c.dir)
	out, err := c.run(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %v\nfiles in %s\n", err, c.dir)
		return 2
	}
	out.report(os.Stdout)
	if len(out.Violations) > 0 {
		fmt.Fprintf(os.Stdout, "broken promises with seed %d; files in %s\n", c.seed, c.dir)
		return 1
	}
	if !keep {
		_ = os.RemoveAll(c.dir)
	}
	return 0
}

// printSum prints the sum of the tables that runs have printed into files.
func printSum(names []string) error {
	var sum table
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		t, err := readTable(file)
		if err == nil {
			sum, err = sum.add(t)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	sum.write(os.Stdout, "sum")
	return nil
}
