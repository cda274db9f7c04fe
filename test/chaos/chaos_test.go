package main

import (
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/test/chaos/forgetful"
)

var (
	forTime  = flag.Duration("for", 45*time.Second, "how long faults come in TestPromisesHoldUnderFaults, for each kind of NATS")
	seed     = flag.Uint64("seed", newSeed(), "what the choices depend on; default: a fresh one")
	engine   = flag.String("engine", "", "database server: mariadb, mysql or tidb; default: the first that works")
	before   = flag.String("before", released, "the commit that TestRollingUpgrade upgrades from")
	requests = flag.Int("requests", 1000, "how many requests TestRestarts makes at least in each manner")
	broken   = flag.Bool("broken", false, "run the campaigns against broken builds of the service: half an hour")
)

func TestMain(m *testing.M) {
	forgetful.Main()
	flag.Parse()
	status := m.Run()
	if status == 0 {
		// toxiproxy leaks the goroutines that copied data on a connection that it broke and closed.
		if err := leak.Find(
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).write"),
		); err != nil {
			os.Stderr.WriteString(err.Error())
			status = 1
		}
	}
	os.Exit(status)
}

// newCampaign returns a short campaign in a new directory, which the caller removes.
func newCampaign(t *testing.T, seed uint64) campaign {
	t.Helper()
	dir, err := temporaryDir()
	if err != nil {
		t.Fatal(err)
	}
	return campaign{
		seed: seed, duration: *forTime, replicas: 3, natsServers: 1, components: 12, maxSkew: 20 * time.Second, settleTime: usualSettleTime, dir: dir, log: t.Logf,
	}
}

// hold runs the campaign, in which every promise has to hold. It logs how to repeat that. The files
// are removed unless the test fails.
func (c campaign) hold(t *testing.T) *outcome {
	t.Helper()
	t.Logf("seed %d; repeat with -run %q -seed %d -engine %q", c.seed, t.Name(), c.seed, c.engine)
	out, err := c.run(t.Context())
	if err != nil {
		t.Fatalf("%v\nfiles in %s", err, c.dir)
	}
	out.report(t.Output())
	if len(out.Violations) > 0 {
		t.Fatalf("%d violations with seed %d; files in %s", len(out.Violations), c.seed, c.dir)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(c.dir)
		}
	})
	return out
}

// TestPromisesHoldUnderFaults is the short campaign.
func TestPromisesHoldUnderFaults(t *testing.T) {
	for name, servers := range map[string]int{"one NATS server": 1, "a cluster of three": 3} {
		t.Run(name, func(t *testing.T) {
			c := newCampaign(t, *seed)
			c.natsServers, c.engine = servers, mysqlserver.Engine(*engine)
			out := c.hold(t)
			faults := slices.DeleteFunc(slices.Collect(maps.Keys(out.faults)), func(kind string) bool { return strings.Contains(kind, "elected") })
			if len(faults) == 0 || out.Total() < 500 {
				t.Errorf("%d kinds of faults and %d checks are too few to show anything", len(faults), out.Total())
			}
		})
	}
}

// TestRollingUpgrade migrates the database under a service that is used, replaces its replicas one by
// one, puts the old ones back, and replaces them again. Nothing is lost, and no request fails.
func TestRollingUpgrade(t *testing.T) {
	commit, instead, err := commitBefore(t.Context(), *before)
	if err != nil {
		t.Skip(err) // a copy without its history
	}
	if instead != "" {
		t.Logf("UPGRADED FROM ANOTHER COMMIT: %s: %s", commit, instead)
	}
	c := newCampaign(t, *seed)
	c.replicas, c.before, c.engine = 2, commit, mysqlserver.Engine(*engine)
	out, err := c.run(t.Context())
	if err != nil {
		t.Fatalf("%v\nfiles in %s", err, c.dir)
	}
	out.report(t.Output())
	failed := out.failed()
	for _, e := range failed[:min(5, len(failed))] {
		t.Errorf("failed: %+v", e)
	}
	if len(out.Violations)+len(failed) > 0 {
		t.Fatalf("%d violations and %d failed requests with seed %d; files in %s", len(out.Violations), len(failed), c.seed, c.dir)
	}
	if out.Total() < 500 {
		t.Errorf("%d checks are too few to show anything", out.Total())
	}
	_ = os.RemoveAll(c.dir)
}

// TestRestarts restarts replicas while clients look up and claim at full speed. Restarts in good
// order fail no request, and a killed replica costs a claim at most a second.
func TestRestarts(t *testing.T) {
	c := newCampaign(t, *seed)
	c.engine = mysqlserver.Engine(*engine)
	counted, err := c.restarts(t.Context(), *requests)
	if err != nil {
		t.Fatalf("%v\nfiles in %s", err, c.dir)
	}
	for _, r := range counted {
		r.table().write(t.Output(), r.name)
		if problem := r.problem(); problem != "" {
			t.Errorf("%s: %s; files in %s", r.name, problem, c.dir)
		}
	}
	if !t.Failed() {
		_ = os.RemoveAll(c.dir)
	}
}
