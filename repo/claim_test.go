package repo_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"preauth"
	"preauth/internal/mysqlserver"
	"preauth/repo"
	"preauth/repo/repotest"
)

// spare is a code made ahead for wx1 at the given time, which lives for 30 minutes.
func spare(code string, made time.Time, change ...func(*repo.Spare)) repo.Spare {
	s := repo.Spare{
		AppID: "wx1", Fingerprint: token(at(1)).Fingerprint,
		Code: repo.Code{PreAuthCode: preauth.NewSecret(code), IssuedAt: made, ExpiresAt: made.Add(30 * time.Minute)},
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

// fresh is a code made at the given time for a claim that waits.
func fresh(code string, made time.Time) repo.NewCode {
	s := spare(code, made)
	return repo.NewCode{Code: s.Code, Fingerprint: s.Fingerprint}
}

// request is one of wx1's.
func request(claimID string, now time.Time, change ...func(*repo.ClaimRequest)) repo.ClaimRequest {
	r := repo.ClaimRequest{AppID: "wx1", ClaimID: claimID, Reference: "order 1", At: now}
	for _, c := range change {
		c(&r)
	}
	return r
}

// stock adds spares that were made at the same time.
func (d *database) stock(t testing.TB, made time.Time, codes ...string) {
	t.Helper()
	if err := d.AddSpares(within(t), sparesFrom(made, codes...)); err != nil {
		t.Fatal(err)
	}
}

// numbered returns names that differ in their number.
func numbered(name string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint(name, i)
	}
	return names
}

// claim makes a claim that must succeed.
func (d *database) claim(t testing.TB, r repo.ClaimRequest) repo.Claim {
	t.Helper()
	c, err := d.Claim(within(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// left returns how many spares of wx1 live at the given time.
func (d *database) left(t testing.TB, aliveAt time.Time) int {
	t.Helper()
	left, err := d.CountSpares(within(t), []string{"wx1"}, aliveAt)
	if err != nil {
		t.Fatal(err)
	}
	return left["wx1"]
}

// resolved returns the claim that a code was given to.
func (d *database) resolved(t testing.TB, code preauth.Secret) repo.Claim {
	t.Helper()
	c, err := d.Resolve(within(t), code)
	if err != nil {
		t.Fatal(err)
	}
	return claimOf(c, code)
}

// claimOf returns a claim from what its code is resolved to.
func claimOf(r preauth.Resolved, code preauth.Secret) repo.Claim {
	return repo.Claim{
		AppID: r.AppID, ClaimID: r.ClaimID, Reference: r.Reference, ClaimedAt: r.ClaimedAt,
		Code: repo.Code{PreAuthCode: code, IssuedAt: r.IssuedAt, ExpiresAt: r.ExpiresAt},
	}
}

// same reports whether two claims are one.
func same(a, b repo.Claim) bool {
	return a.PreAuthCode.Equal(b.PreAuthCode) && a.AppID == b.AppID && a.ClaimID == b.ClaimID && a.Reference == b.Reference &&
		a.IssuedAt.Equal(b.IssuedAt) && a.ExpiresAt.Equal(b.ExpiresAt) && a.ClaimedAt.Equal(b.ClaimedAt)
}

func TestAClaimIsASpareGivenToAClaimID(t *testing.T) {
	// Given a spare with a life of 30 minutes,
	d := newDatabase(t)
	d.stock(t, start, "s")
	// when a claim is made 7 minutes later,
	claimedAt := start.Add(7 * time.Minute)
	got := d.claim(t, request("visitor", claimedAt))
	// then it gets the spare, and says what it is.
	wanted := repo.Claim{AppID: "wx1", ClaimID: "visitor", Reference: "order 1", Code: spare("s", start).Code, ClaimedAt: claimedAt}
	if !same(got, wanted) || got.ClaimedAt.Location() != time.UTC {
		t.Errorf("got %+v, wanted %+v", got, wanted)
	}
	if left := d.left(t, claimedAt); left != 0 {
		t.Errorf("%d spares are left", left)
	}
	if c := d.resolved(t, got.PreAuthCode); !same(c, wanted) {
		t.Errorf("resolved: %+v, wanted %+v", c, wanted)
	}
	// A code that is made for a claim is returned as it is kept, too: to the microsecond, in UTC.
	odd := claimedAt.Add(999 * time.Nanosecond).In(time.FixedZone("UTC+8", 8*60*60))
	got, err := d.InsertClaim(within(t), request("another", odd), fresh("n", odd))
	if c := d.resolved(t, preauth.NewSecret("n")); err != nil || !same(c, got) || got.ClaimedAt.Location() != time.UTC {
		t.Errorf("got %+v, %v, resolved: %+v", got, err, c)
	}
}

// step is a claim and what becomes of it: a code by its name, or an error.
type step struct {
	request repo.ClaimRequest
	// fresh is the code made for it, "" where it has to find a spare.
	fresh string
	want  string
	err   error
}

func TestClaim(t *testing.T) {
	minute := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	minTTL := func(d time.Duration) func(*repo.ClaimRequest) { return func(r *repo.ClaimRequest) { r.MinTTL = d } }
	reference := func(text string) func(*repo.ClaimRequest) { return func(r *repo.ClaimRequest) { r.Reference = text } }
	of := func(appid string) func(*repo.ClaimRequest) { return func(r *repo.ClaimRequest) { r.AppID = appid } }
	tests := map[string]struct {
		spares []repo.Spare
		steps  []step
		// left are the spares in the end, expired or not.
		left []string
	}{
		"there is no spare": {
			steps: []step{{request: request("a", start), err: repo.ErrNoSpare}},
		},
		"the same claim id gets the same code": {
			spares: []repo.Spare{spare("s", start), spare("later", minute(1))},
			steps: []step{
				{request: request("a", start, minTTL(29*time.Minute)), want: "s|later"},
				{request: request("a", minute(29)), want: "the same"},
			},
			left: []string{"s|later"},
		},
		"another claim id gets another code": {
			spares: []repo.Spare{spare("s", start), spare("later", minute(1))},
			steps: []step{
				{request: request("a", start), want: "s|later"},
				{request: request("b", start), want: "s|later"},
				{request: request("c", start), err: repo.ErrNoSpare},
				{request: request("b", start), want: "the same"},
			},
		},
		"a spare needs more life than asked for": {
			spares: []repo.Spare{spare("s", start)},
			steps: []step{
				{request: request("a", minute(1), minTTL(29*time.Minute)), err: repo.ErrNoSpare},
				{request: request("a", minute(30)), err: repo.ErrNoSpare},
				{request: request("a", minute(1), minTTL(29*time.Minute-time.Microsecond)), want: "s"},
			},
		},
		"any spare is given that lives long enough": {
			spares: []repo.Spare{
				spare("dead", minute(-30)), spare("old", minute(-20)), spare("young", start), spare("youngest", minute(2)),
			},
			steps: []step{
				{request: request("a", start, minTTL(31*time.Minute)), want: "youngest"},
				{request: request("b", start), want: "old|young"},
				{request: request("c", start), want: "old|young"},
				{request: request("d", start), err: repo.ErrNoSpare},
			},
			left: []string{"dead"},
		},
		"a claim id whose code has expired gets a new one": {
			spares: []repo.Spare{spare("s", start), spare("later", minute(20))},
			steps: []step{
				{request: request("a", start), want: "s|later"},
				{request: request("a", minute(50)), err: repo.ErrNoSpare},
				{request: request("a", minute(50)), fresh: "n", want: "n"},
				{request: request("a", minute(51)), want: "the same"},
			},
			left: []string{"s|later"},
		},
		"a claim id whose code has less life left than asked for gets a new one": {
			spares: []repo.Spare{spare("s", start), spare("t", start)},
			steps: []step{
				{request: request("a", start), want: "s|t"},
				{request: request("a", minute(20), minTTL(10*time.Minute)), err: repo.ErrNoSpare},
				// It keeps the old code as long as there is no new one.
				{request: request("a", minute(20), minTTL(10*time.Minute-time.Microsecond)), want: "the same"},
				{request: request("a", minute(20), minTTL(20*time.Minute)), fresh: "n", want: "n"},
				{request: request("a", minute(20)), want: "the same"},
			},
			left: []string{"s|t"},
		},
		"a spare takes the place of a code that has expired": {
			spares: []repo.Spare{spare("later", minute(40))},
			steps: []step{
				{request: request("a", start), fresh: "n", want: "n"},
				{request: request("a", minute(30)), want: "later"},
				{request: request("a", minute(31)), want: "the same"},
			},
		},
		"another reference is refused for as long as the claim is known": {
			spares: []repo.Spare{spare("s", start), spare("t", start)},
			steps: []step{
				{request: request("a", start), want: "s|t"},
				{request: request("a", start, reference("order 2")), err: repo.ErrReference},
				{request: request("a", start, reference("order 1 ")), err: repo.ErrReference},
				{request: request("a", start, reference("")), err: repo.ErrReference},
				{request: request("a", start, reference("order 2"), minTTL(time.Hour)), err: repo.ErrReference},
				{request: request("a", minute(31), reference("order 2")), err: repo.ErrReference},
				{request: request("a", start), want: "the same"},
			},
			left: []string{"s|t"},
		},
		"claim ids are compared byte for byte": {
			spares: sparesOf(numbered("s", 9)...),
			steps: []step{
				{request: request("visitor", start), want: "any"},
				{request: request("Visitor", start), want: "any"},
				{request: request("visitor ", start), want: "any"},
				{request: request("visitor  ", start), want: "any"},
				{request: request("visitor\x00", start), want: "any"},
				{request: request("besuché", start), want: "any"},
				{request: request("besuche\u0301", start), want: "any"},
				{request: request("besuche", start), want: "any"},
				{request: request("\xff", start), want: "any"},
				{request: request("visitor ", start), want: "the same"},
			},
		},
		"there is room for the longest claim id and reference": {
			spares: []repo.Spare{spare("s", start)},
			steps: []step{
				{request: request(strings.Repeat("訪", preauth.MaxClaimID), start, reference(strings.Repeat("𠮷", preauth.MaxReference))), want: "s"},
				{request: request(strings.Repeat("訪", preauth.MaxClaimID), start, reference(strings.Repeat("𠮷", preauth.MaxReference))), want: "the same"},
				{request: request(strings.Repeat("訪", preauth.MaxClaimID), start, reference(strings.Repeat("𠮷", preauth.MaxReference-1))), err: repo.ErrReference},
				{request: request(strings.Repeat("𠮷", preauth.MaxClaimID), start), fresh: "n", want: "n"},
			},
		},
		"components share neither spares nor claim ids": {
			spares: []repo.Spare{spare("s", start), spare("other's", start, func(s *repo.Spare) { s.AppID = "WX1" })},
			steps: []step{
				{request: request("a", start, of("wx2")), err: repo.ErrNoSpare},
				{request: request("a", start, of("WX1"), reference("order 2")), want: "other's"},
				{request: request("a", start), want: "s"},
			},
		},
		"a code made for a claim that has got none meanwhile": {
			steps: []step{
				{request: request("a", start), fresh: "n", want: "n"},
				{request: request("a", minute(1)), want: "the same"},
				{request: request("a", minute(1)), fresh: "n", want: "the same"}, // the answer got lost
				{request: request("b", start), err: repo.ErrNoSpare},
			},
		},
		"a code made for a claim that has got one meanwhile is kept as a spare": {
			spares: []repo.Spare{spare("s", start)},
			steps: []step{
				{request: request("a", start), want: "s"},
				{request: request("a", start), fresh: "n", want: "s"},
				{request: request("a", start), fresh: "n", want: "s"}, // the answer got lost
				{request: request("a", start, reference("order 2")), fresh: "m", err: repo.ErrReference},
				{request: request("b", start), want: "m|n"},
				{request: request("a", start), fresh: "n", want: "s"},
			},
			left: []string{"m|n"},
		},
		"a code made for a claim whose code lives shorter than asked for": {
			steps: []step{
				{request: request("a", start), fresh: "n", want: "n"},
				{request: request("a", minute(20), minTTL(15*time.Minute)), fresh: "m", want: "m"},
				{request: request("a", minute(20)), want: "the same"},
				// It lives shorter than asked for itself, but nothing better is to be had.
				{request: request("b", start, minTTL(time.Hour)), fresh: "o", want: "o"},
				{request: request("b", start, minTTL(time.Hour)), fresh: "o", want: "o"},
			},
		},
		"the answer was lost, and the code was kept as a spare and is free": {
			spares: []repo.Spare{spare("s", start)},
			steps: []step{
				{request: request("a", start), want: "s"},
				{request: request("a", start), fresh: "n", want: "s"},
				{request: request("b", start), fresh: "n", want: "n"},
				{request: request("c", start), fresh: "n", err: repo.ErrKnownCode},
			},
		},
		"the answer was lost, and the code of the claim id lives shorter than asked for": {
			spares: []repo.Spare{spare("n", minute(10))},
			steps: []step{
				{request: request("a", start), fresh: "s", want: "s"},
				{request: request("a", minute(20), minTTL(15*time.Minute)), fresh: "n", want: "n"},
			},
		},
		"the answer was lost, the code was kept as a spare, and another claim has it": {
			spares: []repo.Spare{spare("n", start), spare("s", minute(1))},
			steps: []step{
				{request: request("a", start), want: "n"},
				{request: request("b", start), fresh: "n", want: "s"},
			},
		},
		"the answer was lost, and another request has replaced the code since": {
			steps: []step{
				{request: request("a", start), fresh: "n", want: "n"},
				{request: request("a", start, minTTL(time.Hour)), fresh: "m", want: "m"},
				{request: request("a", start), fresh: "n", want: "m"},
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			if err := d.AddSpares(within(t), test.spares); err != nil {
				t.Fatal(err)
			}
			before := map[string]string{} // the codes by component and claim id
			for i, s := range test.steps {
				var c repo.Claim
				var err error
				if s.fresh == "" {
					c, err = d.Claim(within(t), s.request)
				} else {
					c, err = d.InsertClaim(within(t), s.request, fresh(s.fresh, s.request.At))
				}
				if !errors.Is(err, s.err) || err == nil && s.err != nil {
					t.Fatalf("step %d: err = %v, wanted %v", i, err, s.err)
				}
				if err != nil {
					if !same(c, repo.Claim{}) {
						t.Errorf("step %d: %+v besides an error", i, c)
					}
					continue
				}
				code, id := c.PreAuthCode.Reveal(), s.request.AppID+"/"+s.request.ClaimID
				repeated := code == before[id]
				if !oneOf(code, s.want) && !oneOf("any", s.want) && !(repeated && oneOf("the same", s.want)) {
					t.Errorf("step %d: got %q, wanted %q", i, code, s.want)
				}
				if !same(c, d.resolved(t, c.PreAuthCode)) || c.ClaimID != s.request.ClaimID || c.Reference != s.request.Reference || c.AppID != s.request.AppID {
					t.Errorf("step %d: got %+v", i, c)
				}
				if !repeated && s.fresh == "" && !c.ClaimedAt.Equal(s.request.At) {
					t.Errorf("step %d: claimed at %v", i, c.ClaimedAt)
				}
				if old := before[id]; old != "" && d.resolved(t, preauth.NewSecret(old)).ClaimID != s.request.ClaimID {
					t.Errorf("step %d: the former code of the claim id is not resolved", i)
				}
				before[id] = code
			}
			var left []string
			if err := d.raw.SelectContext(t.Context(), &left, "SELECT code FROM pre_auth_code WHERE cause = 'spare' ORDER BY expires_at, code"); err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(left, test.left, oneOf) {
				t.Errorf("left: %q, wanted %q", left, test.left)
			}
			d.consistent(t)
		})
	}
}

// oneOf reports whether a name is among those in a list such as "s|t".
func oneOf(name, list string) bool { return slices.Contains(strings.Split(list, "|"), name) }

func sparesOf(codes ...string) []repo.Spare { return sparesFrom(start, codes...) }

// sparesFrom are spares that were made at the same time.
func sparesFrom(made time.Time, codes ...string) []repo.Spare {
	spares := make([]repo.Spare, len(codes))
	for i, code := range codes {
		spares[i] = spare(code, made)
	}
	return spares
}

func TestClaimNeedsFewRoundTrips(t *testing.T) {
	d := newDatabase(t)
	d.stock(t, start, "s")
	d.faults.Operations()
	for _, test := range []struct {
		name    string
		claimID string
		fresh   string
		want    []string
	}{
		{"a spare is there", "a", "", []string{"claim", "live_claim"}},
		{"it is claimed again", "a", "", []string{"claim", "live_claim"}},
		{"a code was made for it", "b", "n", []string{"claim_new"}},
	} {
		var err error
		if test.fresh == "" {
			_, err = d.Claim(within(t), request(test.claimID, start))
		} else {
			_, err = d.InsertClaim(within(t), request(test.claimID, start), fresh(test.fresh, start))
		}
		if got := d.faults.Operations(); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, %v, wanted %q", test.name, got, err, test.want)
		}
	}
}

func TestImpossibleClaims(t *testing.T) {
	d := newDatabase(t)
	const secret = "preauthcode@@@secret"
	last := time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		change func(*repo.ClaimRequest)
		says   string
	}{
		"no AppID":             {func(r *repo.ClaimRequest) { r.AppID = "" }, "AppID"},
		"an impossible AppID":  {func(r *repo.ClaimRequest) { r.AppID = "wx 1" }, "AppID"},
		"no ClaimID":           {func(r *repo.ClaimRequest) { r.ClaimID = "" }, "ClaimID must have 1 to 512 bytes"},
		"a ClaimID too long":   {func(r *repo.ClaimRequest) { r.ClaimID = strings.Repeat("x", 513) }, "ClaimID must have 1 to 512 bytes"},
		"a Reference too long": {func(r *repo.ClaimRequest) { r.Reference = strings.Repeat("x", 1025) }, "Reference must have at most 1024 bytes"},
		"a negative MinTTL":    {func(r *repo.ClaimRequest) { r.MinTTL = -1 }, "negative"},
		"a negative SpareTTL":  {func(r *repo.ClaimRequest) { r.SpareTTL = -1 }, "negative"},
		"no time":              {func(r *repo.ClaimRequest) { r.At = time.Time{} }, "At "},
		"too early a time": {func(r *repo.ClaimRequest) {
			r.At, r.MinTTL = time.Date(1000, 1, 1, 0, 0, 0, -1, time.UTC), time.Hour
		}, "1000"},
		"too long a MinTTL":   {func(r *repo.ClaimRequest) { r.At, r.MinTTL = last, 2*time.Hour }, "9999"},
		"too long a SpareTTL": {func(r *repo.ClaimRequest) { r.At, r.SpareTTL = last, 2*time.Hour }, "9999"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request("a", start, test.change)
			_, err1 := d.Claim(within(t), r)
			_, err2 := d.InsertClaim(within(t), r, fresh(secret, start))
			for _, err := range []error{err1, err2} {
				if !says(err, test.says) || errors.Is(err, repo.ErrUnavailable) || errors.Is(err, repo.ErrNoSpare) || strings.Contains(err.Error(), secret) {
					t.Errorf("err = %v", err)
				}
			}
		})
	}
	for name, change := range map[string]func(*repo.Spare){
		"no AppID":             func(s *repo.Spare) { s.AppID = "" },
		"no code":              func(s *repo.Spare) { s.PreAuthCode = preauth.Secret{} },
		"a code too long":      func(s *repo.Spare) { s.PreAuthCode = preauth.NewSecret(strings.Repeat(secret, 30)) },
		"a code without times": func(s *repo.Spare) { s.ExpiresAt = time.Time{} },
	} {
		t.Run("a spare with "+name, func(t *testing.T) {
			s := spare(secret, start, change)
			err := d.AddSpares(within(t), []repo.Spare{spare("fine", start), s})
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("err = %v", err)
			}
			if s.AppID != "" {
				_, err = d.InsertClaim(within(t), request("a", start), repo.NewCode{Code: s.Code, Fingerprint: s.Fingerprint})
				if err == nil || strings.Contains(err.Error(), secret) {
					t.Errorf("err = %v", err)
				}
			}
		})
	}
	if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code"); n != 0 {
		t.Errorf("%d codes were saved", n)
	}
}

