package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"preauth/internal/mysqlserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(1)
	}
}

// campaign is what the command line asks for.
type campaign struct {
	root      string
	survivors string
	sample    int
	last      time.Duration
	seed      uint64
	only      *regexp.Regexp
	workers   int
	least     float64
	grace     time.Duration
	out, log  io.Writer

	reasons map[string]string
}

// count is a row of the table.
type count struct{ mutants, killed, timedOut, equivalent, survived, notCovered int }

func (c count) plus(other count) count {
	return count{
		c.mutants + other.mutants, c.killed + other.killed, c.timedOut + other.timedOut,
		c.equivalent + other.equivalent, c.survived + other.survived, c.notCovered + other.notCovered,
	}
}

// score is the share of the mutants that change something and are found, in per cent.
func (c count) score() float64 {
	return 100 * float64(c.killed+c.timedOut) / float64(max(c.mutants-c.equivalent, 1))
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	c := campaign{out: out, log: log}
	flags := flag.NewFlagSet("mutation", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.StringVar(&c.root, "root", "../..", "the project's `directory`")
	flags.StringVar(&c.survivors, "survivors", "survivors.txt", "the `file` with the mutants that change nothing")
	flags.IntVar(&c.sample, "sample", 0, "try only so many mutants, of all packages together")
	flags.DurationVar(&c.last, "for", 0, "begin no more mutants of a package after this time; the order is random")
	flags.Uint64Var(&c.seed, "seed", 0, "chooses the sample; 0: another one each time")
	only := flags.String("only", "", "try only mutants with a key that matches this `expression`")
	flags.IntVar(&c.workers, "workers", 4, "how many mutants to try at the same time, each with a database of its own")
	flags.Float64Var(&c.least, "least", 90, "fail below this score, in per cent")
	flags.DurationVar(&c.grace, "grace", 10*time.Second, "what a mutant may take beyond five times the usual")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if c.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if c.root, err = filepath.Abs(c.root); err != nil {
		return err
	}
	if c.reasons, err = readSurvivors(c.survivors); err != nil {
		return err
	}
	if c.seed == 0 {
		c.seed = rand.Uint64N(1_000_000) + 1
	}
	return c.run(ctx, flags.Args())
}

func (c *campaign) run(ctx context.Context, patterns []string) error {
	var schemas []*schema
	var chosen []*mutant
	for _, pattern := range patterns {
		s, err := newSchema(ctx, c.root, pattern)
		if err != nil {
			return err
		}
		schemas = append(schemas, s)
		for _, m := range s.mutants {
			if c.only.MatchString(m.key()) {
				chosen = append(chosen, m)
			}
		}
	}
	complaints := c.unknown(schemas)
	if c.sample > 0 || c.last > 0 {
		random := rand.New(rand.NewPCG(c.seed, 0))
		random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		if c.sample > 0 {
			chosen = chosen[:min(c.sample, len(chosen))]
		}
		fmt.Fprintf(c.out, "A sample of at most %d mutants with -seed %d.\n\n", len(chosen), c.seed)
	}
	var total count
	var rows []string
	row := func(name string, n count) {
		rows = append(rows, fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d | %.1f %% |",
			name, n.mutants, n.killed, n.timedOut, n.equivalent, n.survived, n.notCovered, n.score()))
	}
	for i, s := range schemas {
		mutants := slices.DeleteFunc(slices.Clone(chosen), func(m *mutant) bool { return !slices.Contains(s.mutants, m) })
		n, wrong, err := c.test(ctx, s, mutants)
		if err != nil {
			return err
		}
		complaints = append(complaints, wrong...)
		total = total.plus(n)
		row("`"+patterns[i]+"`", n)
	}
	if len(patterns) > 1 {
		row("all", total)
	}
	fmt.Fprintf(c.out, "| package | mutants | killed | by time-out | change nothing | survived | not covered | score |\n|---|---|---|---|---|---|---|---|\n%s\n",
		strings.Join(rows, "\n"))
	if total.mutants > 0 && total.score() < c.least {
		complaints = append(complaints, fmt.Sprintf("the score is below %v %%", c.least))
	}
	if len(complaints) > 0 {
		return errors.New(strings.Join(complaints, "\n"))
	}
	return nil
}

// unknown complains about entries of the list that name no mutant of these packages' files.
func (c *campaign) unknown(schemas []*schema) []string {
	known := map[string]bool{}
	files := map[string]bool{}
	for _, s := range schemas {
		for _, m := range s.mutants {
			known[m.key()] = true
			files[filepath.Dir(m.file)] = true
		}
	}
	var complaints []string
	for key := range c.reasons {
		file, _, _ := strings.Cut(key, " ")
		if files[filepath.Dir(file)] && !known[key] {
			complaints = append(complaints, fmt.Sprintf("%s: no such mutant: %s", c.survivors, key))
		}
	}
	slices.Sort(complaints)
	return complaints
}

