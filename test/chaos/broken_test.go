package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth/test/chaos/system"
)

// replacement is a text of a source file, which it must hold once, and the text in its place in a
// broken build.
type replacement struct{ file, text, by string }

type brokenBuild struct {
	name         string
	replacements []replacement
	// broken are promises. The checker must find at least one of them broken.
	broken []string
	// duration is how long faults come, if not the usual time.
	duration time.Duration
}

// brokenBuilds are builds of the service that break a promise, each by a mistake that a programmer
// could make.
var brokenBuilds = []brokenBuild{
	{
		// The renewer takes up a token whose event never arrived. So it has to be broken too. The second
		// makes it likely that a fault comes between.
		name: "an event is acknowledged when it is taken",
		replacements: []replacement{
			{"consumer/event.go", "w.log, w.trace)\n", "w.log, w.trace)\n	_ = msg.Ack()\n	time.Sleep(time.Second)\n"},
			{"consumer/renew.go", "if now.Sub(token.Position.Time) < lease {", "if lease > 0 {"},
		},
		broken:   []string{"nothing lost", "the system settles by itself"},
		duration: 2 * time.Minute,
	},
	{
		name: "a bad event is ignored",
		replacements: []replacement{{
			"consumer/event.go", "w.finish(ctx, d, d.failed(preauth.ClassBadEvent, err, w.now()))", "d.end(nil)",
		}},
		broken: []string{"nothing lost"},
	},
	{
		name: "events are not compared",
		replacements: []replacement{
			{"consumer/event.go", "case !token.Position.After(known.Token.Position):", "case false:"},
			{"internal/view/tokens.go", "return ok && (first.After(position) || position.After(first) && token.Position.After(position))", "return ok && first.Sequence == 0"},
			{"repo/plan.go", "case order < 0, order == 0 && c.isServed(o), c.isStale(o):", "case order == 0 && c.isServed(o):"},
		},
		broken: []string{"newest token wins"},
	},
	{
		name: "a code is announced before it is committed",
		replacements: []replacement{{
			"consumer/commit.go", "	result, err := c.do(ctx, outcome)\n", `	if outcome.Code != nil {
		_ = c.publisher.publishUpdate(ctx, preauth.Update{
			AppID: outcome.AppID, PreAuthCode: outcome.Code.PreAuthCode, IssuedAt: outcome.Code.IssuedAt,
			ExpiresAt: outcome.Code.ExpiresAt, Revision: c.codes.LastStored(outcome.AppID).Revision + 1, Cause: outcome.Cause,
		}, "")
	}
	result, err := c.do(ctx, outcome)
`,
		}},
		broken:   []string{"announced if and only if committed"},
		duration: time.Minute,
	},
	{
		name: "some announcements are forgotten",
		replacements: []replacement{
			{"consumer/publish.go", "		err = p.publishUpdate(ctx, *n.Update, traceParent)\n", "		if n.Update.Revision%4 != 0 {\n			err = p.publishUpdate(ctx, *n.Update, traceParent)\n		}\n"},
		},
		broken: []string{"announced if and only if committed", "the system settles by itself"},
	},
	{
		name:         "expired codes are given out",
		replacements: []replacement{{"consumer/lookup.go", "return !code.Spent && left > 0 && left >= request.MinTTL &&", "return left > -time.Hour &&"}},
		broken:       []string{"no expired code"},
		duration:     75 * time.Second,
	},
	{
		name:         "min_ttl is ignored",
		replacements: []replacement{{"consumer/lookup.go", "left > 0 && left >= request.MinTTL &&", "left > 0 &&"}},
		broken:       []string{"no expired code"},
		duration:     60 * time.Second,
	},
	{
		// A view may lag behind: that is what min_revision is for. So the view has to be broken too.
		name: "min_revision is ignored",
		replacements: []replacement{
			{"consumer/lookup.go", " && code.Revision >= request.MinRevision\n", "\n"},
			{"internal/view/codes.go", "known == nil || known.Revision < code.Revision {", "known == nil || known.Revision+1 < code.Revision {"},
		},
		broken:   []string{"revisions only grow"},
		duration: 60 * time.Second,
	},
	{
		name: "a life counts from WeChat's answer",
		replacements: []replacement{{
			"consumer/issue.go", "asked.Add(code.ExpiresIn)", "i.now().Add(code.ExpiresIn)",
		}},
		broken: []string{"no expired code"},
	},
	{
		name: "a claim takes a code that another claim has",
		replacements: []replacement{{
			"repo/claim.go", "AND cause = ? AND expires_at > ? ORDER BY", "AND cause IN ('claim', ?) AND expires_at > ? ORDER BY",
		}},
		broken: []string{"one code, one visitor", "claims last"},
	},
	{
		name: "a claim without a spare gets the current code",
		replacements: []replacement{{
			"consumer/claims.go", "	issued, err := c.spares.issueUnannounced(", `	if current := component.Current; current != nil {
		return repo.Claim{AppID: request.AppID, ClaimID: request.ClaimID, Reference: request.Reference, Code: current.Code, ClaimedAt: c.now()}, nil
	}
	issued, err := c.spares.issueUnannounced(`,
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
		replacements: []replacement{{"repo/claim.go", "case live.Reference.V != r.Reference:", "case false:"}},
		broken:       []string{"claims last"},
		duration:     40 * time.Second,
	},
	{
		name:         "a claimed code resolves to nothing",
		replacements: []replacement{{"repo/claim.go", "WHERE code = ? AND (cause = ?", "WHERE code = ? AND (cause <> ?"}},
		broken:       []string{"resolve agrees"},
	},
	{
		name: "an authorization is acknowledged though it is not saved",
		replacements: []replacement{
			{
				"consumer/authorization.go", `err = untilAvailable(ctx, a.health, "marking codes as spent", func(ctx context.Context) error {`,
				"err = func(call func(context.Context) error) error { return call(ctx) }(func(ctx context.Context) error {",
			},
			{"consumer/authorization.go", "	case err != nil:\n		d.giveBack(err)\n", "	case err != nil:\n		d.end(nil)\n"},
		},
		broken:   []string{"a spent code stays spent"},
		duration: time.Minute,
	},
	{
		name:         "a current code is marked as spent and stays current",
		replacements: []replacement{{"repo/spend.go", "isCurrent := row != nil && c != nil && c.codeID == row.ID", "isCurrent := false"}},
		broken:       []string{"a spent code stays spent"},
		duration:     time.Minute,
	},
	{
		name:         "a claim id keeps its spent code",
		replacements: []replacement{{"repo/claim.go", "return !live.AuthorizedAt.Valid && r.outlives(live.ExpiresAt.V)", "return r.outlives(live.ExpiresAt.V)"}},
		broken:       []string{"a spent code stays spent"},
		duration:     time.Minute,
	},
	{
		name: "a token announced again costs a call",
		replacements: []replacement{{
			"consumer/event.go", "case current.Usable(now) && current.Fingerprint == token.Fingerprint:", "case current.Usable(now) && false:",
		}, {
			"repo/plan.go", "order < 0, order == 0 && c.isServed(o)", "order < 0",
		}},
		broken:   []string{"frugal"},
		duration: time.Minute,
	},
	{
		name:         "codes are renewed too early",
		replacements: []replacement{{"consumer/issue.go", "lead := life/4 +", "lead := life*3/4 +"}},
		broken:       []string{"frugal"},
		duration:     45 * time.Second,
	},
	{
		name:         "spares are made without limit",
		replacements: []replacement{{"consumer/spares.go", "for range s.perComponent - have[appid] {", "for range 100 - have[appid] {"}},
		broken:       []string{"frugal"},
	},
	{
		name: "a token is logged",
		replacements: []replacement{{
			"consumer/issue.go", "	asked = i.now()\n", "	asked = i.now()\n	i.log.Debug(\"asking\", \"token\", o.secret.Reveal())\n",
		}},
		broken: []string{"silent about secrets"},
	},
	{
		name: "a code is logged",
		replacements: []replacement{{
			"consumer/issue.go", "	i.metrics.called(err, time.Since(started))\n", "	i.metrics.called(err, time.Since(started))\n	i.log.Debug(\"answered\", \"code\", code.PreAuthCode.Reveal())\n",
		}},
		broken: []string{"silent about secrets"},
	},
	{
		name: "a token is stored",
		replacements: []replacement{{
			"consumer/issue.go", "	return fail(o.outcome, failed,", "		failed.ErrMsg += o.secret.Reveal()\n		return fail(o.outcome, failed,",
		}},
		broken: []string{"silent about secrets"},
	},
	{
		name:         "nothing is retried",
		replacements: []replacement{{"consumer/service.go", "	taking.Go(func() { s.owner.hold(ctx, func(ctx context.Context) { s.renewer.run(ctx, workCtx) }) })\n", ""}},
		broken:       []string{"the system settles by itself", "always valid"},
	},
	{
		name: "a bad event ends the process",
		replacements: []replacement{{
			"consumer/event.go", "w.finish(ctx, d, d.failed(preauth.ClassBadEvent, err, w.now()))", "panic(err)",
		}},
		broken: []string{"the processes do as they should"},
	},
}

// TestBrokenBuildsAreFound runs a campaign against each broken build. The checker must find the
// breach.
func TestBrokenBuildsAreFound(t *testing.T) {
	if !*broken {
		t.Skip("takes half an hour: ask for it with -broken")
	}
	for _, b := range brokenBuilds {
		t.Run(b.name, func(t *testing.T) {
			c := newCampaign(t, *seed)
			defer os.RemoveAll(c.dir)
			c.duration = max(b.duration, 25*time.Second)
			c.findBroken(t, b.replacements, b.broken)
		})
	}
}

// findBroken runs a campaign against a broken build. It has to find one of the promises broken.
func (c campaign) findBroken(t *testing.T, replacements []replacement, promises []string) {
	t.Helper()
	var err error
	if c.overlay, err = overlay(root(t), replacements); err != nil {
		t.Fatal(err)
	}
	c.settleTime = 30 * time.Second // far more than a sound build needs
	out, err := c.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, violation := range out.Violations {
		found[violation.Promise] = violation.Says
	}
	t.Logf("seed %d: %q", c.seed, found)
	if !slices.ContainsFunc(promises, func(promise string) bool { return found[promise] != "" }) {
		t.Errorf("the checker found none of %q broken", promises)
	}
}

// TestTextsOfBrokenBuilds makes sure that every replacement still finds its text. It starts no
// server: run it after each change of the service.
func TestTextsOfBrokenBuilds(t *testing.T) {
	for _, b := range brokenBuilds {
		t.Run(b.name, func(t *testing.T) {
			if _, err := overlay(root(t), b.replacements); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBrokenBuildsCompile makes sure that the packages with replaced texts still compile.
func TestBrokenBuildsCompile(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles every broken build")
	}
	for _, b := range brokenBuilds {
		t.Run(b.name, func(t *testing.T) {
			texts, err := overlay(root(t), b.replacements)
			if err != nil {
				t.Fatal(err)
			}
			if err := system.Compile(t.Context(), t.TempDir(), texts); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReplacedTextsOccurOnce shows that a replacement whose text is gone or no longer unique fails.
func TestReplacedTextsOccurOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte("once, twice and twice"), 0o600); err != nil {
		t.Fatal(err)
	}
	replaced, err := overlay(dir, []replacement{{"a.go", "once", "first"}, {"a.go", "first", "1st"}})
	if err != nil || replaced["a.go"] != "1st, twice and twice" {
		t.Errorf("got %q, %v", replaced, err)
	}
	for _, text := range []string{"never", "twice"} {
		if replaced, err := overlay(dir, []replacement{{"a.go", text, ""}}); err == nil {
			t.Errorf("%s: got %q and no error", text, replaced)
		}
	}
	if _, err := overlay(dir, []replacement{{"b.go", "once", ""}}); err == nil {
		t.Error("a missing file gives no error")
	}
}

// root returns the directory of the project. Its path leads through this module, because "go test"
// reuses a result if no file below the module has changed, and must see that these have.
func root(t *testing.T) string {
	t.Helper()
	directory, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return directory + "/../.."
}

// overlay returns the source files below root with the replacements made. It fails unless each text
// occurs exactly once.
func overlay(root string, replacements []replacement) (map[string]string, error) {
	texts := map[string]string{}
	for _, r := range replacements {
		text, ok := texts[r.file]
		if !ok {
			content, err := os.ReadFile(root + "/" + r.file) // not cleaned: see root
			if err != nil {
				return nil, err
			}
			text = string(content)
		}
		if n := strings.Count(text, r.text); n != 1 {
			return nil, fmt.Errorf("%s holds %q %d times instead of once: change the replacement so that it breaks the promise in the new code", r.file, r.text, n)
		}
		texts[r.file] = strings.Replace(text, r.text, r.by, 1)
	}
	return texts, nil
}