func TestACodeHasOneUse(t *testing.T) {
	// Given a current code, a former one, a spare, a claimed code, and a spare of another component,
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "former"))
	d.save(t, succeeded("wx1", at(2), "current"))
	d.stock(t, start, "spare")
	if err := d.AddSpares(within(t), []repo.Spare{spare("another's", start, func(s *repo.Spare) { s.AppID = "wx2" })}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.InsertClaim(within(t), request("a", start), fresh("claimed", start)); err != nil {
		t.Fatal(err)
	}
	before := d.dump(t)
	// when any of them is added as a spare, then nothing changes;
	if err := d.AddSpares(within(t), sparesOf("former", "current", "spare", "claimed")); err != nil {
		t.Error(err)
	}
	// when one that was current is said to be made for a claim, or saved as current though it is not,
	// then that is refused without a word of the code;
	for _, code := range []string{"former", "current"} {
		_, err := d.InsertClaim(within(t), request("b", start), fresh(code, start))
		if !errors.Is(err, repo.ErrKnownCode) || errors.Is(err, repo.ErrUnavailable) || strings.Contains(err.Error(), code+"\"") {
			t.Errorf("%s: err = %v", code, err)
		}
	}
	_, err := d.InsertClaim(within(t), request("b", start, func(r *repo.ClaimRequest) { r.AppID = "wx2" }), fresh("spare", start))
	if !errors.Is(err, repo.ErrKnownCode) {
		t.Errorf("another component's: err = %v", err)
	}
	for _, code := range []string{"spare", "claimed"} {
		if r := save(t, d.Repo, succeeded("wx1", at(3), code)); r[0].Status != repo.Refused || !errors.Is(r[0].Err, repo.ErrKnownCode) {
			t.Errorf("%s made current: %+v", code, r)
		}
	}
	if after := d.dump(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	// and only those that somebody knows are resolved.
	for code, want := range map[string]error{
		"former": nil, "current": nil, "spare": repo.ErrNotClaimed, "claimed": nil,
		"Claimed": repo.ErrNotClaimed, "claimed" + " ": repo.ErrNotClaimed, "": repo.ErrNotClaimed, strings.Repeat("x", 600): repo.ErrNotClaimed,
	} {
		if _, err := d.Resolve(within(t), preauth.NewSecret(code)); !errors.Is(err, want) {
			t.Errorf("resolve %q: err = %v", code, err)
		}
	}
	d.consistent(t)
}

func TestTheDatabaseKeepsClaimsApart(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "current"))
	d.stock(t, start, "spare")
	if _, err := d.InsertClaim(within(t), request("a", start), fresh("claimed", start)); err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"a claim id with two codes": "UPDATE pre_auth_code SET cause = 'claim', claim_id = 'a' WHERE code = 'spare'",
		"a code given twice": `INSERT INTO pre_auth_code (appid, code, cause, token_fingerprint, issued_at, expires_at, claim_id)
			SELECT appid, code, cause, token_fingerprint, issued_at, expires_at, 'b' FROM pre_auth_code WHERE code = 'claimed'`,
	}
	if !strings.Contains(server.String(), "TiDB") { // which keeps no CHECK unless it is told to
		tests["a current code given to a claim"] = "UPDATE pre_auth_code SET claim_id = 'b' WHERE code = 'current'"
		tests["a current code made a spare"] = "UPDATE pre_auth_code SET cause = 'spare' WHERE code = 'current'"
		tests["a spare announced"] = "UPDATE pre_auth_code SET revision = 7, deleted_at = '2026-07-01' WHERE code = 'spare'"
	}
	for name, statement := range tests {
		if _, err := d.raw.ExecContext(t.Context(), statement); err == nil {
			t.Errorf("%s is not refused", name)
		}
	}
}

