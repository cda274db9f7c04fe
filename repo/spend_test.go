package repo_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"preauth"
	"preauth/repo"
	"preauth/repo/repotest"
)

const traceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// authorization says that the account wxa authorized with a code, a second before it is saved.
func authorization(appid, code string, at time.Time, change ...func(*repo.Authorization)) repo.Authorization {
	a := repo.Authorization{
		AuthorizationEvent: preauth.AuthorizationEvent{
			AppID: appid, PreAuthCode: preauth.NewSecret(code), AuthorizerAppID: "wxa", InfoType: preauth.InfoAuthorized,
			AuthorizedAt: at.Add(-time.Second), TraceParent: traceParent,
		},
		At: at,
	}
	for _, c := range change {
		c(&a)
	}
	return a
}

// spend saves an authorization that must succeed.
func (d *database) spend(t testing.TB, a repo.Authorization) repo.Spent {
	t.Helper()
	spent, err := d.Spend(within(t), a)
	if err != nil {
		t.Fatal(err)
	}
	return spent
}

// describeAll describes announcements in an order of their own, without the ids of rows.
func describeAll(announcements []repo.Announcement) string {
	texts := make([]string, len(announcements))
	for i, a := range announcements {
		if a.Authorized != nil {
			a.MessageID = "authorized"
			texts[i] = string(a.Authorized.Encode())
		}
		texts[i] += describe(a)
	}
	slices.Sort(texts)
	return strings.Join(texts, "\n")
}

func TestSpendTheCurrentCode(t *testing.T) {
	// Given a current code that was announced,
	d := newDatabase(t)
	outcome := succeeded("wx1", at(1), "a", func(o *repo.Outcome) { o.TraceParent = traceParent })
	first := d.save(t, outcome)[0].Announcement
	if waiting := d.outbox(t); describeAll(waiting) != describeAll([]repo.Announcement{*first}) || first.TraceParent != traceParent {
		t.Errorf("saved: %+v, waiting: %+v", first, waiting)
	}
	now := outcome.DueAt.Add(-time.Minute)
	// when an account authorizes with it,
	a := authorization("wx1", "a", now, func(a *repo.Authorization) { a.MinRevision = 6 })
	spent := d.spend(t, a)
	// then it is announced once more, as spent, and so is the authorization;
	if spent.Status != repo.Saved || !spent.WasCurrent || !spent.IsDue || spent.Revision != 7 {
		t.Errorf("spent: %+v", spent)
	}
	update := preauth.Update{
		AppID: "wx1", PreAuthCode: outcome.Code.PreAuthCode, IssuedAt: outcome.Code.IssuedAt, ExpiresAt: a.AuthorizedAt,
		Revision: 7, Cause: preauth.CauseToken, Spent: true,
	}
	authorized := preauth.Authorized{
		AppID: "wx1", Revision: 7, AuthorizerAppID: "wxa", InfoType: preauth.InfoAuthorized, AuthorizedAt: a.AuthorizedAt,
		IssuedAt: outcome.Code.IssuedAt, ExpiresAt: outcome.Code.ExpiresAt,
	}
	wanted := describeAll([]repo.Announcement{
		{MessageID: "wx1.7", AppID: "wx1", Update: &update, TraceParent: traceParent, CreatedAt: now},
		{AppID: "wx1", Authorized: &authorized, TraceParent: traceParent, CreatedAt: now},
	})
	if got := describeAll(spent.Announcements); got != wanted {
		t.Errorf("announced:\n%s\nwanted:\n%s", got, wanted)
	}
	waiting := slices.DeleteFunc(d.outbox(t), func(a repo.Announcement) bool { return a.MessageID == "wx1.1" })
	if got := describeAll(waiting); got != wanted {
		t.Errorf("waiting:\n%s\nwanted:\n%s", got, wanted)
	}
	// its component is due, and has no usable code;
	c := d.component(t, "wx1")
	if !c.DueAt.Equal(now) || c.Revision != 7 || !c.Current.IsSpent() || c.Current.Usable(now) || c.Current.AuthorizerAppID != "wxa" ||
		!c.Current.AuthorizedAt.Equal(a.AuthorizedAt) || !c.Current.ExpiresAt.Equal(outcome.Code.ExpiresAt) {
		t.Errorf("component: %+v, current: %+v", c, c.Current)
	}
	current, err := d.ListCurrent(within(t), "", 10)
	if err != nil || len(current) != 1 || string(current[0].Encode()) != string(update.Encode()) {
		t.Errorf("current: %+v, %v, wanted %+v", current, err, update)
	}
	if census, err := d.Census(within(t), now); err != nil || census.Expiring != 1 || census.Overdue != 1 || census.Valid != 0 || !census.CodeExpiresAt.IsZero() {
		t.Errorf("census: %+v, %v", census, err)
	}
	// the same token needs another code;
	if d.save(t, repeated("wx1", at(2), at(1))); !d.component(t, "wx1").DueAt.Equal(at(2).Time.Add(time.Second)) {
		t.Errorf("the token is taken to have a code: %+v", d.component(t, "wx1"))
	}
	// and that one replaces it.
	next := succeeded("wx1", at(3), "b", func(o *repo.Outcome) { o.Cause = preauth.CauseSpent })
	if result := d.save(t, next)[0]; result.Status != repo.Saved || result.Revision != 8 || result.Announcement.Update.Spent {
		t.Errorf("the next code: %+v", result)
	}
	if c := d.component(t, "wx1"); c.Current.IsSpent() || !c.Current.Usable(now) || c.Current.Cause != preauth.CauseSpent {
		t.Errorf("current: %+v", c.Current)
	}
}

