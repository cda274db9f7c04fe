package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"preauth/test/chaos/history"
)

// report writes the verdict: the violations with the events that show them, and the table of what
// was done.
func (o *outcome) report(w io.Writer) {
	const shown = 5 // violations of a promise, and events of each
	of := map[string]int{}
	for _, violation := range o.Violations {
		if of[violation.Promise]++; of[violation.Promise] > shown {
			continue
		}
		fmt.Fprintf(w, "VIOLATION (seed %d) of %q: %s\n", o.seed, violation.Promise, violation.Says)
		for _, event := range violation.Events[:min(shown, len(violation.Events))] {
			if line, err := json.Marshal(event); err == nil {
				fmt.Fprintf(w, "    %s\n", line)
			}
		}
	}
	t := table{{"runs", "1"}, {"seeds", strconv.FormatUint(o.seed, 10)}}
	t = append(t, row{"time with faults", o.duration.String()}, row{longest, o.settling.Round(100 * time.Millisecond).String()})
	for _, kind := range slices.Sorted(maps.Keys(o.faults)) {
		t = append(t, row{kind, strconv.Itoa(o.faults[kind])})
	}
	t = append(t, o.counts()...)
	t = append(t, row{"**violations**", strconv.Itoa(len(o.Violations))})
	t.write(w, fmt.Sprintf("%d replicas, %d NATS, %s", o.replicas, o.natsServers, cmp.Or(string(o.engine), "the first database found")))
}

// counts is what was done, without the faults.
func (o *outcome) counts() table {
	done, ok := map[history.Op]int{}, map[history.Op]int{}
	bad := 0
	for _, e := range o.evidence.Events {
		done[e.Op]++
		if e.Status == history.OK {
			ok[e.Op]++
		}
		if e.Op == history.Publish && e.Bad {
			bad++
		}
	}
	codes := 0
	for _, call := range o.evidence.Calls {
		if call.Code != "" {
			codes++
		}
	}
	var t table
	for _, count := range []struct {
		what string
		n    int
	}{
		{"faults in all", done[history.Fault]},
		{"token events published", done[history.Publish]},
		{"... acknowledged by JetStream", ok[history.Publish]},
		{"... that break the contract", bad},
		{"... found in the stream", len(o.evidence.State.Tokens)},
		{"announcements seen", done[history.Update]},
		{"failures seen", done[history.Failure]},
		{"look-ups", done[history.Lookup]},
		{"... answered with a code", ok[history.Lookup]},
		{"claims", done[history.Claim]},
		{"... answered with a code", ok[history.Claim]},
		{"resolves", done[history.Resolve]},
		{"authorizations reported", done[history.Authorize]},
		{"... announced", done[history.Authorized]},
		{"calls of WeChat", len(o.evidence.Calls)},
		{"... that issued a code", codes},
		{"... whose code was lost to a fault", o.Wasted},
		{"... allowed", o.CallBound},
		{"checks", o.Total()},
	} {
		t = append(t, row{count.what, strconv.Itoa(count.n)})
	}
	return t
}
