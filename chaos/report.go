package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"preauth/chaos/history"
)

// report writes the verdict: violations with what shows them, and the table of what was done.
func (o *outcome) report(w io.Writer) {
	const shown = 5 // violations of a promise, and events of each
	of := map[string]int{}
	for _, violation := range o.Violations {
		if of[violation.Promise]++; of[violation.Promise] > shown {
			continue
		}
		fmt.Fprintf(w, "VIOLATION (seed %d) of %q: %s\n", o.seed, violation.Promise, violation.Says)
		for _, event := range violation.Events[:min(shown, len(violation.Events))] {
			line, _ := json.Marshal(event)
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
	fmt.Fprintf(w, "\n| seed %d | |\n|---|---|\n", o.seed)
	row := func(what string, value any) { fmt.Fprintf(w, "| %s | %v |\n", what, value) }
	row("replicas, NATS servers, database", fmt.Sprintf("%d, %d, %s", o.replicas, o.natsServers, cmp.Or(string(o.engine), "the first found")))
	row("time with faults", o.duration)
	row("settled after", o.settling.Round(100*time.Millisecond))
	for _, kind := range slices.Sorted(maps.Keys(o.faults)) {
		row(kind, o.faults[kind])
	}
	for _, count := range o.counts() {
		row(count.what, count.n)
	}
	row("violations", len(o.Violations))
}

type count struct {
	what string
	n    int
}

// counts are what was done, beside the faults.
func (o *outcome) counts() []count {
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
	return []count{
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
		{"calls of WeChat", len(o.evidence.Calls)},
		{"... that issued a code", codes},
		{"... whose code was lost to a fault", o.Wasted},
		{"... allowed", o.CallBound},
		{"checks", o.Total()},
	}
}