// A component whose token was given up is not due before a newer token comes.
func TestASpentCodeWithoutATokenIsNotReplaced(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"))
	d.save(t, failed("wx1", at(1), 1, func(o *repo.Outcome) { o.Cause, o.DueAt = preauth.CauseRenewal, time.Time{} }))
	now := start.Add(time.Minute)
	for _, want := range []repo.Status{repo.Saved, repo.Superseded} {
		if spent := d.spend(t, authorization("wx1", "a", now)); spent.Status != want || spent.IsDue {
			t.Errorf("spent: %+v", spent)
		}
		d.leaseDue(t, now, 0)
	}
}

// A replica that makes a code anyway makes the one that replaces the spent code. Nobody else makes
// another, unless the replica has died.
func TestASpentCodeLeavesItsComponentToTheLease(t *testing.T) {
	outcome := succeeded("wx1", at(1), "a")
	now := outcome.DueAt
	given := func(t *testing.T) *database {
		d := newDatabase(t)
		d.save(t, outcome)
		d.leaseDue(t, now, 1)
		return d
	}
	t.Run("while it lasts", func(t *testing.T) {
		d := given(t)
		if spent := d.spend(t, authorization("wx1", "a", now.Add(30*time.Second))); !spent.IsDue {
			t.Errorf("spent: %+v", spent)
		}
		d.lease(t, now.Add(30*time.Second), false)
		d.leaseDue(t, now.Add(59*time.Second), 0)
		if extended, err := d.Extend(within(t), "wx1", now.Add(time.Minute), now.Add(2*time.Minute)); err != nil || !extended {
			t.Errorf("the lease is over: %v", err)
		}
		d.save(t, renewed("wx1", at(1), "b"))
		if c := d.component(t, "wx1"); c.Current.PreAuthCode.Reveal() != "b" || c.Current.IsSpent() {
			t.Errorf("current: %+v", c.Current)
		}
	})
	t.Run("when it is over", func(t *testing.T) {
		d := given(t)
		d.spend(t, authorization("wx1", "a", now.Add(time.Minute)))
		if c := d.component(t, "wx1"); !c.DueAt.Equal(now.Add(time.Minute)) || d.count(t, "SELECT COUNT(*) FROM component WHERE lease IS NULL") != 1 {
			t.Errorf("component: %+v", c)
		}
		if extended, err := d.Extend(within(t), "wx1", now.Add(time.Minute), now.Add(2*time.Minute)); err != nil || extended {
			t.Errorf("the lease lasts: %v", err)
		}
		d.leaseDue(t, now.Add(time.Minute), 1)
	})
}