func TestSparesAreCountedForEachComponentAtATime(t *testing.T) {
	d := newDatabase(t)
	if got, err := d.CountSpares(within(t), []string{"wx1"}, start); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	of := func(appid string) func(*repo.Spare) { return func(s *repo.Spare) { s.AppID = appid } }
	err := d.AddSpares(within(t), []repo.Spare{
		spare("a", start), spare("b", start.Add(time.Minute)), spare("c", start.Add(2*time.Minute)), spare("d", start, of("wx2")),
		spare("e", start, of("wx3")), spare("f", start.Add(2*time.Minute), of("wx4")),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.save(t, succeeded("wx1", at(1), "current"))
	d.claim(t, request("a", start.Add(time.Minute), func(r *repo.ClaimRequest) { r.MinTTL = 30 * time.Minute })) // c
	got, err := d.CountSpares(within(t), []string{"wx1", "wx2", "wx3", "wx5"}, start.Add(30*time.Minute-time.Microsecond))
	if want := map[string]int{"wx1": 2, "wx2": 1, "wx3": 1}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, wanted %v", got, err, want)
	}
	got, err = d.CountSpares(within(t), append(numbered("nobody", 700), "wx1", "wx2", "wx4"), start.Add(30*time.Minute))
	if want := map[string]int{"wx1": 1, "wx4": 1}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, wanted %v", got, err, want)
	}
	// Many are added in one call.
	d.stock(t, start, numbered("many", 321)...)
	if left := d.left(t, start); left != 2+321 {
		t.Errorf("%d are left", left)
	}
}

