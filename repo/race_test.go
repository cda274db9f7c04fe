package repo_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/mysqlserver"
	"preauth/repo"
	"preauth/repo/repotest"
)

// consistent checks the invariants that hold after any interleaving of transactions.
func (d *database) consistent(t testing.TB) {
	t.Helper()
	for what, query := range map[string]string{
		"components with several current codes": `SELECT COUNT(*) FROM (SELECT appid FROM pre_auth_code WHERE revision IS NOT NULL AND deleted_at IS NULL GROUP BY appid HAVING COUNT(*) > 1) AS several`,
		"claim ids with several codes that are not replaced": `SELECT COUNT(*) FROM (SELECT appid, claim_id FROM pre_auth_code
			WHERE claim_id IS NOT NULL AND deleted_at IS NULL GROUP BY appid, claim_id HAVING COUNT(*) > 1) AS several`,
		"announced codes that are claimed": `SELECT COUNT(*) FROM pre_auth_code WHERE revision IS NOT NULL AND claim_id IS NOT NULL`,
		"codes without a component": `SELECT COUNT(*) FROM pre_auth_code AS p LEFT JOIN component AS c ON c.appid = p.appid
			WHERE p.revision IS NOT NULL AND c.appid IS NULL`,
		"components whose revision is not that of the current code": `SELECT COUNT(*) FROM component AS c JOIN pre_auth_code AS p
			ON p.appid = c.appid AND p.slot = 0 WHERE p.revision <> c.revision`,
		"components with codes but no current one": `SELECT COUNT(*) FROM component AS c LEFT JOIN pre_auth_code AS p
			ON p.appid = c.appid AND p.slot = 0 WHERE c.revision > 0 AND p.id IS NULL`,
		"revisions given twice": `SELECT COUNT(*) FROM (SELECT appid FROM pre_auth_code WHERE revision IS NOT NULL GROUP BY appid, revision HAVING COUNT(*) > 1) AS twice`,
		"codes that are not in the outbox": `SELECT COUNT(*) FROM pre_auth_code AS p LEFT JOIN outbox AS o
			ON o.appid = p.appid AND o.revision = p.revision WHERE o.message_id IS NULL AND p.slot = 0`,
		// A code that another has replaced may have been purged before it was announced.
		"announcements of codes that are not there": `SELECT COUNT(*) FROM outbox AS o JOIN component AS c ON c.appid = o.appid
			LEFT JOIN pre_auth_code AS p ON p.appid = o.appid AND p.revision = o.revision WHERE o.revision >= c.revision AND p.id IS NULL`,
	} {
		if n := d.count(t, query); n > 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

func TestTheNewestTokenWinsWhateverTheOrder(t *testing.T) {
	// Given the events of a component that nobody has seen yet, in any order,
	d := newDatabase(t)
	other, _ := open(t, d.dsn)
	replicas := []*repo.Repo{d.Repo, other}
	const events = 40
	order := rand.Perm(events)
	// when two replicas save their outcomes at the same time,
	var saving sync.WaitGroup
	for worker := range 8 {
		saving.Go(func() {
			for i := worker; i < events; i += 8 {
				sequence := uint64(order[i] + 1)
				if _, err := replicas[worker%2].Save(t.Context(), []repo.Outcome{succeeded("wx1", at(sequence), fmt.Sprint("code", sequence))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	saving.Wait()
	// then the newest is current, and the revision counts the codes.
	c := d.component(t, "wx1")
	if c.Token.Position != at(events) || c.Current.PreAuthCode.Reveal() != fmt.Sprint("code", events) {
		t.Errorf("got %+v", c)
	}
	if codes := d.count(t, "SELECT COUNT(*) FROM pre_auth_code"); uint64(codes) != c.Revision {
		t.Errorf("%d codes at revision %d", codes, c.Revision)
	}
	d.consistent(t)
}

func TestOneOfManyReplicasSavesAnEvent(t *testing.T) {
	d := newDatabase(t)
	for round := range 10 { // the first is also the race for the component's row
		// Given one event that several replicas worked on, with a code each,
		const replicas = 6
		results := make([]repo.Result, replicas)
		var saving sync.WaitGroup
		for i := range replicas {
			saving.Go(func() {
				saved, err := d.Save(t.Context(), []repo.Outcome{succeeded("wx1", at(uint64(round+1)), fmt.Sprint("code", round, i))})
				if err != nil {
					t.Error(err)
					return
				}
				results[i] = saved[0]
			})
		}
		// when all save,
		saving.Wait()
		// then one of them saves it, and the others are superseded.
		if got := statuses(results); countOf(got, repo.Saved) != 1 || countOf(got, repo.Superseded) != replicas-1 {
			t.Errorf("round %d: %v", round, got)
		}
	}
	d.consistent(t)
}

// eventually waits until a condition holds.
func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	ctx := within(t)
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatal("timed out")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// A transaction that waited for a lock must see what was committed meanwhile, not a snapshot from
// its beginning.
func TestALateEventWaitsForTheNewerOne(t *testing.T) {
	for name, given := range map[string][]repo.Outcome{
		"a component known before": {succeeded("wx1", at(1), "a")},
		"the component's first":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.save(t, given...)
			late, _ := open(t, d.dsn)

			// Given a transaction about the newer event that is about to commit,
			reached, commit := make(chan struct{}), make(chan struct{})
			goOn := sync.OnceFunc(func() { close(commit) })
			defer goOn()
			d.faults.Script("commit", repotest.Fault{Before: func() { close(reached); <-commit }})
			var saving sync.WaitGroup
			saving.Go(func() { save(t, d.Repo, succeeded("wx1", at(3), "newer")) })
			<-reached
			// when a late event is saved, it waits for the lock, and the server's list of processes
			// names the statement;
			var result repo.Result
			saving.Go(func() { result = save(t, late, succeeded("wx1", at(2), "late"))[0] })
			eventually(t, func() bool {
				return d.count(t, `SELECT COUNT(*) FROM information_schema.processlist
					WHERE db = DATABASE() AND (info LIKE '/* repo.lock */%' OR info LIKE '/* repo.create */%')`) > 0
			})
			goOn()
			saving.Wait()
			// then it is superseded.
			if result.Status != repo.Superseded {
				t.Errorf("got %+v", result)
			}
			if c := d.component(t, "wx1"); c.Current.PreAuthCode.Reveal() != "newer" || c.Token.Position != at(3) {
				t.Errorf("got %+v", c)
			}
			d.consistent(t)
		})
	}
}

func TestOverlappingBatchesInAnyOrder(t *testing.T) {
	d := newDatabase(t)
	var saving sync.WaitGroup
	for worker := range 8 {
		saving.Go(func() {
			for round := range 6 {
				var outcomes []repo.Outcome
				for _, i := range rand.Perm(12) {
					code := fmt.Sprintf("code %d %d %d", worker, round, i)
					outcomes = append(outcomes, succeeded(fmt.Sprint("wx", i), at(rand.Uint64N(50)+1), code))
				}
				if _, err := d.Save(t.Context(), outcomes); err != nil {
					t.Error(err)
				}
			}
		})
	}
	saving.Wait()
	d.consistent(t)
}

// Transactions about different components must not deadlock, or several replicas spend their time
// on retries: see the key current_code in the schema.
func TestBatchesOfDifferentComponentsDoNotDeadlock(t *testing.T) {
	d := newDatabase(t)
	const workers, components = 6, 10
	batch := func(worker int, sequence uint64) (outcomes []repo.Outcome) {
		for i := range components {
			// Neighbours in every key belong to different workers.
			appid := fmt.Sprintf("wx%02d%d", i, worker)
			outcomes = append(outcomes, succeeded(appid, at(sequence), fmt.Sprint(appid, sequence)))
		}
		return outcomes
	}
	for worker := range workers {
		d.save(t, batch(worker, 1)...)
		d.save(t, batch(worker, 2)...)
	}
	d.faults.Operations()
	var saving sync.WaitGroup
	for worker := range workers {
		saving.Go(func() {
			for sequence := range uint64(15) {
				save(t, d.Repo, batch(worker, sequence+3)...)
			}
		})
	}
	saving.Wait()
	if rollbacks := countOf(d.faults.Operations(), "rollback"); rollbacks > 0 {
		t.Errorf("%d of %d transactions were rolled back", rollbacks, workers*15+rollbacks)
	}
	d.consistent(t)
}

func TestSavingWaitsForNoOtherComponent(t *testing.T) {
	// Given neighbours in every key, and a transaction about the one in the middle that is about to
	// commit,
	d := newDatabase(t)
	for i, appid := range []string{"wx1", "wx2", "wx3"} {
		d.save(t, succeeded(appid, at(uint64(i+1)), fmt.Sprint("a", i)))
		d.save(t, succeeded(appid, at(uint64(i+4)), fmt.Sprint("b", i)))
	}
	reached, commit := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(commit) })
	defer goOn()
	d.faults.Script("commit", repotest.Fault{Before: func() { close(reached); <-commit }})
	var saving sync.WaitGroup
	saving.Go(func() { save(t, d.Repo, succeeded("wx2", at(9), "c1")) })
	<-reached
	// when the codes of the others are replaced meanwhile, then no lock is waited for.
	d.faults.Operations()
	d.save(t, succeeded("wx1", at(8), "c0"))
	d.save(t, succeeded("wx3", at(10), "c2"))
	if rollbacks := countOf(d.faults.Operations(), "rollback"); rollbacks > 0 {
		t.Errorf("%d transactions were rolled back", rollbacks)
	}
	goOn()
	saving.Wait()
	d.consistent(t)
}

func TestADueComponentThatAnotherReplicaLeasesFirst(t *testing.T) {
	t.Run("of several", func(t *testing.T) { leasedByAnother(t, 10) })
	t.Run("alone", func(t *testing.T) { leasedByAnother(t, 1) })
}

func leasedByAnother(t *testing.T, limit int) {
	// Given a replica that has found what is due, and has not leased it yet,
	d := newDatabase(t)
	d.save(t, failed("wx1", at(1), 1), failed("wx2", at(2), 1), failed("wx3", at(3), 1))
	now := start.Add(24 * time.Hour)
	slow, faults := open(t, d.dsn)
	found, goOn := make(chan struct{}), make(chan struct{})
	faults.Script("lease", repotest.Fault{Before: func() { close(found); <-goOn }})
	var taking sync.WaitGroup
	var left []repo.Component
	taking.Go(func() {
		var err error
		if left, err = slow.LeaseDue(t.Context(), now, now.Add(time.Minute), limit); err != nil {
			t.Error(err)
		}
	})
	<-found
	// when another replica leases one of them, and an outcome of another one is saved,
	if taken, err := d.LeaseDue(t.Context(), now, now.Add(time.Minute), 1); err != nil || len(taken) != 1 || taken[0].AppID != "wx1" {
		t.Errorf("took %+v, %v", taken, err)
	}
	d.save(t, succeeded("wx2", at(2), "a", func(o *repo.Outcome) { o.DueAt = now.Add(time.Hour) }))
	close(goOn)
	taking.Wait()
	// then it gets the rest.
	if len(left) != 1 || left[0].AppID != "wx3" {
		t.Errorf("took %+v", left)
	}
}

func TestTakeDueHasOneOwner(t *testing.T) {
	// Given components that are due in an order of their own, and some that are not,
	d := newDatabase(t)
	const due = 60
	now := start.Add(24 * time.Hour)
	var outcomes []repo.Outcome
	for _, i := range rand.Perm(due) {
		outcomes = append(outcomes, failed(fmt.Sprintf("wx%d", i), at(uint64(i+1)), 1, func(o *repo.Outcome) {
			o.DueAt = now.Add(-time.Duration(i) * time.Minute)
		}))
	}
	outcomes = append(outcomes,
		failed("later", at(1), 1, func(o *repo.Outcome) { o.DueAt = now.Add(time.Microsecond) }),
		failed("never", at(1), 1, func(o *repo.Outcome) { o.DueAt = time.Time{} }))
	d.save(t, outcomes...)

	// when many take from them at once until nothing is left,
	until := now.Add(time.Minute)
	var mu sync.Mutex
	owners := map[string]int{}
	var taking sync.WaitGroup
	for range 8 {
		taking.Go(func() {
			for {
				taken, err := d.LeaseDue(t.Context(), now, until, 7)
				if err != nil {
					t.Error(err)
				}
				if len(taken) == 0 {
					return
				}
				mu.Lock()
				for i, c := range taken {
					owners[c.AppID]++
					if !c.DueAt.Equal(until) || c.Attempts != 1 || c.Failure == nil {
						t.Errorf("taken: %+v", c)
					}
					if i > 0 && c.Token.Position.Sequence > taken[i-1].Token.Position.Sequence {
						t.Errorf("%s comes after %s, which was due later", c.AppID, taken[i-1].AppID)
					}
				}
				mu.Unlock()
			}
		})
	}
	taking.Wait()
	// then each is leased once,
	for appid, n := range owners {
		if n != 1 {
			t.Errorf("%s was taken %d times", appid, n)
		}
	}
	if len(owners) != due {
		t.Errorf("%d of %d were taken", len(owners), due)
	}
	// and is due again at the end of its lease, unless an outcome was saved meanwhile.
	d.save(t, succeeded("wx0", at(1), "a", func(o *repo.Outcome) { o.At, o.DueAt = until, until.Add(time.Hour) }))
	again, err := d.LeaseDue(t.Context(), until, until.Add(time.Minute), 2*due)
	if err != nil || len(again) != due { // without wx0, but with "later"
		t.Errorf("%d are due again, %v", len(again), err)
	}
	for _, limit := range []int{0, -1} {
		if taken, err := d.LeaseDue(within(t), until.Add(time.Hour), until.Add(2*time.Hour), limit); err != nil || len(taken) != 0 {
			t.Errorf("at most %d: %d are leased, %v", limit, len(taken), err)
		}
	}
	if _, err := d.LeaseDue(t.Context(), now, now, 1); err == nil || errors.Is(err, repo.ErrUnavailable) {
		t.Errorf("a lease that ends at once: %v", err)
	}
}

func TestApplySchemaFromManyReplicasAtOnceAndAgain(t *testing.T) {
	// Given an empty database,
	d := emptyDatabase(t)
	if err := d.Check(t.Context()); err == nil || errors.Is(err, repo.ErrUnavailable) {
		t.Errorf("Check without a schema: %v", err)
	}
	// when several replicas apply the schema at once,
	var applying sync.WaitGroup
	for range 4 {
		r, _ := open(t, d.dsn)
		applying.Go(func() {
			if err := r.ApplySchema(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	applying.Wait()
	// then it is complete, and stays as it is when it is applied with data in it.
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	d.save(t, succeeded("wx1", at(1), "a"))
	before := d.dump(t)
	if err := d.ApplySchema(t.Context()); err != nil {
		t.Error(err)
	}
	if after := d.dump(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// CREATE TABLE IF NOT EXISTS can lose a race, and then says that the table exists.
func TestApplySchemaAfterALostRace(t *testing.T) {
	d := emptyDatabase(t)
	d.faults.Script("schema", repotest.Fault{Err: &mysql.MySQLError{Number: 1050, Message: "Table 'component' already exists"}})
	if err := d.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatIsAcknowledgedSurvivesAKilledServer(t *testing.T) {
	d := newDatabase(t)
	if os.Getenv(mysqlserver.EnvTestDSN) != "" {
		t.Skip("the server is not the test's to kill")
	}
	// Given workers that save, each for its own component,
	working, stop := context.WithCancel(within(t))
	defer stop()
	acknowledged := make([]atomic.Uint64, 6)
	appid := func(i int) string { return fmt.Sprint("wx", i) }
	var saving sync.WaitGroup
	for i := range acknowledged {
		saving.Go(func() {
			for working.Err() == nil {
				sequence := acknowledged[i].Load() + 1
				results, err := d.Save(working, []repo.Outcome{succeeded(appid(i), at(sequence), fmt.Sprint("code", i, sequence))})
				switch {
				case err == nil && results[0].Status == repo.Saved:
					acknowledged[i].Store(sequence)
				case err == nil || !errors.Is(err, repo.ErrUnavailable):
					t.Errorf("%s %d: %v, %v", appid(i), sequence, results, err)
					return
				}
			}
		})
	}
	allBeyond := func(sequence uint64) func() bool {
		return func() bool {
			for i := range acknowledged {
				if acknowledged[i].Load() <= sequence {
					return false
				}
			}
			return true
		}
	}
	eventually(t, allBeyond(5))
	// when the server is killed and restarted meanwhile,
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	reached := uint64(0)
	for i := range acknowledged {
		reached = max(reached, acknowledged[i].Load())
	}
	if err := server.Restart(within(t)); err != nil {
		t.Fatal(err)
	}
	// then they continue,
	eventually(t, allBeyond(reached))
	stop()
	saving.Wait()
	// and everything acknowledged is there, and at most one outcome each that was in flight.
	for i := range acknowledged {
		c, last := d.component(t, appid(i)), acknowledged[i].Load()
		if got := c.Token.Position.Sequence; got != last && got != last+1 {
			t.Errorf("%s is at %d, acknowledged was %d", c.AppID, got, last)
		}
		if codes := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE appid = ?", c.AppID); c.Revision != c.Token.Position.Sequence || uint64(codes) != c.Revision {
			t.Errorf("%s has revision %d and %d codes after %d events", c.AppID, c.Revision, codes, c.Token.Position.Sequence)
		}
	}
	d.consistent(t)
}