// An authorization counts once, whenever it comes, and only for the component that has the code.
func TestSpend(t *testing.T) {
	now := start.Add(time.Minute)
	by := func(authorizer string) func(*repo.Authorization) {
		return func(a *repo.Authorization) { a.AuthorizerAppID = authorizer }
	}
	tests := map[string]struct {
		given func(d *database)
		spend repo.Authorization
		err   error
		// want are the status, whether the code is current, the revision, and the announcements.
		want string
	}{
		"a code that was replaced": {
			func(d *database) { d.save(t, succeeded("wx1", at(2), "b")) },
			authorization("wx1", "a", now), nil, "saved false 2 [authorized 1]",
		},
		"the current code again": {
			func(d *database) { d.spend(t, authorization("wx1", "a", now)) },
			authorization("wx1", "a", now.Add(time.Hour)), nil, "superseded true 2 [authorized 2, wx1.2 spent]",
		},
		"the current code again, when that was published": {
			func(d *database) {
				for _, a := range d.spend(t, authorization("wx1", "a", now)).Announcements {
					if err := d.DeleteAnnounced(within(t), []string{a.MessageID}); err != nil {
						t.Fatal(err)
					}
				}
			},
			authorization("wx1", "a", now), nil, "superseded true 2 []",
		},
		"the current code again, when it was replaced": {
			func(d *database) {
				d.spend(t, authorization("wx1", "a", now))
				d.save(t, succeeded("wx1", at(2), "b"))
			},
			authorization("wx1", "a", now), nil, "superseded false 3 [authorized 2]",
		},
		"by a second account": {
			func(d *database) { d.spend(t, authorization("wx1", "a", now)) },
			authorization("wx1", "a", now, by("wxb")), repo.ErrSecondAuthorizer, "",
		},
		"a code that nobody knows": {
			func(*database) {}, authorization("wx1", "x", now), repo.ErrUnknownCode, "",
		},
		"a code that is written differently": {
			func(*database) {}, authorization("wx1", "A", now), repo.ErrUnknownCode, "",
		},
		"a code of another component": {
			func(d *database) { d.save(t, succeeded("wx2", at(2), "b")) },
			authorization("wx1", "b", now), repo.ErrUnknownCode, "",
		},
		"of a component that nobody knows": {
			func(*database) {}, authorization("wx9", "a", now), repo.ErrUnknownCode, "",
		},
		"a claimed code": {
			func(d *database) {
				d.stock(t, start, "s")
				d.claim(t, request("visitor", now))
			},
			authorization("wx1", "s", now), nil, "saved false 1 [authorized visitor]",
		},
		"a claimed code again": {
			func(d *database) {
				d.stock(t, start, "s")
				d.claim(t, request("visitor", now))
				d.spend(t, authorization("wx1", "s", now))
			},
			authorization("wx1", "s", now), nil, "superseded false 1 [authorized visitor]",
		},
		"a spare": {
			func(d *database) { d.stock(t, start, "s") },
			authorization("wx1", "s", now), nil, "saved false 1 [authorized 0]",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.save(t, succeeded("wx1", at(1), "a"))
			test.given(d)
			before := d.dump(t)
			spent, err := d.Spend(within(t), test.spend)
			if !errors.Is(err, test.err) {
				t.Fatalf("err = %v, want %v", err, test.err)
			}
			if test.want == "" || strings.HasPrefix(test.want, "superseded") {
				if after := d.dump(t); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
			}
			var announced []string
			for _, a := range spent.Announcements {
				switch {
				case a.Update != nil && a.Update.Spent:
					announced = append(announced, a.MessageID+" spent")
				case a.Authorized != nil && a.Authorized.ClaimID != "":
					announced = append(announced, "authorized "+a.Authorized.ClaimID)
				case a.Authorized != nil:
					announced = append(announced, fmt.Sprint("authorized ", a.Authorized.Revision))
				default:
					announced = append(announced, a.MessageID)
				}
			}
			slices.Sort(announced)
			got := fmt.Sprintf("%s %t %d [%s]", spent.Status, spent.WasCurrent, spent.Revision, strings.Join(announced, ", "))
			if err == nil && got != test.want {
				t.Errorf("got %s, wanted %s", got, test.want)
			}
			if err == nil {
				if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE code = ? AND authorizer_appid = 'wxa'", test.spend.PreAuthCode.Reveal()); n != 1 {
					t.Error("the code is not spent")
				}
			}
			if !strings.HasSuffix(test.want, "[]") { // with all announcements in the outbox
				d.consistent(t)
			}
		})
	}
}