func TestSimultaneousClaimsGetOneCodeEach(t *testing.T) {
	for _, spares := range []int{1, 10, 63, 64, 200} {
		t.Run(fmt.Sprint(spares, " spares"), func(t *testing.T) {
			// Given some spares,
			d := newDatabase(t)
			other, _ := open(t, d.dsn)
			replicas := []*repo.Repo{d.Repo, other}
			d.stock(t, start, numbered("s", spares)...)
			// when as many as 64 visitors claim at once on two replicas,
			const claimants = 64
			claims, errs := make([]repo.Claim, claimants), make([]error, claimants)
			var claiming sync.WaitGroup
			for i := range claimants {
				claiming.Go(func() {
					claims[i], errs[i] = replicas[i%2].Claim(t.Context(), request(fmt.Sprint("visitor", i), start))
				})
			}
			claiming.Wait()
			// then no code is given twice, and no spare is left over while a claim gets none.
			given := map[string]int{}
			for i, err := range errs {
				switch {
				case err == nil:
					given[claims[i].PreAuthCode.Reveal()]++
				case !errors.Is(err, repo.ErrNoSpare):
					t.Error(err)
				}
			}
			for code, n := range given {
				if n > 1 {
					t.Errorf("%s was given %d times", code, n)
				}
			}
			if want := min(spares, claimants); len(given) != want || d.left(t, start) != spares-want {
				t.Errorf("%d codes were given, %d are left", len(given), d.left(t, start))
			}
			d.consistent(t)
		})
	}
}

