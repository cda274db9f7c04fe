// Command chaos tests the promises of preauth under faults. It runs several replicas of the real
// service with a real NATS server, a real database and a stand-in for WeChat, and uses them as
// clients do. Meanwhile it kills, stops and cuts off each part. Then it waits until the system has
// settled, and decides from the history whether every promise was kept.
//
//	go -C test/chaos run . -for 30m              # from a fresh seed, which is printed
//	go -C test/chaos run . -for 5m -seed 4711    # with the choices of an earlier run
//	go -C test/chaos run . -cuts 500             # power cuts instead of all other faults
//	go -C test/chaos run . -sum a.txt b.txt      # one table from the output of several runs
//	go -C test/chaos run . -restarts 100000      # counts what restarts cost instead
//	go -C test/chaos test .                      # a short one
//
// The exit status is 0 if all promises were kept, 1 if one was broken, and 2 if the harness itself
// failed. After a violation it keeps the directory with the history, the logs and the data, and
// prints its name.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"preauth/internal/mysqlserver"
	"preauth/test/chaos/forgetful"
	"preauth/test/chaos/nemesis"
)

func main() {
	forgetful.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx))
}

func run(ctx context.Context) int {
	c := campaign{settleTime: usualSettleTime, log: func(format string, args ...any) {
		fmt.Fprintf(os.Stdout, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
	}}
	flag.DurationVar(&c.duration, "for", 5*time.Minute, "how long faults come")
	flag.Uint64Var(&c.seed, "seed", newSeed(), "what the choices depend on; default: a fresh one")
	flag.IntVar(&c.replicas, "replicas", 3, "number of replicas of the service")
	flag.IntVar(&c.components, "components", 12, "number of components")
	flag.IntVar(&c.natsServers, "nats", 1, "NATS servers: 1, or 3 for a cluster")
	flag.IntVar(&c.powerCuts, "cuts", 0, "how often to cut the power, instead of all other faults; needs root and /dev/fuse")
	flag.StringVar(&c.partitions, "partitions", "", "leave out all faults but failovers and partitions of the NATS cluster: all, or a kind such as slow, which need -nats 3; or none, which needs -failover")
	flag.BoolVar(&c.failover, "failover", false, "have MariaDB with a replica, and fail over to that now and then")
	engine := flag.String("engine", "", "database server: mariadb, mysql or tidb; default: the first that works")
	flag.DurationVar(&c.maxSkew, "skew", time.Minute, "largest error of a clock")
	flag.StringVar(&c.dir, "dir", "", "new directory for the run's files, which is kept; default: a temporary one")
	restarted := flag.Int("restarts", 0, "instead of a campaign, count what so many requests cost while replicas are restarted")
	sum := flag.Bool("sum", false, "print the sum of the tables in the named files, each the output of a run")
	flag.Parse()
	if *sum {
		if err := printSum(flag.Args()); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 2
		}
		return 0
	}
	c.engine = mysqlserver.Engine(*engine)
	nothing := c.partitions == nemesis.NoPartitions && !c.failover || c.partitions != "" && c.partitions != nemesis.NoPartitions && c.natsServers != 3
	if nothing || c.replicas < 1 || c.powerCuts < 0 || c.components < 1 || c.duration <= 0 || c.natsServers != 1 && c.natsServers != 3 || flag.NArg() > 0 {
		flag.Usage()
		return 2
	}
	if c.powerCuts > 0 {
		c.duration, c.maxSkew = time.Duration(c.powerCuts)*time.Minute, 0 // it ends after the last cut
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
	length := c.duration.String()
	if c.powerCuts > 0 {
		length = fmt.Sprintf("%d power cuts", c.powerCuts)
	}
	c.log("seed %d, %s, files in %s", c.seed, length, c.dir)
	if *restarted > 0 {
		return c.reportRestarts(ctx, *restarted, keep)
	}
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

// reportRestarts counts what requests cost while replicas are restarted.
func (c campaign) reportRestarts(ctx context.Context, requests int, keep bool) (status int) {
	counted, err := c.restarts(ctx, requests)
	if err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %v\nfiles in %s\n", err, c.dir)
		return 2
	}
	for _, r := range counted {
		r.table().write(os.Stdout, fmt.Sprintf("%s, %d replicas, %d NATS", r.name, c.replicas, c.natsServers))
		if problem := cmp.Or(r.problem(), r.slow()); problem != "" {
			fmt.Fprintf(os.Stdout, "%s: %s; files in %s\n", r.name, problem, c.dir)
			status = 1
		}
	}
	if status == 0 && !keep {
		_ = os.RemoveAll(c.dir)
	}
	return status
}

// printSum prints the sum of the tables in files with the output of runs.
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