// What announces a spent code ends now, whatever the clocks say, and within the life of the code.
func TestASpentCodeEndsWithItsAuthorization(t *testing.T) {
	issued := at(1).Time.Add(time.Second)
	expires, now := issued.Add(30*time.Minute), issued.Add(time.Hour)
	for name, test := range map[string]struct{ authorized, at, want time.Time }{
		"within its life":    {issued.Add(time.Minute), now, issued.Add(time.Minute)},
		"before its life":    {issued.Add(-time.Minute), now, issued},
		"after its life":     {expires.Add(time.Minute), now, expires},
		"later than now":     {issued.Add(2 * time.Minute), issued.Add(time.Minute), issued.Add(time.Minute)},
		"in some other zone": {issued.Add(time.Minute).In(time.FixedZone("", 3600)), now, issued.Add(time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.save(t, succeeded("wx1", at(1), "a"))
			spent := d.spend(t, authorization("wx1", "a", test.at, func(a *repo.Authorization) { a.AuthorizedAt = test.authorized }))
			current, err := d.ListCurrent(within(t), "", 1)
			if err != nil || len(spent.Announcements) != 2 {
				t.Fatalf("%+v, %v", spent, err)
			}
			for what, u := range map[string]preauth.Update{"announced": *spent.Announcements[0].Update, "read": current[0]} {
				if u.ExpiresAt != test.want || u.Usable(test.at) {
					t.Errorf("%s: it ends at %v, wanted %v", what, u.ExpiresAt, test.want)
				}
			}
		})
	}
}

func TestASpentClaimIsGivenToNobody(t *testing.T) {
	d := newDatabase(t)
	d.stock(t, start, "s")
	now := start.Add(time.Minute)
	d.claim(t, request("visitor", now))
	d.spend(t, authorization("wx1", "s", now))
	// The reference is still the claim id's.
	if _, err := d.Claim(within(t), request("visitor", now, func(r *repo.ClaimRequest) { r.Reference = "order 2" })); !errors.Is(err, repo.ErrReference) {
		t.Errorf("another reference: %v", err)
	}
	// Without a spare, it takes a new code, and not the spent one again.
	if _, err := d.Claim(within(t), request("visitor", now)); !errors.Is(err, repo.ErrNoSpare) {
		t.Errorf("without a spare: %v", err)
	}
	if _, err := d.InsertClaim(within(t), request("visitor", now), fresh("s", now)); !errors.Is(err, repo.ErrKnownCode) {
		t.Errorf("the spent code again: %v", err)
	}
	second, err := d.InsertClaim(within(t), request("visitor", now), fresh("n", now))
	if err != nil || second.PreAuthCode.Reveal() != "n" {
		t.Errorf("a new code: %+v, %v", second, err)
	}
	// With a spare, it takes that.
	d.spend(t, authorization("wx1", "n", now))
	d.stock(t, now, "t")
	if third := d.claim(t, request("visitor", now)); third.PreAuthCode.Reveal() != "t" {
		t.Errorf("a spare: %+v", third)
	}
	// All its codes lead back to it.
	for code, authorizer := range map[string]string{"s": "wxa", "n": "wxa", "t": ""} {
		if r, err := d.Resolve(within(t), preauth.NewSecret(code)); err != nil || r.ClaimID != "visitor" || r.AuthorizerAppID != authorizer ||
			r.AuthorizedAt.IsZero() != (authorizer == "") {
			t.Errorf("%s is resolved to %+v, %v", code, r, err)
		}
	}
	d.consistent(t)
}