// Simultaneous requests of one claim id get one code, whether it is a spare, is made for them or
// replaces an expired one. Surplus codes become spares.
func TestSimultaneousRequestsOfOneClaimIDGetOneCode(t *testing.T) {
	for name, test := range map[string]struct {
		spares  int
		expired bool
	}{
		"spares are there":                          {spares: 5},
		"one spare is there":                        {spares: 1},
		"none is there":                             {},
		"spares are there for an expired claim":     {spares: 5, expired: true},
		"one spare is there for an expired claim":   {spares: 1, expired: true},
		"none is there to replace an expired claim": {expired: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			other, _ := open(t, d.dsn)
			replicas := []*repo.Repo{d.Repo, other}
			for round := range 5 {
				claimID := fmt.Sprint("visitor", round)
				now := start.Add(time.Duration(round) * time.Hour)
				if test.expired {
					if _, err := d.InsertClaim(within(t), request(claimID, now.Add(-time.Hour)), fresh("old"+claimID, now.Add(-time.Hour))); err != nil {
						t.Fatal(err)
					}
				}
				for i := range test.spares {
					d.stock(t, now, fmt.Sprint("s", round, " ", i))
				}
				const requests = 12
				claims := make([]repo.Claim, requests)
				var made atomic.Int64
				var claiming sync.WaitGroup
				for i := range requests {
					claiming.Go(func() {
						var err error
						claims[i], err = replicas[i%2].Claim(t.Context(), request(claimID, now))
						for errors.Is(err, repo.ErrNoSpare) {
							code := fresh(fmt.Sprint("n", round, " ", made.Add(1)), now)
							claims[i], err = replicas[i%2].InsertClaim(t.Context(), request(claimID, now), code)
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				claiming.Wait()
				for _, c := range claims {
					if !same(c, claims[0]) || c.ClaimID != claimID {
						t.Errorf("got %+v and %+v", c, claims[0])
					}
				}
				codes := test.spares - 1 + int(made.Load())
				if left := d.left(t, now); left != codes {
					t.Errorf("%d spares are left of %d and %d made", left, test.spares, made.Load())
				}
			}
			d.consistent(t)
		})
	}
}

// The first request of a claim id decides on its reference.
func TestSimultaneousRequestsWithOtherReferences(t *testing.T) {
	d := newDatabase(t)
	d.stock(t, start, numbered("s", 20)...)
	const requests = 12
	claims, errs := make([]repo.Claim, requests), make([]error, requests)
	var claiming sync.WaitGroup
	for i := range requests {
		claiming.Go(func() {
			r := request("visitor", start, func(r *repo.ClaimRequest) { r.Reference = fmt.Sprint("order ", i%3) })
			if i%2 == 0 {
				claims[i], errs[i] = d.Claim(t.Context(), r)
			} else {
				claims[i], errs[i] = d.InsertClaim(t.Context(), r, fresh(fmt.Sprint("n", i), start))
			}
		})
	}
	claiming.Wait()
	given := map[string]string{}
	for i, err := range errs {
		switch {
		case err == nil:
			given[claims[i].PreAuthCode.Reveal()] = claims[i].Reference
		case !errors.Is(err, repo.ErrReference):
			t.Error(err)
		}
	}
	if left := d.left(t, start); len(given) != 1 || left != 20+requests/2-1 {
		t.Errorf("given: %v, left: %d", given, left)
	}
	d.consistent(t)
}

// meanwhile has a claim of another replica run right before a claim takes a spare.
func (d *database) meanwhile(t testing.TB, claim func(other *repo.Repo) error) {
	t.Helper()
	other, _ := open(t, d.dsn)
	d.faults.Script("claim", repotest.Fault{Before: func() {
		if err := claim(other); err != nil {
			t.Error(err)
		}
	}})
	d.faults.Operations()
}

func TestASpareThatAnotherClaimTakesFirstIsNotGivenTwice(t *testing.T) {
	for name, test := range map[string]struct {
		added []string // spares that come meanwhile
		err   error
		takes []string
	}{
		"and there is no other": {nil, repo.ErrNoSpare, []string{"claim", "live_claim"}},
		"and there are others":  {[]string{"t", "u"}, nil, []string{"claim", "live_claim"}},
	} {
		t.Run(name, func(t *testing.T) {
			// Given a claim that another one is ahead of,
			d := newDatabase(t)
			d.stock(t, start, "s")
			var theirs repo.Claim
			d.meanwhile(t, func(other *repo.Repo) (err error) {
				theirs, err = other.Claim(within(t), request("theirs", start))
				return errors.Join(err, other.AddSpares(within(t), sparesOf(test.added...)))
			})
			// when it goes on, then it takes another spare, or finds none.
			c, err := d.Claim(within(t), request("mine", start))
			if !errors.Is(err, test.err) || err == nil && !slices.Contains(test.added, c.PreAuthCode.Reveal()) {
				t.Errorf("got %+v, %v", c, err)
			}
			if got := d.faults.Operations(); !slices.Equal(got, test.takes) {
				t.Errorf("%q, wanted %q", got, test.takes)
			}
			if theirs.PreAuthCode.Reveal() != "s" || !same(theirs, d.resolved(t, theirs.PreAuthCode)) {
				t.Errorf("the other claim is not what it was: %+v", theirs)
			}
			d.consistent(t)
		})
	}
}

// The unique key tells a claim that its claim id got a code after it looked.
func TestAClaimIDThatGetsACodeMeanwhile(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*repo.ClaimRequest)
		want   string
		err    error
	}{
		"is answered with that code":                 {func(*repo.ClaimRequest) {}, "n", nil},
		"has another reference":                      {func(r *repo.ClaimRequest) { r.Reference = "order 2" }, "", repo.ErrReference},
		"gets the spare, as that code lives shorter": {func(r *repo.ClaimRequest) { r.MinTTL = 5 * time.Minute }, "s", nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.stock(t, start, "s")
			d.meanwhile(t, func(other *repo.Repo) error {
				_, err := other.InsertClaim(within(t), request("visitor", start), fresh("n", start.Add(-26*time.Minute)))
				return err
			})
			c, err := d.Claim(within(t), request("visitor", start, test.change))
			if !errors.Is(err, test.err) || err == nil && c.PreAuthCode.Reveal() != test.want {
				t.Errorf("got %+v, %v", c, err)
			}
			d.consistent(t)
		})
	}
}