// test tries mutants of one package and prints those that survive.
func (c *campaign) test(ctx context.Context, s *schema, mutants []*mutant) (count, []string, error) {
	var n count
	if len(mutants) == 0 {
		return n, nil, nil
	}
	dir, err := os.MkdirTemp("", "mutation-")
	if err != nil {
		return n, nil, err
	}
	defer os.RemoveAll(dir)
	suite, err := s.compile(ctx, c.root, dir)
	if err != nil {
		return n, nil, err
	}
	suite.grace = c.grace
	databases, err := c.databases(ctx, s)
	if err != nil {
		return n, nil, err
	}
	defer func() {
		for _, database := range databases {
			if database != nil {
				_ = database.Close()
			}
		}
	}()
	fmt.Fprintf(c.log, "%s: %d mutants (%d more do not compile), %d tests\n", s.pkg.PkgPath, len(mutants), s.dropped, len(suite.tests))

	var complaints []string
	var mu sync.Mutex
	failing := map[*test]bool{}
	err = each(ctx, suite.tests, databases, func(t *test, database *mysqlserver.Server) error {
		err := suite.observe(ctx, t, database, false)
		if err != nil && ctx.Err() == nil {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(c.log, "%v\n", err)
			failing[t] = true
			return nil
		}
		return err
	})
	if err != nil {
		return n, nil, err
	}
	for t := range failing {
		complaints = append(complaints, t.name+" fails without a mutant, and was left out")
	}
	suite.tests = slices.DeleteFunc(suite.tests, func(t *test) bool { return failing[t] })

	begin := time.Now()
	fates := make(map[*mutant]fate, len(mutants))
	err = each(ctx, mutants, databases, func(m *mutant, database *mysqlserver.Server) error {
		if c.last > 0 && time.Since(begin) > c.last {
			return nil
		}
		f, err := suite.try(ctx, m, database)
		if _, listed := c.reasons[m.key()]; listed && f == killed && err == nil {
			f, err = suite.try(ctx, m, database) // a test may have failed by chance
		}
		mu.Lock()
		defer mu.Unlock()
		fates[m] = f
		if len(fates)%50 == 0 {
			fmt.Fprintf(c.log, "%s %s: %d of %d\n", time.Now().Format(time.TimeOnly), s.pkg.PkgPath, len(fates), len(mutants))
		}
		return err
	})
	if err != nil {
		return n, nil, err
	}
	n.mutants = len(fates)
	for _, m := range slices.SortedFunc(maps.Keys(fates), func(a, b *mutant) int { return cmp.Compare(a.id, b.id) }) {
		f := fates[m]
		_, listed := c.reasons[m.key()]
		before, after := s.diff(m)
		switch {
		case f == killed:
			n.killed++
			if listed {
				complaints = append(complaints, fmt.Sprintf("%s: the tests find this mutant: %s", c.survivors, m.key()))
			}
			continue
		case listed:
			n.equivalent++
			continue
		case f == timedOut:
			n.timedOut++
			continue
		case f == survived:
			n.survived++
		default:
			n.notCovered++
		}
		how := map[fate]string{survived: "survived", notCovered: "not covered"}[f]
		fmt.Fprintf(c.out, "%s:%d: %s\n%s\n\t- %s\n\t+ %s\n\n", m.file, m.line, how, m.key(), before, after)
	}
	return n, complaints, nil
}

// databases starts a database for each worker, if the package's tests need one.
func (c *campaign) databases(ctx context.Context, s *schema) ([]*mysqlserver.Server, error) {
	databases := make([]*mysqlserver.Server, c.workers)
	needed, err := usesDatabase(filepath.Dir(s.pkg.CompiledGoFiles[0]))
	if err != nil || !needed {
		return databases, err
	}
	for i := range databases {
		options := mysqlserver.TestOptions()
		options.Log = nil
		if databases[i], err = mysqlserver.Start(ctx, options); err != nil {
			return databases, err
		}
	}
	return databases, nil
}

// usesDatabase reports whether tests in a directory do what mysqlserver.TestOptions is for.
func usesDatabase(dir string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return false, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(text), "mysqlserver.TestOptions") {
			return err == nil, err
		}
	}
	return false, nil
}

// each calls do for all items, one at a time with each database, until one fails.
func each[T any](ctx context.Context, items []T, databases []*mysqlserver.Server, do func(T, *mysqlserver.Server) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var working sync.WaitGroup
	for _, database := range databases {
		working.Go(func() {
			for item := range work {
				if err := do(item, database); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, item := range items {
		select {
		case work <- item:
		case <-ctx.Done():
		}
	}
	close(work)
	working.Wait()
	return context.Cause(ctx)
}