// A claim at the same time does not get the spare that somebody authorizes with.
func TestASpareThatIsBeingSpentIsNotClaimed(t *testing.T) {
	// Given a transaction that has found the spare and is about to spend it,
	d := newDatabase(t)
	d.stock(t, start, "s")
	other, _ := open(t, d.dsn)
	reached, spend, claimed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(spend) })
	defer goOn()
	d.faults.Script("spend", repotest.Fault{Before: func() { close(reached); <-spend }})
	now := start.Add(time.Minute)
	var working sync.WaitGroup
	working.Go(func() { d.spend(t, authorization("wx1", "s", now)) })
	<-reached
	// when a claim comes, it waits for the spare's row,
	var err error
	working.Go(func() {
		defer close(claimed)
		_, err = other.Claim(within(t), request("visitor", now))
	})
	eventually(t, func() bool {
		select {
		case <-claimed:
			return true
		default:
			return d.count(t, "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE '/* repo.claim */%'") > 0
		}
	})
	goOn()
	working.Wait()
	// and then finds none.
	if !errors.Is(err, repo.ErrNoSpare) {
		t.Errorf("err = %v", err)
	}
	d.consistent(t)
}

// What could not be committed was not decided: another server may know the code.
func TestARefusalCountsOnceItIsCommitted(t *testing.T) {
	d := newDatabase(t)
	d.faults.Script("commit", slices.Repeat([]repotest.Fault{repotest.NotApplied}, 6)...)
	if _, err := d.Spend(within(t), authorization("wx1", "a", start)); !errors.Is(err, repo.ErrUnavailable) || errors.Is(err, repo.ErrUnknownCode) {
		t.Errorf("err = %v", err)
	}
}

func TestASpentSpareIsNoSpare(t *testing.T) {
	d := newDatabase(t)
	now := start.Add(time.Minute)
	d.stock(t, start, "s", "t")
	d.spend(t, authorization("wx1", "s", now))
	d.stock(t, now, "s")
	census, err := d.Census(within(t), now)
	if left := d.left(t, now); left != 1 || census.Spares != 1 || err != nil {
		t.Errorf("%d spares, %+v, %v", left, census, err)
	}
	if c := d.claim(t, request("visitor", now)); c.PreAuthCode.Reveal() != "t" {
		t.Errorf("got %+v", c)
	}
	if _, err := d.Claim(within(t), request("another", now)); !errors.Is(err, repo.ErrNoSpare) {
		t.Errorf("err = %v", err)
	}
	if _, err := d.Resolve(within(t), preauth.NewSecret("s")); !errors.Is(err, repo.ErrNotClaimed) {
		t.Errorf("resolve: %v", err)
	}
	d.consistent(t)
}

