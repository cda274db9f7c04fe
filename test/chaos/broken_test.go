package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth/test/chaos/system"
)

// replacement is a text of a source file and what stands in its place in a broken build.
type replacement struct{ file, text, by string }

// brokenBuilds are builds of the service that break a promise, each in the way of a mistake that a programmer
// could make.
var brokenBuilds = []struct {
	name         string
	replacements []replacement
	// broken are promises of which one at least has to be found broken.
	broken []string
	// duration is that of the faults.
	duration time.Duration
}{
	{
		name: "an event is acknowledged when it is taken",
		replacements: []replacement{{
			"consumer/tokens.go", "	t.step(step, StepReceived)\n", "	t.step(step, StepReceived)\n	_ = msg.Ack()\n",
		}},
		broken:   []string{"nothing lost", "the system settles by itself"},
		duration: 60 * time.Second,
	},
	{
		name: "a bad event is passed over",
		replacements: []replacement{{
			"consumer/tokens.go", "t.settle(ctx, msg, step, t.badEvent(event.AppID, position, err))", "t.acknowledge(msg, step)",
		}},
		broken: []string{"nothing lost"},
	},
	{
		name: "nothing compares events",
		replacements: []replacement{
			{"consumer/tokens.go", "case !position.After(known.Token.Position):", "case false:"},
			{"consumer/views.go", "return ok && (first.After(position) || position.After(first) && token.position.After(position))", "return ok && first.Sequence == 0"},
			{"consumer/views.go", "return made != nil && token.Position.After(made.Position) && ", "return made != nil && "},
			{"repo/plan.go", "case order < 0, order == 0 && c.isServed(o), c.isStale(o):", "case order == 0 && c.isServed(o):"},
		},
		broken: []string{"newest token wins"},
	},
	{
		name: "a code is announced before it is committed",
		replacements: []replacement{{
			"consumer/tokens.go", "	t.settle(ctx, msg, step, outcome)\n", `	if outcome.Code != nil {
		current, _ := t.codes.code(event.AppID)
		_ = t.relay.publishUpdate(ctx, preauth.Update{
			AppID: outcome.AppID, PreAuthCode: outcome.Code.PreAuthCode, IssuedAt: outcome.Code.IssuedAt,
			ExpiresAt: outcome.Code.ExpiresAt, Revision: max(known.Revision, current.Revision) + 1, Cause: outcome.Cause,
		})
	}
	t.settle(ctx, msg, step, outcome)
`,
		}},
		broken:   []string{"announced if and only if committed"},
		duration: time.Minute,
	},
	{
		name: "some announcements are forgotten",
		replacements: []replacement{
			{"consumer/relay.go", "		err = r.publishUpdate(ctx, *first.Update)\n", "		if first.Update.Revision%4 != 0 {\n			err = r.publishUpdate(ctx, *first.Update)\n		}\n"},
			{"consumer/relay.go", "		err = r.publishBatch(ctx, offers)\n", "		err = r.publishBatch(ctx, offers[1:])\n"},
		},
		broken: []string{"announced if and only if committed", "the system settles by itself"},
	},
	{
		name:         "expired codes are given out",
		replacements: []replacement{{"consumer/responder.go", "return left > 0 && left >= request.MinTTL &&", "return left > -time.Hour &&"}},
		broken:       []string{"no expired code"},
		duration:     75 * time.Second,
	},
	{
		name:         "min_ttl is passed over",
		replacements: []replacement{{"consumer/responder.go", "return left > 0 && left >= request.MinTTL &&", "return left > 0 &&"}},
		broken:       []string{"no expired code"},
		duration:     60 * time.Second,
	},
	{
		// A view that misses something is no fault: min_revision is there for that.
		name: "min_revision is passed over",
		replacements: []replacement{
			{"consumer/responder.go", " && code.Revision >= request.MinRevision\n", "\n"},
			{"consumer/views.go", "if code.Revision > known || code.Revision == known && code.Token != nil {", "if code.Revision > known+1 {"},
		},
		broken:   []string{"revisions only grow"},
		duration: 60 * time.Second,
	},
	{
		name: "a life counts from WeChat's answer",
		replacements: []replacement{{
			"consumer/minter.go", "asked.Add(code.ExpiresIn)", "now.Add(code.ExpiresIn)",
		}},
		broken: []string{"no expired code"},
	},
	{
		name: "a spare is given to a claim and not always marked",
		replacements: []replacement{
			{"repo/claim.go", `WHERE id = ? AND cause = ?"`, `WHERE id = ? AND cause = ? AND RAND() < 0.5"`},
			{"repo/claim.go", "case rows == 1:", "case err == nil:"},
		},
		broken: []string{"one code, one visitor", "claims last"},
	},
	{
		name: "a claim without a spare gets the current code",
		replacements: []replacement{{
			"consumer/responder.go", "	minted, err := r.keeper.mintAside(", `	if c := component.Current; c != nil {
		return repo.Claim{AppID: request.AppID, ClaimID: request.ClaimID, Reference: request.Reference, Code: c.Code, ClaimedAt: r.cfg.Now()}, nil
	}
	minted, err := r.keeper.mintAside(`,
		}},
		broken:   []string{"one code, one visitor"},
		duration: time.Minute,
	},
	{
		name: "a claim id gets a code each time",
		replacements: []replacement{{
			"repo/claim.go", "{ return expiresAt.After(r.At.Add(r.MinTTL)) }", "{ return false }",
		}},
		broken: []string{"claims last"},
	},
	{
		name:         "a reference is not compared",
		replacements: []replacement{{"repo/claim.go", "case string(live.Reference) != r.Reference:", "case false:"}},
		broken:       []string{"claims last"},
		duration:     40 * time.Second,
	},
	{
		name:         "what was claimed is resolved to nothing",
		replacements: []replacement{{"repo/claim.go", `WHERE code = ? AND cause = ?"`, `WHERE code = ? AND cause <> ?"`}},
		broken:       []string{"resolve agrees"},
	},
	{
		name: "a token announced again costs a call",
		replacements: []replacement{{
			"consumer/tokens.go", "case known.Current != nil && known.Current.Fingerprint == token.Fingerprint && known.Current.ExpiresAt.After(now):", "case false:",
		}, {
			"repo/plan.go", "order < 0, order == 0 && c.isServed(o)", "order < 0",
		}},
		broken:   []string{"frugal"},
		duration: time.Minute,
	},
	{
		name:         "codes are renewed too early",
		replacements: []replacement{{"consumer/minter.go", "lead := life/4 +", "lead := life*3/4 +"}},
		broken:       []string{"frugal"},
		duration:     45 * time.Second,
	},
	{
		name:         "spares are made without end",
		replacements: []replacement{{"consumer/keeper.go", "for range k.cfg.Spares - have[appid] {", "for range 100 - have[appid] {"}},
		broken:       []string{"frugal"},
	},
	{
		name: "a token is logged",
		replacements: []replacement{{
			"consumer/minter.go", "	asked = m.cfg.Now()\n", "	asked = m.cfg.Now()\n	m.log.Debug(\"asking\", \"token\", j.secret.Reveal())\n",
		}},
		broken: []string{"silent about secrets"},
	},
	{
		name: "a code is logged",
		replacements: []replacement{{
			"consumer/minter.go", "	m.metrics.called(err, time.Since(started))\n", "	m.metrics.called(err, time.Since(started))\n	m.log.Debug(\"answered\", \"code\", code.PreAuthCode.Reveal())\n",
		}},
		broken: []string{"silent about secrets"},
	},
	{
		name: "a token is stored",
		replacements: []replacement{{
			"consumer/minter.go", "	return fail(j.outcome, failed,", "		failed.ErrMsg += j.secret.Reveal()\n		return fail(j.outcome, failed,",
		}},
		broken: []string{"silent about secrets"},
	},
	{
		name:         "nothing is tried again",
		replacements: []replacement{{"consumer/service.go", "	taking.Go(func() { s.keeper.run(ctx) })\n", ""}},
		broken:       []string{"the system settles by itself", "always valid"},
	},
	{
		name: "a bad event ends the process",
		replacements: []replacement{{
			"consumer/tokens.go", "t.settle(ctx, msg, step, t.badEvent(event.AppID, position, err))", "panic(err)",
		}},
		broken: []string{"the processes do as they should"},
	},
}

