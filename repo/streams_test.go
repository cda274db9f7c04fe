package repo_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"preauth/repo"
	"preauth/repo/repotest"
)

// streamsOf is a set of streams of an account.
func streamsOf(prefix, account string) repo.StreamSet {
	return repo.StreamSet{Tokens: prefix + "TOKENS", Updates: prefix + "UPDATES", Failures: prefix + "FAILURES", Account: account}
}

func TestADatabaseBelongsToOneSetOfStreams(t *testing.T) {
	type step struct {
		adopt   bool
		streams repo.StreamSet
		// before is what Adopt returns.
		before repo.StreamSet
		err    error
	}
	own := func(s repo.StreamSet, err error) step { return step{streams: s, err: err} }
	adopt := func(s, before repo.StreamSet) step { return step{adopt: true, streams: s, before: before} }
	a, b, aIn1, aIn2 := streamsOf("A_", ""), streamsOf("B_", ""), streamsOf("A_", "ONE"), streamsOf("A_", "TWO")
	other := a
	other.Failures = "elsewhere"
	otherIn1 := other
	otherIn1.Account = "ONE"
	for name, steps := range map[string][]step{
		"the first takes it":                             {own(a, nil), own(a, nil), own(b, repo.ErrOtherStreams), own(a, nil)},
		"one other stream is another set":                {own(a, nil), own(other, repo.ErrOtherStreams)},
		"the account decides where it is known":          {own(aIn1, nil), own(aIn2, repo.ErrOtherStreams), own(aIn1, nil), own(a, nil)},
		"an account that gets known is recorded":         {own(a, nil), own(aIn1, nil), own(aIn2, repo.ErrOtherStreams), own(a, nil)},
		"a foreign account is not recorded":              {own(a, nil), own(otherIn1, repo.ErrOtherStreams), own(aIn2, nil)},
		"an account that is not known says nothing":      {own(aIn1, nil), own(a, nil), own(aIn2, repo.ErrOtherStreams)},
		"it is moved on purpose":                         {own(a, nil), adopt(b, a), own(a, repo.ErrOtherStreams), own(b, nil)},
		"it is moved within an account, and back":        {own(aIn1, nil), adopt(aIn2, aIn1), own(aIn1, repo.ErrOtherStreams), adopt(aIn1, aIn2), own(aIn1, nil)},
		"it is given to a set before the service starts": {adopt(b, repo.StreamSet{}), own(a, repo.ErrOtherStreams), own(b, nil)},
		"case matters":                                   {own(a, nil), own(streamsOf("a_", ""), repo.ErrOtherStreams)},
		"long names with quotes": {
			own(repo.StreamSet{Tokens: strings.Repeat("令", 255), Updates: `'";--`, Failures: "F", Account: strings.Repeat("訪", 255)}, nil),
			own(repo.StreamSet{Tokens: strings.Repeat("令", 255), Updates: `'";--`, Failures: "F", Account: strings.Repeat("訪", 255)}, nil),
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			for i, s := range steps {
				var err error
				var before repo.StreamSet
				if s.adopt {
					before, err = d.Adopt(within(t), s.streams, start)
				} else {
					err = d.Own(within(t), s.streams, start)
				}
				if !errors.Is(err, s.err) || err != nil && s.err == nil || before != s.before || errors.Is(err, repo.ErrUnavailable) {
					t.Fatalf("step %d: before it was %+v, err = %v", i, before, err)
				}
				if err != nil && !says(err, s.streams.Tokens, steps[0].streams.Tokens[1:], "preauth schema adopt", "database of its own") {
					t.Errorf("step %d: the error says %q", i, err)
				}
			}
		})
	}
	t.Run("the error names the accounts that are known", func(t *testing.T) {
		d := newDatabase(t)
		if err := d.Own(within(t), aIn1, start); err != nil {
			t.Fatal(err)
		}
		if err := d.Own(within(t), aIn2, start); !says(err, "A_FAILURES of the NATS account ONE", "A_FAILURES of the NATS account TWO") {
			t.Error(err)
		}
		if err := d.Own(within(t), b, start); !says(err, "B_FAILURES:", "A_FAILURES of the NATS account ONE") {
			t.Error(err)
		}
	})
	t.Run("its owner only reads", func(t *testing.T) {
		d := newDatabase(t)
		for _, test := range []struct {
			owner repo.StreamSet
			as    []repo.StreamSet
		}{{a, []repo.StreamSet{a}}, {aIn1, []repo.StreamSet{aIn1, a}}} {
			if err := d.Own(within(t), test.owner, start); err != nil {
				t.Fatal(err)
			}
			for _, streams := range test.as {
				d.faults.Operations()
				if err := d.Own(within(t), streams, start); err != nil {
					t.Error(err)
				}
				if got := fmt.Sprint(d.faults.Operations()); got != "[owner]" {
					t.Errorf("%s: it takes %s", streams, got)
				}
			}
		}
	})
	t.Run("the first account that gets known counts", func(t *testing.T) {
		d := newDatabase(t)
		other, _ := open(t, d.dsn)
		if err := d.Own(within(t), a, start); err != nil {
			t.Fatal(err)
		}
		d.faults.Script("own_account", repotest.Fault{Before: func() {
			if err := other.Own(within(t), aIn2, start); err != nil {
				t.Error(err)
			}
		}})
		if err := d.Own(within(t), aIn1, start); !errors.Is(err, repo.ErrOtherStreams) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("impossible names", func(t *testing.T) {
		d := newDatabase(t)
		for _, s := range []repo.StreamSet{{}, {Tokens: "T", Updates: "U"}, streamsOf(strings.Repeat("x", 255), ""), streamsOf("A", strings.Repeat("x", 256)), streamsOf("\xff", "")} {
			_, err := d.Adopt(within(t), s, start)
			for _, err := range []error{d.Own(within(t), s, start), err} {
				if !says(err, "characters of UTF-8") {
					t.Errorf("%+v: %v", s, err)
				}
			}
		}
	})
}

// Replicas that start at once agree on one set, whether they are of one service or not.
func TestReplicasTakeADatabaseAtOnce(t *testing.T) {
	d := newDatabase(t)
	replicas := make([]*repo.Repo, 4)
	for i := range replicas {
		replicas[i], _ = open(t, d.dsn)
	}
	for round := range 10 {
		d.exec(t, "DELETE FROM stream_set")
		var mu sync.Mutex
		var starting sync.WaitGroup
		owners := map[string]int{}
		for i := range 12 {
			starting.Go(func() {
				streams := streamsOf(fmt.Sprint(i%2), "")
				err := replicas[i%len(replicas)].Own(t.Context(), streams, start.Add(time.Duration(i)*time.Second))
				if err != nil && !errors.Is(err, repo.ErrOtherStreams) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					owners[streams.Tokens]++
					mu.Unlock()
				}
			})
		}
		starting.Wait()
		if len(owners) != 1 || owners["0TOKENS"]+owners["1TOKENS"] != 6 {
			t.Errorf("round %d: %v have it", round, owners)
		}
	}
}