// A spent code in a reply of WeChat is no good. The outcome that first had it may be saved again.
func TestASpentCodeThatComesAgain(t *testing.T) {
	now := start.Add(5 * time.Minute)
	first := succeeded("wx1", at(1), "a")
	for name, test := range map[string]struct {
		replaced bool
		again    repo.Outcome
		want     repo.Status
	}{
		"saved again":                         {false, first, repo.Saved},
		"saved again after it was replaced":   {true, first, repo.Superseded},
		"a new reply":                         {false, renewed("wx1", at(1), "a"), repo.Refused},
		"a new reply for a newer token":       {false, succeeded("wx1", at(9), "a"), repo.Refused},
		"a new reply after it was replaced":   {true, renewed("wx1", at(1), "a"), repo.Refused},
		"given a revision above foreign ones": {false, succeeded("wx1", at(1), "a", func(o *repo.Outcome) { o.MinRevision = 30 }), repo.Saved},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.save(t, first)
			d.spend(t, authorization("wx1", "a", now))
			if test.replaced {
				d.save(t, succeeded("wx1", at(1), "b", func(o *repo.Outcome) { o.Cause, o.At = preauth.CauseSpent, now }))
			}
			result := d.save(t, test.again)[0]
			if result.Status != test.want || (test.want == repo.Refused) != errors.Is(result.Err, repo.ErrKnownCode) {
				t.Fatalf("got %+v, wanted %s", result, test.want)
			}
			if test.want == repo.Saved {
				if u := result.Announcement.Update; !u.Spent || u.Revision != max(2, test.again.MinRevision+1) || u.Usable(now) {
					t.Errorf("announced as %+v", u)
				}
			}
			d.consistent(t)
		})
	}
}

// A code is replaced and spent at once, by several replicas. Whichever is first, the new code
// is current and not spent, the old one is spent, and the last announcement is of the new one.
func TestCodesAreReplacedAndSpentAtOnce(t *testing.T) {
	d := newDatabase(t)
	other, otherFaults := open(t, d.dsn)
	third, _ := open(t, d.dsn)
	const rounds = 40
	now := start.Add(time.Hour)
	was := map[bool]int{}
	d.save(t, succeeded("wx1", at(1), "code 1"))
	for i := uint64(2); i < rounds; i++ {
		old, next := fmt.Sprint("code ", i-1), fmt.Sprint("code ", i)
		var both sync.WaitGroup
		var spent [2]repo.Spent
		begin := make(chan struct{})
		for replica, r := range []*repo.Repo{other, third} {
			both.Go(func() {
				<-begin
				var err error
				if spent[replica], err = r.Spend(within(t), authorization("wx1", old, now)); err != nil {
					t.Error(err)
				}
			})
		}
		both.Go(func() {
			<-begin
			d.save(t, succeeded("wx1", at(i), next))
		})
		close(begin)
		both.Wait()
		if statuses := []repo.Status{spent[0].Status, spent[1].Status}; countOf(statuses, repo.Saved) != 1 || countOf(statuses, repo.Superseded) != 1 {
			t.Fatalf("round %d: spent %v", i, statuses)
		}
		was[spent[0].WasCurrent || spent[1].WasCurrent]++
		c := d.component(t, "wx1")
		if c.Current.PreAuthCode.Reveal() != next || c.Current.IsSpent() || c.Current.Revision != c.Revision {
			t.Fatalf("round %d: current is %+v", i, c.Current)
		}
		var updates []preauth.Update
		for _, a := range d.outbox(t) {
			if a.Update != nil {
				updates = append(updates, *a.Update)
			}
		}
		if len(updates) != 1 || updates[0].PreAuthCode.Reveal() != next || updates[0].Spent {
			t.Fatalf("round %d: announced are %+v", i, updates)
		}
	}
	if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE authorized_at IS NOT NULL"); n != rounds-2 {
		t.Errorf("%d codes are spent", n)
	}
	t.Logf("was current: %v, refusals: %v", was, otherFaults.Refusals())
	d.consistent(t)
}

// A transaction that decides on a component holds its row: an authorization in between waits, and
// then sees what became of the code.
func TestAnAuthorizationWaitsForTheOutcomeThatReplacesItsCode(t *testing.T) {
	// Given a transaction that is about to commit the code's successor,
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"))
	other, _ := open(t, d.dsn)
	reached, commit := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(commit) })
	defer goOn()
	d.faults.Script("commit", repotest.Fault{Before: func() { close(reached); <-commit }})
	var working sync.WaitGroup
	working.Go(func() { d.save(t, succeeded("wx1", at(2), "b")) })
	<-reached
	// when an authorization with the code comes, it waits for the component's row;
	var spent repo.Spent
	working.Go(func() {
		var err error
		if spent, err = other.Spend(within(t), authorization("wx1", "a", start.Add(time.Minute))); err != nil {
			t.Error(err)
		}
	})
	eventually(t, func() bool {
		return d.count(t, "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE '/* repo.lock */%'") > 0
	})
	goOn()
	working.Wait()
	// then the code is not the current one any more.
	if spent.WasCurrent || spent.Revision != 2 || len(spent.Announcements) != 1 {
		t.Errorf("spent: %+v", spent)
	}
	if c := d.component(t, "wx1"); c.Current.PreAuthCode.Reveal() != "b" || c.Current.IsSpent() {
		t.Errorf("current: %+v", c.Current)
	}
	d.consistent(t)
}