// TestBrokenBuildsAreFound runs a campaign against each broken build, of which the checker has to find what is
// broken.
func TestBrokenBuildsAreFound(t *testing.T) {
	if !*broken {
		t.Skip("takes half an hour: ask for it with -broken")
	}
	for _, b := range brokenBuilds {
		t.Run(b.name, func(t *testing.T) {
			c := newCampaign(t, *seed)
			defer os.RemoveAll(c.dir)
			c.overlay = overlay(t, b.replacements)
			c.duration = max(b.duration, 25*time.Second)
			c.settleTime = 30 * time.Second // a sound build needs no more of it by far
			out, err := c.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]string{}
			for _, violation := range out.Violations {
				found[violation.Promise] = violation.Says
			}
			t.Logf("seed %d: %q", c.seed, found)
			if !slices.ContainsFunc(b.broken, func(promise string) bool { return found[promise] != "" }) {
				t.Errorf("none of %q was found broken", b.broken)
			}
		})
	}
}

// TestBrokenBuildsAreOfTheseSources makes sure that each replacement still finds its text.
func TestBrokenBuildsAreOfTheseSources(t *testing.T) {
	for _, b := range brokenBuilds {
		overlay(t, b.replacements)
	}
}

// overlay returns the source files with the replacements made.
func overlay(t *testing.T, replacements []replacement) map[string]string {
	t.Helper()
	root, err := system.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, r := range replacements {
		if texts[r.file] == "" {
			text, err := os.ReadFile(filepath.Join(root, r.file))
			if err != nil {
				t.Fatal(err)
			}
			texts[r.file] = string(text)
		}
		if !strings.Contains(texts[r.file], r.text) {
			t.Fatalf("%s has no %q any more: say anew how to break it", r.file, r.text)
		}
		texts[r.file] = strings.ReplaceAll(texts[r.file], r.text, r.by)
	}
	return texts
}
