package repo_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"preauth"
	"preauth/repo"
)

// codes returns the codes in the table, in the order in which they expire.
func (d *database) codes(t testing.TB) []string {
	t.Helper()
	var codes []string
	if err := d.raw.SelectContext(t.Context(), &codes, "SELECT code FROM pre_auth_code ORDER BY expires_at, code"); err != nil {
		t.Fatal(err)
	}
	return codes
}

// purge deletes what expired before a time, and expects how many that are.
func (d *database) purge(t testing.TB, before time.Time, limit, want int) {
	t.Helper()
	if deleted, err := d.Purge(within(t), before, limit); err != nil || deleted != want {
		t.Errorf("%d are deleted, wanted %d, %v", deleted, want, err)
	}
}

func TestPurge(t *testing.T) {
	// Given a component whose codes have been replaced again and again, one whose code has expired,
	// and spares, claims and former claims of the same age,
	d := newDatabase(t)
	minute := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	life := func(from int) func(*repo.Outcome) { // of half an hour, as all codes have here
		return func(o *repo.Outcome) {
			o.At, o.Code.IssuedAt, o.Code.ExpiresAt = minute(from), minute(from), minute(from+30)
		}
	}
	for i := range 4 {
		d.save(t, succeeded("wx1", at(uint64(i+1)), fmt.Sprint("c", i), life(10*i)))
	}
	d.save(t, succeeded("wx2", at(1), "forgotten", life(0)))
	d.stock(t, minute(1), "spare1")
	d.stock(t, minute(11), "spare2")
	for i, code := range []string{"claimed", "claimed again"} {
		if _, err := d.InsertClaim(within(t), request("visitor", minute(2+40*i)), fresh(code, minute(2+40*i))); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := d.codes(t), []string{"c0", "forgotten", "spare1", "claimed", "c1", "spare2", "c2", "c3", "claimed again"}; !slices.Equal(got, want) {
		t.Fatalf("given: %q", got)
	}
	// when nothing has expired before a time, then nothing is deleted;
	d.purge(t, minute(30), 100, 0)
	// otherwise what expired first is, a few at a time, without the current codes;
	d.purge(t, minute(42), 0, 0)
	d.purge(t, minute(42), 3, 3)
	if got, want := d.codes(t), []string{"forgotten", "c1", "spare2", "c2", "c3", "claimed again"}; !slices.Equal(got, want) {
		t.Errorf("left: %q, wanted %q", got, want)
	}
	d.purge(t, minute(42), 3, 2)
	d.purge(t, minute(42), 3, 0)
	// and what is left works as before.
	if c := d.component(t, "wx2"); c.Current == nil || c.Current.PreAuthCode.Reveal() != "forgotten" {
		t.Errorf("got %+v", c)
	}
	if _, err := d.Resolve(within(t), preauth.NewSecret("claimed")); !errors.Is(err, repo.ErrNotClaimed) {
		t.Error(err)
	}
	if c := d.claim(t, request("visitor", minute(50))); c.PreAuthCode.Reveal() != "claimed again" {
		t.Errorf("got %+v", c)
	}
	// Once the claim is forgotten, its claim id is free for another reference.
	d.purge(t, minute(600), 100, 2)
	d.stock(t, minute(600), "new")
	c := d.claim(t, request("visitor", minute(600), func(r *repo.ClaimRequest) { r.Reference = "order 2" }))
	if c.PreAuthCode.Reveal() != "new" {
		t.Errorf("got %+v", c)
	}
	if got, want := d.codes(t), []string{"forgotten", "c3", "new"}; !slices.Equal(got, want) {
		t.Errorf("left: %q, wanted %q", got, want)
	}
	d.consistent(t)
}

func TestPurgeOfMoreThanOneStatementTakes(t *testing.T) {
	d := newDatabase(t)
	d.stock(t, start, numbered("s", 1203)...)
	d.purge(t, start.Add(time.Hour), 1100, 1100)
	d.purge(t, start.Add(time.Hour), 1100, 103)
}

// Replicas that save, claim and purge at the same time do not disturb one another.
func TestPurgeBesideOtherWork(t *testing.T) {
	d := newDatabase(t)
	other, otherFaults := open(t, d.dsn)
	replicas := []*repo.Repo{d.Repo, other}
	const workers, rounds = 4, 60
	now := func(round int) time.Time { return start.Add(time.Duration(round) * 10 * time.Minute) }
	var reached [workers]atomic.Int64
	var working, purging sync.WaitGroup
	for worker := range workers {
		working.Go(func() {
			r, appid := replicas[worker%2], fmt.Sprint("wx", worker%2) // two save each component
			for round := range rounds {
				o := succeeded(appid, at(uint64(round*workers+worker+1)), fmt.Sprint("c", worker, " ", round), func(o *repo.Outcome) {
					o.At, o.Code.IssuedAt, o.Code.ExpiresAt = now(round), now(round), now(round+3)
				})
				if _, err := r.Save(t.Context(), []repo.Outcome{o}); err != nil {
					t.Error(err)
				}
				claim := repo.ClaimRequest{AppID: appid, ClaimID: fmt.Sprint("visitor", worker), At: now(round)}
				if _, err := r.InsertClaim(t.Context(), claim, fresh(fmt.Sprint("n", worker, " ", round), now(round))); err != nil {
					t.Error(err)
				}
				reached[worker].Store(int64(round))
			}
		})
	}
	done := make(chan struct{})
	var deleted atomic.Int64
	for _, r := range replicas {
		purging.Go(func() {
			for last := false; !last; {
				select {
				case <-done:
					last = true
				default:
				}
				slowest := rounds
				for worker := range reached {
					slowest = min(slowest, int(reached[worker].Load()))
				}
				for n := 7; n == 7; { // small, so that there is one all the time
					var err error
					if n, err = r.Purge(t.Context(), now(slowest), 7); err != nil {
						t.Error(err)
					}
					deleted.Add(int64(n))
				}
			}
		})
	}
	working.Wait()
	close(done)
	purging.Wait()

	refused := d.faults.Refusals()
	for number, n := range otherFaults.Refusals() {
		refused[number] += n
	}
	delete(refused, 1062) // a claim meets its former code in the unique key
	total := 0
	for _, n := range refused {
		total += n
	}
	if total > workers*rounds/20 {
		t.Errorf("in %d rounds the server refused %v", workers*rounds, refused)
	}
	for i := range 2 {
		if c := d.component(t, fmt.Sprint("wx", i)); c.Current == nil {
			t.Errorf("got %+v", c)
		}
	}
	last := now(rounds - 1)
	d.purge(t, last, 1000, 0)
	if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE expires_at < ? AND slot IS NULL", last); n != 0 || deleted.Load() < workers*rounds {
		t.Errorf("%d are left of %d rounds, deleted were %d", n, workers*rounds, deleted.Load())
	}
	d.consistent(t)
}