func TestImpossibleAuthorizations(t *testing.T) {
	const code = "preauthcode@@@Zm9yLXlvdXItZXllcy1vbmx5"
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), code))
	before := d.dump(t)
	for name, test := range map[string]struct {
		change func(*repo.Authorization)
		says   string
	}{
		"no component":      {func(a *repo.Authorization) { a.AppID = "" }, ""},
		"no code":           {func(a *repo.Authorization) { a.PreAuthCode = preauth.Secret{} }, "PreAuthCode"},
		"a long code":       {func(a *repo.Authorization) { a.PreAuthCode = preauth.NewSecret(strings.Repeat(code, 20)) }, "PreAuthCode"},
		"no authorizer":     {func(a *repo.Authorization) { a.AuthorizerAppID = "" }, "authorizer_appid"},
		"no time":           {func(a *repo.Authorization) { a.AuthorizedAt = time.Time{} }, "AuthorizedAt is missing"},
		"no time of ours":   {func(a *repo.Authorization) { a.At = time.Time{} }, "At or AuthorizedAt is missing"},
		"a long trace":      {func(a *repo.Authorization) { a.TraceParent = strings.Repeat("0", 65) }, "TraceParent must have at most 64 bytes"},
		"too high revision": {func(a *repo.Authorization) { a.MinRevision = math.MaxInt64 }, "MinRevision"},
	} {
		_, err := d.Spend(within(t), authorization("wx1", code, start, test.change))
		if !says(err, "repo: impossible authorization: ", test.says) || errors.Is(err, repo.ErrUnavailable) || strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.spend(t, authorization("wx1", code, start, func(a *repo.Authorization) {
		a.AuthorizerAppID, a.TraceParent = "wxb", strings.Repeat("0", 64)
	}))
	_, second := d.Spend(within(t), authorization("wx1", code, start))
	_, unknown := d.Spend(within(t), authorization("wx1", code+"x", start))
	for _, err := range []error{second, unknown} {
		if err == nil || strings.Contains(err.Error(), code) {
			t.Errorf("err = %v", err)
		}
	}
	if d.dump(t) == before {
		t.Error("nothing was spent")
	}
}

// None of the three kinds of announcements hides another.
func TestTheOutboxHasEachKind(t *testing.T) {
	d := newDatabase(t)
	for i := range uint64(5) {
		appid := fmt.Sprint("wx", i)
		d.save(t, succeeded(appid, at(i+1), "code "+appid), failed(appid+"f", at(i+1), 1))
		d.spend(t, authorization(appid, "code "+appid, start.Add(time.Duration(5-i)*time.Hour)))
	}
	waiting, err := d.Outbox(within(t), start.AddDate(1, 0, 0), 3)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, a := range waiting {
		switch {
		case a.Failure != nil:
			kinds["failure"]++
		case a.Authorized != nil:
			kinds["authorized"]++
		default:
			kinds["update"]++
		}
	}
	if want := map[string]int{"failure": 3, "authorized": 3, "update": 3}; !maps.Equal(kinds, want) {
		t.Errorf("waiting are %v, wanted %v", kinds, want)
	}
	if !slices.IsSortedFunc(waiting, func(a, b repo.Announcement) int { return a.CreatedAt.Compare(b.CreatedAt) }) {
		t.Error("they are not in their order")
	}
}