// Few spares expire unused if the oldest go first.
func TestTheOldestSparesAreGiven(t *testing.T) {
	d := newDatabase(t)
	d.stock(t, start.Add(time.Minute), numbered("young", 200)...)
	d.stock(t, start, numbered("old", 6)...)
	for i := range 6 {
		code := d.claim(t, request(fmt.Sprint("visitor", i), start)).PreAuthCode.Reveal()
		if !strings.HasPrefix(code, "old") {
			t.Errorf("got %s", code)
		}
	}
}

// A crowd of claims on one spare costs each that gets none one attempt and one look, not a race
// each.
func TestACrowdOfClaimsOnOneSpare(t *testing.T) {
	// Given one spare, and claims of several replicas that are all about to take it,
	d := newDatabase(t)
	d.stock(t, start, "s")
	const claimants = 24
	replicas := make([]*repo.Repo, 3)
	faults := make([]*repotest.Faults, len(replicas))
	var choosing, claiming sync.WaitGroup
	choosing.Add(claimants)
	for i := range replicas {
		replicas[i], faults[i] = open(t, d.dsn)
		faults[i].Script("claim", slices.Repeat([]repotest.Fault{{Before: func() { choosing.Done(); choosing.Wait() }}}, claimants/len(replicas))...)
	}
	// when all try to take it,
	var given, none atomic.Int64
	for i := range claimants {
		claiming.Go(func() {
			switch _, err := replicas[i%len(replicas)].Claim(within(t), request(fmt.Sprint("visitor", i), start)); {
			case err == nil:
				given.Add(1)
			case errors.Is(err, repo.ErrNoSpare):
				none.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	claiming.Wait()
	// then one gets it, and the others learn that none is left.
	if given.Load() != 1 || none.Load() != claimants-1 {
		t.Errorf("%d got the spare and %d none", given.Load(), none.Load())
	}
	looks, attempts := 0, 0
	for _, f := range faults {
		operations := f.Operations()
		looks, attempts = looks+countOf(operations, "live_claim"), attempts+countOf(operations, "claim")
	}
	if looks != claimants || attempts != claimants {
		t.Errorf("%d claims took %d looks and %d attempts", claimants, looks, attempts)
	}
	d.consistent(t)
}

// However many replicas give at once, each spare is given once, and all are given.
func TestReplicasGiveEachSpareOnce(t *testing.T) {
	d := newDatabase(t)
	second, _ := open(t, d.dsn)
	third, _ := open(t, d.dsn)
	replicas := []*repo.Repo{d.Repo, second, third}
	const spares, claimants = 1500, 36
	d.stock(t, start, numbered("s", spares)...)
	var mu sync.Mutex
	given := map[string]repo.Claim{}
	var claiming sync.WaitGroup
	for i := range claimants {
		claiming.Go(func() {
			for n := 0; ; n++ {
				c, err := replicas[i%len(replicas)].Claim(t.Context(), request(fmt.Sprint("visitor", i, " ", n), start))
				if errors.Is(err, repo.ErrNoSpare) {
					return
				}
				if err != nil && server.Engine() == mysqlserver.TiDB { // it gives up in a crowd, and a client asks again
					n--
					continue
				}
				mu.Lock()
				if _, twice := given[c.PreAuthCode.Reveal()]; err != nil || twice {
					t.Errorf("got %+v, %v, which was given before: %t", c, err, twice)
				}
				given[c.PreAuthCode.Reveal()] = c
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	claiming.Wait()
	if left := d.left(t, start); len(given) != spares || left != 0 {
		t.Errorf("%d spares are given and %d are left", len(given), left)
	}
	for _, c := range given {
		if !same(c, d.resolved(t, c.PreAuthCode)) {
			t.Errorf("%+v is not what the database has", c)
		}
	}
	d.consistent(t)
}

// Claims end even if the keys are not what they expect.
func TestClaimsThatLoseEveryRaceAreGivenUp(t *testing.T) {
	d := newDatabase(t)
	d.stock(t, start, "s")
	taken := repotest.Answered(1062, "Duplicate entry 'wx1-visitor' for key 'live_claim'")
	d.faults.Script("claim", slices.Repeat([]repotest.Fault{taken}, 100)...)
	d.faults.Script("claim_new", slices.Repeat([]repotest.Fault{taken}, 100)...)
	_, err1 := d.Claim(within(t), request("visitor", start))
	_, err2 := d.InsertClaim(within(t), request("visitor", start), fresh("n", start))
	for _, err := range []error{err1, err2} {
		if !errors.Is(err, repo.ErrUnavailable) || strings.Contains(err.Error(), "visitor") {
			t.Errorf("err = %v", err)
		}
	}
	// A repeated request succeeds once the cause is gone.
	if c, err := d.Claim(within(t), request("visitor", start)); err != nil || c.PreAuthCode.Reveal() != "s" {
		t.Errorf("got %+v, %v", c, err)
	}
}

// A claim that loses the answer to any of its statements finds its code when it is repeated, and
// uses no second one.
func TestALostAnswerCostsNoSecondCode(t *testing.T) {
	d := newDatabase(t)
	now := start.Add(time.Hour)
	tests := map[string]struct {
		operations []string
		claim      func() (repo.Claim, error)
	}{
		"of a spare": {
			[]string{"claim", "live_claim"},
			func() (repo.Claim, error) { return d.Claim(within(t), request("visitor", now)) },
		},
		"of a spare after the old code expired": {
			[]string{"claim", "live_claim", "retire_claim"},
			func() (repo.Claim, error) { return d.Claim(within(t), request("known", now)) },
		},
		"of a new code": {
			[]string{"claim_new"},
			func() (repo.Claim, error) { return d.InsertClaim(within(t), request("visitor", now), fresh("n", now)) },
		},
		"of a new code after the old one expired": {
			[]string{"claim_new", "saved_code", "retire_claim"},
			func() (repo.Claim, error) { return d.InsertClaim(within(t), request("known", now), fresh("n", now)) },
		},
	}
	for name, test := range tests {
		for _, operation := range test.operations {
			for how, fault := range map[string]repotest.Fault{"applied": repotest.Applied, "not applied": repotest.NotApplied} {
				for _, times := range []int{1, 6, 7} { // 6 are given up with ErrUnavailable
					t.Run(fmt.Sprint(name, "/", operation, " ", how, " ", times, " times"), func(t *testing.T) {
						d.clear(t)
						if _, err := d.InsertClaim(within(t), request("known", start), fresh("old", start)); err != nil {
							t.Fatal(err)
						}
						d.stock(t, now, numbered("s", 8)...)
						d.faults.Script(operation, slices.Repeat([]repotest.Fault{fault}, times)...)
						c, err := test.claim()
						for errors.Is(err, repo.ErrUnavailable) {
							c, err = test.claim()
						}
						if err != nil {
							t.Fatal(err)
						}
						d.faults.Reset()
						again, err := test.claim()
						if err != nil || !same(c, again) || !same(c, d.resolved(t, c.PreAuthCode)) {
							t.Errorf("got %+v, then %+v, %v", c, again, err)
						}
						if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE cause = 'claim' AND code <> 'old'"); n != 1 {
							t.Errorf("%d codes were used", n)
						}
					})
				}
			}
		}
	}
}

// model is what the database should hold after a sequence of operations.
type model struct {
	codes  map[string]*modelCode
	claims map[string]*modelCode // by component and claim id: the newest code
	// current are the current codes by component.
	current map[string]string
}

type modelCode struct {
	appid, use string // use is "current", "former", "spare" or "claim"
	claimID    string
	reference  string
	expiresAt  time.Time
	claimedAt  time.Time
}

// In any order of operations each code has one use, and every promise holds.
func TestRandomOperationsAgreeWithAModel(t *testing.T) {
	d := newDatabase(t)
	other, _ := open(t, d.dsn)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(names ...string) string { return names[random.IntN(len(names))] }

	m := model{codes: map[string]*modelCode{}, claims: map[string]*modelCode{}, current: map[string]string{}}
	now, made, sequence := start, 0, uint64(0)
	newCode := func() string { made++; return fmt.Sprint("code", made) }
	oldCode := func() string { return fmt.Sprint("code", random.IntN(made+1)) }
	life := func() time.Duration { return 30 * time.Minute }
	// check compares an answer with the model, and updates the model.
	check := func(r repo.ClaimRequest, c repo.Claim, err error, wasFresh string) {
		t.Helper()
		key := r.AppID + "/" + r.ClaimID
		fits := func(code *modelCode) bool { return code.expiresAt.After(r.At.Add(r.MinTTL)) }
		held := m.claims[key]
		anySpare := false
		for _, code := range m.codes {
			anySpare = anySpare || code.appid == r.AppID && code.use == "spare" && fits(code)
		}
		switch {
		case held != nil && held.reference != r.Reference:
			if !errors.Is(err, repo.ErrReference) {
				t.Fatalf("a claim with another reference: %v, %v", c, err)
			}
			return
		case held != nil && (fits(held) || wasFresh != "" && m.codes[wasFresh] == held):
			if err != nil || m.codes[c.PreAuthCode.Reveal()] != held || !c.ClaimedAt.Equal(held.claimedAt) {
				t.Fatalf("a repeated claim: %+v, %v", c, err)
			}
			return
		case wasFresh == "" && !anySpare:
			if !errors.Is(err, repo.ErrNoSpare) {
				t.Fatalf("a claim without spares: %+v, %v", c, err)
			}
			return
		case err != nil:
			t.Fatalf("%+v: %v", r, err)
		}
		code := m.codes[c.PreAuthCode.Reveal()]
		if code == nil || code.appid != r.AppID || code.use != "spare" || wasFresh == "" && !fits(code) {
			t.Fatalf("%+v got %+v, which the model has as %+v", r, c, code)
		}
		code.use, code.claimID, code.reference, code.claimedAt = "claim", r.ClaimID, r.Reference, r.At
		m.claims[key] = code
	}
	for range 600 {
		appid := pick("wx1", "wx2")
		r := repo.ClaimRequest{
			AppID: appid, ClaimID: pick("a", "A", "a ", "b", "c"), Reference: pick("x", "x", "x", "y"),
			At: now, MinTTL: time.Duration(random.IntN(3)) * 10 * time.Minute,
		}
		switch random.IntN(10) {
		case 0, 1, 2:
			c, err := []*repo.Repo{d.Repo, other}[random.IntN(2)].Claim(within(t), r)
			check(r, c, err, "")
		case 3, 4: // with a code of its own
			code := newCode()
			c, err := d.InsertClaim(within(t), r, fresh(code, now))
			m.codes[code] = &modelCode{appid: appid, use: "spare", expiresAt: now.Add(life())}
			check(r, c, err, code)
		case 5, 6:
			code := newCode()
			if random.IntN(4) == 0 {
				code = oldCode()
			}
			if err := d.AddSpares(within(t), []repo.Spare{spare(code, now, func(s *repo.Spare) { s.AppID = appid })}); err != nil {
				t.Fatal(err)
			}
			if m.codes[code] == nil {
				m.codes[code] = &modelCode{appid: appid, use: "spare", expiresAt: now.Add(life())}
			}
		case 7:
			code := newCode()
			sequence++
			o := succeeded(appid, at(sequence), code, func(o *repo.Outcome) {
				o.At, o.Code.IssuedAt, o.Code.ExpiresAt = now, now, now.Add(life())
			})
			if saved := d.save(t, o); saved[0].Status != repo.Saved {
				t.Fatalf("got %+v", saved)
			}
			if former := m.codes[m.current[appid]]; former != nil {
				former.use = "former"
			}
			m.codes[code] = &modelCode{appid: appid, use: "current", expiresAt: now.Add(life())}
			m.current[appid] = code
		case 8:
			before := now.Add(-time.Duration(random.IntN(120)) * time.Minute)
			var dead []string
			for code, known := range m.codes {
				if known.use != "current" && known.expiresAt.Before(before) {
					dead = append(dead, code)
				}
			}
			if n, err := d.Purge(within(t), before, 1000); err != nil || n != len(dead) {
				t.Fatalf("%d were purged and not %d: %v", n, len(dead), err)
			}
			for _, code := range dead {
				if known := m.codes[code]; known.use == "claim" && m.claims[known.appid+"/"+known.claimID] == known {
					delete(m.claims, known.appid+"/"+known.claimID)
				}
				delete(m.codes, code)
			}
		default:
			now = now.Add(time.Duration(random.IntN(600)) * time.Second)
		}

		// The current codes are those of the model, and so everywhere.
		current, err := d.ListCurrent(within(t), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		known, err := d.Components(within(t), []string{"wx1", "wx2"})
		if err != nil || len(current) != len(m.current) || len(known) != len(m.current) {
			t.Fatalf("current: %v, components: %v, %v", current, known, err)
		}
		for _, u := range current {
			if code := u.PreAuthCode.Reveal(); m.current[u.AppID] != code || known[u.AppID].Current.PreAuthCode.Reveal() != code {
				t.Fatalf("current of %s: %s", u.AppID, code)
			}
		}
		for _, a := range d.outbox(t) {
			if a.Update != nil && m.current[a.AppID] != a.Update.PreAuthCode.Reveal() {
				t.Fatalf("announced: %+v", a)
			}
		}
		// So are the spares, and any code is resolved that was claimed or announced, and no other.
		spares := map[string]int{}
		for _, code := range m.codes {
			if code.use == "spare" && code.expiresAt.After(now) {
				spares[code.appid]++
			}
		}
		if got, err := d.CountSpares(within(t), []string{"wx1", "wx2"}, now); err != nil || !maps.Equal(got, spares) {
			t.Fatalf("spares: %v, %v, wanted %v", got, err, spares)
		}
		code := oldCode()
		c, err := d.Resolve(within(t), preauth.NewSecret(code))
		switch want := m.codes[code]; {
		case want == nil || want.use == "spare":
			if !errors.Is(err, repo.ErrNotClaimed) {
				t.Fatalf("resolved: %+v, %v", c, err)
			}
		case err != nil || c.AppID != want.appid || (c.Revision == 0) != (want.use == "claim") || c.ClaimID != want.claimID || c.Reference != want.reference || !c.ExpiresAt.Equal(want.expiresAt):
			t.Fatalf("resolved: %+v, %v, wanted %+v", c, err, want)
		}
	}
	d.consistent(t)
}

// Claims, renewals, new spares and purges of one component run at the same time. Deadlocks have to
// stay rare.
func TestClaimsAndSavesDoNotDeadlock(t *testing.T) {
	d := newDatabase(t)
	other, otherFaults := open(t, d.dsn)
	replicas := []*repo.Repo{d.Repo, other}
	const components, rounds = 2, 60
	appid := func(i int) string { return fmt.Sprint("wx", i%components) }
	var outcomes []repo.Outcome
	for i := range components {
		outcomes = append(outcomes, succeeded(appid(i), at(1), fmt.Sprint("first", i)))
	}
	d.save(t, outcomes...)
	d.faults.Refusals()

	var working sync.WaitGroup
	var operations atomic.Int64
	each := func(workers int, do func(r *repo.Repo, worker, round int) error) {
		for worker := range workers {
			working.Go(func() {
				for round := range rounds {
					if err := do(replicas[worker%2], worker, round); err != nil {
						t.Error(err)
						return
					}
					operations.Add(1)
				}
			})
		}
	}
	now := func(round int) time.Time { return start.Add(time.Duration(round) * 10 * time.Minute) }
	each(components, func(r *repo.Repo, worker, round int) error {
		_, err := r.Save(t.Context(), []repo.Outcome{succeeded(appid(worker), at(uint64(2+round)), fmt.Sprint("current", worker, round), func(o *repo.Outcome) {
			o.At, o.Code.IssuedAt, o.Code.ExpiresAt = now(round), now(round), now(round+3)
		})})
		return err
	})
	each(2, func(r *repo.Repo, worker, round int) error {
		var spares []repo.Spare
		for i := range 2 * components {
			spares = append(spares, spare(fmt.Sprint("s", worker, round, " ", i), now(round), func(s *repo.Spare) { s.AppID = appid(i) }))
		}
		return r.AddSpares(t.Context(), spares)
	})
	each(4, func(r *repo.Repo, worker, round int) error {
		// Every claim id is used again once its code has expired.
		claim := repo.ClaimRequest{AppID: appid(worker), ClaimID: fmt.Sprint("visitor", worker, round%2), At: now(round)}
		_, err := r.Claim(t.Context(), claim)
		if errors.Is(err, repo.ErrNoSpare) {
			_, err = r.InsertClaim(t.Context(), claim, fresh(fmt.Sprint("n", worker, round), now(round)))
		}
		return err
	})
	each(2, func(r *repo.Repo, worker, round int) error {
		_, err := r.Purge(t.Context(), now(round-6), 50)
		return err
	})
	each(1, func(r *repo.Repo, worker, round int) error {
		_, _, err := r.Lease(t.Context(), appid(round), uint64(1+round), now(round), now(round).Add(time.Minute))
		return err
	})
	working.Wait()

	refused := d.faults.Refusals()
	for number, n := range otherFaults.Refusals() {
		refused[number] += n
	}
	delete(refused, 1062) // requests of one claim id meet in the unique key
	total := 0
	for _, n := range refused {
		total += n
	}
	if int64(total) > operations.Load()/50 {
		t.Errorf("of %d operations the server refused %v", operations.Load(), refused)
	}
	d.consistent(t)
}

func TestAcknowledgedClaimsSurviveAKilledServer(t *testing.T) {
	d := newDatabase(t)
	if os.Getenv(mysqlserver.EnvTestDSN) != "" {
		t.Skip("the server is not the test's to kill")
	}
	// Given claimants that use spares and new codes, and repeat a request until it is answered,
	working, stop := context.WithCancel(within(t))
	defer stop()
	type answered struct {
		claimID string
		claim   repo.Claim
	}
	const claimants = 6
	acknowledged := make([][]answered, claimants)
	counts := make([]atomic.Int64, claimants)
	var claiming sync.WaitGroup
	for i := range claimants {
		claiming.Go(func() {
			for n := 0; working.Err() == nil; n++ {
				r := request(fmt.Sprint("visitor", i, " ", n), start)
				code := fresh(fmt.Sprint("n", i, " ", n), start)
				var c repo.Claim
				err := repo.ErrUnavailable
				for errors.Is(err, repo.ErrUnavailable) && working.Err() == nil {
					if n%10 == 0 {
						if err = d.AddSpares(working, sparesOf(numbered(fmt.Sprint("s", i, " ", n, " "), 5)...)); err != nil {
							continue
						}
					}
					if c, err = d.Claim(working, r); errors.Is(err, repo.ErrNoSpare) {
						c, err = d.InsertClaim(working, r, code)
					}
				}
				if err == nil {
					acknowledged[i] = append(acknowledged[i], answered{r.ClaimID, c})
					counts[i].Add(1)
				} else if working.Err() == nil {
					t.Errorf("%s: %v", r.ClaimID, err)
					return
				}
			}
		})
	}
	all := func(n int64) func() bool {
		return func() bool {
			for i := range counts {
				if counts[i].Load() < n {
					return false
				}
			}
			return true
		}
	}
	eventually(t, all(20))
	// when the server is killed and restarted meanwhile,
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	reached := int64(0)
	for i := range counts {
		reached = max(reached, counts[i].Load())
	}
	if err := server.Restart(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, all(reached+5))
	stop()
	claiming.Wait()
	// then each claim id still has the code that it was answered with, and no other has it.
	owner := map[string]string{}
	for _, claims := range acknowledged {
		for _, a := range claims {
			code := a.claim.PreAuthCode.Reveal()
			if owner[code] != "" {
				t.Errorf("%s was given to %s and %s", code, owner[code], a.claimID)
			}
			owner[code] = a.claimID
			if a.claim.ClaimID != a.claimID || !same(a.claim, d.resolved(t, a.claim.PreAuthCode)) {
				t.Errorf("%s: answered was %+v", a.claimID, a.claim)
			}
		}
	}
	// Other claims may have been in flight at the end.
	if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE cause = 'claim'"); n < len(owner) || n > len(owner)+claimants {
		t.Errorf("%d codes are claimed, %d were answered", n, len(owner))
	}
	d.consistent(t)
}
