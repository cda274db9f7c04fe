package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"preauth/internal/mysqlserver"
	"preauth/test/chaos/forgetful"
	"preauth/test/chaos/nemesis"
)

var (
	cuts    = flag.Int("cuts", 0, "how often the tests of power cuts cut the power; default: not at all")
	servers = flag.Int("nats", 1, "NATS servers of TestPowerCuts: 1, or 3 for a cluster")
)

// newPowerCampaign returns a campaign with power cuts. It skips the test where FUSE cannot be
// mounted.
func newPowerCampaign(t *testing.T, count int) campaign {
	t.Helper()
	if count == 0 {
		t.Skip("takes a minute or more: ask for it with -cuts 20")
	}
	if err := forgetful.Try(); err != nil {
		t.Skip("NOT CHECKED:", err)
	}
	c := newCampaign(t, *seed)
	c.powerCuts, c.duration, c.maxSkew, c.engine = count, time.Duration(count)*time.Minute, 0, mysqlserver.Engine(*engine)
	return c
}

// TestPowerCuts cuts the power of NATS and of the database, whose disks forget what
// was not synced.
func TestPowerCuts(t *testing.T) {
	c := newPowerCampaign(t, *cuts)
	c.natsServers = *servers
	out := c.hold(t)
	if out.faults[nemesis.LostAtCuts] == 0 || out.Total() < 500 {
		t.Errorf("%d checks after cuts that lost %d blocks and names are too few to show anything", out.Total(), out.faults[nemesis.LostAtCuts])
	}
}

// TestPowerCutsFindLosses shows that the campaign finds what a setting or a mistake loses.
func TestPowerCutsFindLosses(t *testing.T) {
	build := brokenBuilds[0] // acknowledges early
	early, err := overlay(root(t), build.replacements)
	if err != nil {
		t.Fatal(err)
	}
	for _, unsafe := range []struct {
		name   string
		change func(*campaign)
		broken []string // at least one of these promises
	}{
		{"NATS syncs every two minutes", func(c *campaign) { c.syncInterval = "2m" }, []string{"nothing lost"}},
		{
			"the database syncs once a second", func(c *campaign) { c.databaseArguments = []string{"--innodb-flush-log-at-trx-commit=2"} },
			[]string{"announced if and only if committed", "claims last", "revisions only grow", "one code, one visitor", "resolve agrees", "a spent code stays spent"},
		},
		// Only the cuts that hit the replicas too can show it, and they have to hit the second it is about.
		{build.name, func(c *campaign) { c.overlay, c.powerCuts = early, 3*c.powerCuts }, build.broken},
	} {
		t.Run(unsafe.name, func(t *testing.T) {
			t.Parallel() // they wait most of the time
			c := newPowerCampaign(t, *cuts)
			defer os.RemoveAll(c.dir)
			c.settleTime = 20 * time.Second // far more than a sound system needs
			unsafe.change(&c)
			out, err := c.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, v := range out.Violations {
				if found = append(found, fmt.Sprintf("%s: %s", v.Promise, v.Says)); slices.Contains(unsafe.broken, v.Promise) {
					t.Logf("found: %s: %s", v.Promise, v.Says)
					return
				}
			}
			t.Errorf("seed %d: none of %q is broken, only %q", c.seed, unsafe.broken, found)
		})
	}
}
