package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth/internal/mysqlserver"
	"preauth/test/chaos/nemesis"
	"preauth/test/chaos/system"
)

// brokenByPartitions are builds of the service whose mistake partitions of the NATS cluster show,
// with no other fault. The first one takes an update that is held up on its way while another
// replica's overtakes it.
var brokenByPartitions = []struct {
	build        string
	replacements []replacement
	kind         string // of the partitions
	broken       []string
}{
	{
		"updates are published without the expected last sequence",
		[]replacement{{"consumer/publish.go", "			jetstream.WithExpectLastSequencePerSubject(p.codes.LastStored(update.AppID).Sequence),\n", ""}},
		"slow",
		[]string{"announced if and only if committed", "revisions only grow"},
	},
	{
		"an announcement is tried once",
		[]replacement{{"consumer/publish.go", "		return err\n	}\n	if !n.eventAt.IsZero() {\n", "		return nil\n	}\n	if !n.eventAt.IsZero() {\n"}},
		nemesis.AllPartitions,
		[]string{"nothing lost", "announced if and only if committed", "a spent code stays spent"},
	},
	{
		"a stream that was lost is not followed again",
		[]replacement{{"internal/stream/keeper.go", "		pause.For(ctx, retry.NextBackOff())\n", "		if time.Since(started) > 10*time.Second {\n			<-ctx.Done()\n		}\n		pause.For(ctx, retry.NextBackOff())\n"}},
		nemesis.AllPartitions,
		[]string{"the system settles by itself"},
	},
}

// TestTextsOfBuildsBrokenByPartitions is [TestTextsOfBrokenBuilds] for the builds above.
func TestTextsOfBuildsBrokenByPartitions(t *testing.T) {
	for _, b := range brokenByPartitions {
		texts, err := overlay(root(t), b.replacements)
		if err == nil {
			err = system.Compile(t.Context(), t.TempDir(), texts)
		}
		if err != nil {
			t.Errorf("%s: %v", b.build, err)
		}
	}
}

// TestPartitionsFindBrokenBuilds runs campaigns of partitions against builds that break a promise.
func TestPartitionsFindBrokenBuilds(t *testing.T) {
	if !*broken {
		t.Skip("takes minutes: -args -broken")
	}
	for _, b := range brokenByPartitions {
		t.Run(b.build, func(t *testing.T) {
			c := newPartitions(t)
			defer os.RemoveAll(c.dir)
			c.partitions, c.duration, c.components = b.kind, max(c.duration, 5*time.Minute), 40
			c.findBroken(t, b.replacements, b.broken)
		})
	}
}

// newPartitions returns a short campaign of partitions alone.
func newPartitions(t *testing.T) campaign {
	c := newCampaign(t, *seed)
	c.natsServers, c.partitions, c.maxSkew, c.engine = 3, nemesis.AllPartitions, 0, mysqlserver.Engine(*engine)
	return c
}

// TestPromisesHoldUnderPartitions is the short campaign with partitions of the NATS cluster alone.
func TestPromisesHoldUnderPartitions(t *testing.T) {
	c := newPartitions(t)
	c.duration /= 2 // the campaign with a cluster has partitions too
	out := c.hold(t)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(out.faults)), func(kind string) bool { return strings.HasPrefix(kind, nemesis.Partition) }) {
		t.Error("no partition came")
	}
}