// A year with a component that is renewed every quarter of an hour, one that is renewed every day,
// and claims.
func TestAYearLeavesSmallTables(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	t.Parallel()
	d := newDatabase(t)
	const (
		retention = 7 * 24 * time.Hour
		renewals  = 24 * 4 // a day
		claims    = 10     // a day
	)
	d.save(t, succeeded("abandoned", at(1), "expired long ago"))
	most := 0
	for day := range 365 {
		today := start.Add(time.Duration(day) * 24 * time.Hour)
		sequence := uint64(day + 1)
		outcomes := []repo.Outcome{succeeded("quiet", at(sequence), fmt.Sprint("q ", day), func(o *repo.Outcome) { o.At = today })}
		for i := range renewals {
			now := today.Add(time.Duration(i) * 15 * time.Minute)
			outcomes = append(outcomes, renewed("wx1", at(sequence), fmt.Sprint("c ", day, " ", i), func(o *repo.Outcome) {
				o.At, o.Code.IssuedAt, o.Code.ExpiresAt, o.DueAt = now, now, now.Add(20*time.Minute), now.Add(15*time.Minute)
			}))
		}
		var announced []string
		for _, result := range d.save(t, outcomes...) {
			if result.Status != repo.Saved {
				t.Fatalf("day %d: %+v", day, result)
			}
			if result.Announcement != nil {
				announced = append(announced, result.Announcement.MessageID)
			}
		}
		if err := d.DeleteAnnounced(within(t), announced); err != nil {
			t.Fatal(err)
		}
		var spares []repo.Spare
		for i := range claims + 2 { // two are never used
			spares = append(spares, spare(fmt.Sprint("s ", day, " ", i), today.Add(time.Duration(2*i)*time.Minute)))
		}
		if err := d.AddSpares(within(t), spares); err != nil {
			t.Fatal(err)
		}
		for i := range claims { // each visitor comes twice, and finds the first code as good as expired
			visitor, now := fmt.Sprint("visitor ", i%5), today.Add(time.Duration(i/5)*29*time.Minute)
			d.claim(t, request(visitor, now, func(r *repo.ClaimRequest) { r.MinTTL = time.Minute }))
		}
		for n := 500; n == 500; {
			var err error
			if n, err = d.Purge(within(t), today.Add(24*time.Hour-retention), 500); err != nil {
				t.Fatal(err)
			}
		}
		if day%30 == 29 {
			most = max(most, d.count(t, "SELECT COUNT(*) FROM pre_auth_code"))
		}
	}
	const perDay = renewals + 1 + claims + 2
	if want := 7*perDay + perDay/10; most > want {
		t.Errorf("there are up to %d codes, wanted no more than %d", most, want)
	}
	// What is needed exists,
	for appid, revision := range map[string]uint64{"wx1": 365 * renewals, "quiet": 365, "abandoned": 1} {
		if c := d.component(t, appid); c.Revision != revision || c.Current == nil || c.Current.Revision != revision {
			t.Errorf("got %+v", c)
		}
	}
	if current, err := d.ListCurrent(within(t), "", 10); err != nil || len(current) != 3 {
		t.Errorf("%d current codes, %v", len(current), err)
	}
	// and nothing else.
	if rows := d.count(t, "SELECT COUNT(*) FROM component"); rows != 3 {
		t.Errorf("%d components", rows)
	}
	if rows, _, err := d.OutboxDepth(within(t)); err != nil || rows != 1 { // of the abandoned one
		t.Errorf("%d announcements wait, %v", rows, err)
	}
}