func TestTakingADatabaseSurvivesFaults(t *testing.T) {
	for _, operation := range []string{"owner", "own", "own_account"} {
		for how, fault := range map[string]repotest.Fault{"not applied": repotest.NotApplied, "applied": repotest.Applied, "deadlock": deadlock} {
			t.Run(operation+" "+how, func(t *testing.T) {
				d := newDatabase(t)
				d.faults.Script(operation, fault)
				if err := errors.Join(d.Own(within(t), streamsOf("A", ""), start), d.Own(within(t), streamsOf("A", "ONE"), start)); err != nil || d.faults.Unmet() > 0 {
					t.Errorf("%v, %d faults were not met", err, d.faults.Unmet())
				}
				if err := d.Own(within(t), streamsOf("B", ""), start); !errors.Is(err, repo.ErrOtherStreams) {
					t.Error(err)
				}
				d.faults.Script(operation, fault)
				if _, err := d.Adopt(within(t), streamsOf("B", ""), start); err != nil {
					t.Error(err)
				}
				if err := d.Own(within(t), streamsOf("B", "TWO"), start); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// An older release knows nothing of the table: the schema has to be applied, which the error says.
func TestADatabaseOfAnOlderRelease(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"))
	d.exec(t, "DROP TABLE stream_set")
	for what, call := range map[string]func(context.Context) error{
		"Check": d.Check, "Own": func(ctx context.Context) error { return d.Own(ctx, streamsOf("A", ""), start) },
	} {
		if err := call(within(t)); !says(err, "stream_set", "preauth schema apply") || errors.Is(err, repo.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := errors.Join(d.ApplySchema(within(t)), d.Own(within(t), streamsOf("A", ""), start), d.Check(within(t))); err != nil {
		t.Error(err)
	}
	if c := d.component(t, "wx1"); c.Revision != 1 {
		t.Errorf("got %+v", c)
	}
}
