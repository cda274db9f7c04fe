package repo_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"preauth"
	"preauth/repo"
	"preauth/repo/repotest"
)

// want is the expected result of one outcome.
type want struct {
	status   repo.Status
	revision uint64
	// announced is the message id of the announcement to publish, "" for none.
	announced string
}

func TestSave(t *testing.T) {
	d := newDatabase(t)
	recreated := repo.Position{
		Stream: "COMPONENT_TOKENS", StreamCreated: start.Add(time.Hour), Sequence: 1, Time: start.Add(time.Hour + time.Second),
	}
	type step struct {
		outcome repo.Outcome
		want    want
	}
	tests := map[string]struct {
		steps []step
		// current is the code in the end, "" for none, and fence the newest event taken.
		current  string
		fence    repo.Position
		attempts int
		dueAt    time.Time
		failed   bool
	}{
		"the first token of a component": {
			steps:   []step{{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}}},
			current: "a", fence: at(1), dueAt: succeeded("wx1", at(1), "a").DueAt,
		},
		"a newer token replaces the code": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(2), "b"), want{repo.Saved, 2, "wx1.2"}},
			},
			current: "b", fence: at(2), dueAt: succeeded("wx1", at(2), "b").DueAt,
		},
		"a late event changes nothing": {
			steps: []step{
				{succeeded("wx1", at(2), "b"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(1), "a"), want{repo.Superseded, 1, ""}},
				{failed("wx1", at(1), 3), want{repo.Superseded, 1, ""}},
				{renewed("wx1", at(1), "c"), want{repo.Superseded, 1, ""}},
				{repeated("wx1", at(1), at(1)), want{repo.Superseded, 1, ""}},
			},
			current: "b", fence: at(2), dueAt: succeeded("wx1", at(2), "b").DueAt,
		},
		"the answer was lost and the same is saved again": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
			},
			current: "a", fence: at(1), dueAt: succeeded("wx1", at(1), "a").DueAt,
		},
		"another replica got a code for the same event": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(1), "b"), want{repo.Superseded, 1, ""}},
				{failed("wx1", at(1), 1), want{repo.Superseded, 1, ""}},
			},
			current: "a", fence: at(1), dueAt: succeeded("wx1", at(1), "a").DueAt,
		},
		"the same event again after its code expired": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(1), "b", func(o *repo.Outcome) { o.At = start.Add(time.Hour) }), want{repo.Saved, 2, "wx1.2"}},
			},
			current: "b", fence: at(1), dueAt: succeeded("wx1", at(1), "b").DueAt,
		},
		"the same event after a failure": {
			steps: []step{
				{failed("wx1", at(1), 2), want{repo.Saved, 0, "failed.COMPONENT_TOKENS.1.2"}},
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
			},
			current: "a", fence: at(1), dueAt: succeeded("wx1", at(1), "a").DueAt,
		},
		"a newer token after a failure, while the code of the one before is usable": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{failed("wx1", at(2), 2), want{repo.Saved, 1, "failed.COMPONENT_TOKENS.2.2"}},
				{succeeded("wx1", at(2), "b"), want{repo.Saved, 2, "wx1.2"}},
			},
			current: "b", fence: at(2), dueAt: succeeded("wx1", at(2), "b").DueAt,
		},
		"a renewal replaces the code": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{renewed("wx1", at(1), "b"), want{repo.Saved, 2, "wx1.2"}},
			},
			current: "b", fence: at(1), dueAt: renewed("wx1", at(1), "b").DueAt,
		},
		"a failed renewal leaves the code": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{failed("wx1", at(1), 4, func(o *repo.Outcome) { o.Cause = preauth.CauseRenewal }), want{repo.Saved, 1, "failed.COMPONENT_TOKENS.1.4"}},
			},
			current: "a", fence: at(1), attempts: 4, dueAt: failed("wx1", at(1), 4).DueAt, failed: true,
		},
		"a code saved again after its renewal failed": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{failed("wx1", at(1), 4, func(o *repo.Outcome) { o.Cause = preauth.CauseRenewal }), want{repo.Saved, 1, "failed.COMPONENT_TOKENS.1.4"}},
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
			},
			current: "a", fence: at(1), attempts: 4, dueAt: failed("wx1", at(1), 4).DueAt, failed: true,
		},
		"a failure for a newer token moves the fence and leaves the code": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{failed("wx1", at(2), 1, func(o *repo.Outcome) { o.DueAt = time.Time{} }), want{repo.Saved, 1, "failed.COMPONENT_TOKENS.2.1"}},
				{renewed("wx1", at(1), "b"), want{repo.Superseded, 1, ""}},
			},
			current: "a", fence: at(2), attempts: 1, failed: true,
		},
		"a token announced again moves the fence": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{repeated("wx1", at(3), at(1)), want{repo.Saved, 1, ""}},
				{succeeded("wx1", at(2), "b"), want{repo.Superseded, 1, ""}},
			},
			current: "a", fence: at(3), dueAt: repeated("wx1", at(3), at(1)).DueAt,
		},
		"a token announced again after another one was refused": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{failed("wx1", at(2), 1), want{repo.Saved, 1, "failed.COMPONENT_TOKENS.2.1"}},
				{repeated("wx1", at(3), at(1)), want{repo.Saved, 1, ""}},
			},
			current: "a", fence: at(3), dueAt: repeated("wx1", at(3), at(1)).DueAt,
		},
		"a token announced again after another one's code took the place of its own": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(2), "b"), want{repo.Saved, 2, "wx1.2"}},
				{repeated("wx1", at(3), at(1)), want{repo.Saved, 2, ""}},
			},
			current: "b", fence: at(3), dueAt: repeated("wx1", at(3), at(1)).At,
		},
		"the stream was rolled back and gives a sequence to another event": {
			steps: []step{
				{succeeded("wx1", at(5), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", later(at(5), time.Second), "b"), want{repo.Saved, 2, "wx1.2"}},
				{succeeded("wx1", later(at(4), time.Hour), "c"), want{repo.Saved, 3, "wx1.3"}},
				{succeeded("wx1", at(3), "d"), want{repo.Superseded, 3, ""}},
			},
			current: "c", fence: later(at(4), time.Hour), dueAt: succeeded("wx1", later(at(4), time.Hour), "c").DueAt,
		},
		"a code saved before the fence moved, and again": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{repeated("wx1", at(3), at(1)), want{repo.Saved, 1, ""}},
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
			},
			current: "a", fence: at(3), dueAt: repeated("wx1", at(3), at(1)).DueAt,
		},
		"the stream is created anew and counts from 1 again": {
			steps: []step{
				{succeeded("wx1", at(700), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", recreated, "b"), want{repo.Saved, 2, "wx1.2"}},
				{succeeded("wx1", at(701), "c"), want{repo.Superseded, 2, ""}},
			},
			current: "b", fence: recreated, dueAt: succeeded("wx1", recreated, "b").DueAt,
		},
		"the database was restored and knows less than was announced": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(2), "b", func(o *repo.Outcome) { o.MinRevision = 41 }), want{repo.Saved, 42, "wx1.42"}},
				{succeeded("wx1", at(3), "c", func(o *repo.Outcome) { o.MinRevision = 41 }), want{repo.Saved, 43, "wx1.43"}},
			},
			current: "c", fence: at(3), dueAt: succeeded("wx1", at(3), "c").DueAt,
		},
		"WeChat gives the current code for a newer token": {
			steps: []step{
				{succeeded("wx1", at(1), "a"), want{repo.Saved, 1, "wx1.1"}},
				{succeeded("wx1", at(2), "a"), want{repo.Saved, 1, "wx1.1"}},
			},
			current: "a", fence: at(2), dueAt: succeeded("wx1", at(2), "a").DueAt,
		},
		"a bad event touches no component": {
			steps: []step{
				{bad("", at(1)), want{repo.Saved, 0, "failed.COMPONENT_TOKENS.1.0"}},
				{bad("wx1", at(2)), want{repo.Saved, 0, "failed.COMPONENT_TOKENS.2.0"}},
				{bad("wx1", at(2)), want{repo.Saved, 0, "failed.COMPONENT_TOKENS.2.0"}},
			},
		},
	}
	for name, test := range tests {
		outcomes, wanted := []repo.Outcome{}, []want{}
		for _, s := range test.steps {
			outcomes, wanted = append(outcomes, s.outcome), append(wanted, s.want)
		}
		check := func(t *testing.T, results []repo.Result) {
			t.Helper()
			for i, result := range results {
				got := want{status: result.Status, revision: result.Revision}
				if result.Announcement != nil {
					got.announced = result.Announcement.MessageID
				}
				if got != wanted[i] {
					t.Errorf("outcome %d: %+v, want %+v", i, got, wanted[i])
				}
			}
			c := d.component(t, "wx1")
			current := ""
			if c.Current != nil {
				current = c.Current.PreAuthCode.Reveal()
			}
			if current != test.current || c.Token.Position != test.fence || c.Attempts != test.attempts ||
				!c.DueAt.Equal(test.dueAt) || (c.Failure != nil) != test.failed {
				t.Errorf("current %q, want %q; in the end: %+v", current, test.current, c)
			}
			if live := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE deleted_at IS NULL"); live > 1 {
				t.Errorf("%d current codes", live)
			}
		}
		t.Run(name, func(t *testing.T) {
			d.clear(t)
			var results []repo.Result
			for _, o := range outcomes {
				results = append(results, d.save(t, o)...)
			}
			check(t, results)
		})
		t.Run(name+", in one call", func(t *testing.T) {
			d.clear(t)
			// A code that a later outcome of the same call replaces is saved but not announced.
			wanted = slices.Clone(wanted)
			for i, w := range wanted {
				if strings.HasPrefix(w.announced, "wx1.") && slices.ContainsFunc(wanted[i:], func(later want) bool { return later.revision > w.revision }) {
					wanted[i].announced = ""
				}
			}
			check(t, d.save(t, outcomes...))
		})
	}
}

// A batch leaves the tables as the same outcomes do one by one.
func TestSaveInOneCallIsSavingOneByOne(t *testing.T) {
	d := newDatabase(t)
	const before = 4 // are saved already
	for seed := range uint64(25) {
		random := rand.New(rand.NewPCG(seed, 0))
		var outcomes []repo.Outcome
		for range before + 12 {
			appid, p := fmt.Sprint("wx", random.IntN(3)), at(random.Uint64N(4)+1)
			code := fmt.Sprint("code", random.IntN(6))
			switch random.IntN(5) {
			case 0:
				outcomes = append(outcomes, failed(appid, p, random.IntN(3)))
			case 1:
				outcomes = append(outcomes, repeated(appid, p, at(1)))
			case 2:
				outcomes = append(outcomes, renewed(appid, p, code))
			default:
				outcomes = append(outcomes, succeeded(appid, p, code))
			}
			// One time for all: it is the only trace that a transaction leaves of its other outcomes.
			outcomes[len(outcomes)-1].At = start
			outcomes[len(outcomes)-1].MinRevision = random.Uint64N(8)
		}

		d.clear(t)
		var apart []repo.Result
		for _, o := range outcomes {
			apart = append(apart, d.save(t, o)...)
		}
		dump := func() string {
			// What was replaced is left in the outbox, as something that is only to be deleted.
			for _, a := range d.outbox(t) {
				if a.Update == nil && a.Failure == nil {
					if err := d.DeleteAnnounced(t.Context(), []string{a.MessageID}); err != nil {
						t.Fatal(err)
					}
				}
			}
			return d.dump(t)
		}
		wanted := dump()

		d.clear(t)
		d.save(t, outcomes[:before]...)
		together := d.save(t, outcomes[before:]...)
		apart = apart[before:]
		if got := dump(); got != wanted {
			t.Fatalf("seed %d: one by one:\n%s\nin one call:\n%s", seed, wanted, got)
		}
		for i := range together {
			// Only the last announcement of a component's code is to be published.
			want := apart[i]
			if a := want.Announcement; a != nil && a.Update != nil && a.Update.Revision < d.component(t, a.AppID).Revision {
				want.Announcement = nil
			}
			if describeResults(together[i:i+1]) != describeResults([]repo.Result{want}) {
				t.Errorf("seed %d, outcome %d: one by one %+v, in one call %+v", seed, before+i, want, together[i])
			}
		}
	}
}

// A transaction that cannot be rolled back is not committed by the next BEGIN on its connection.
func TestNothingIsLeftBehindOnAConnection(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"))
	d.faults.Script("code", repotest.Fault{Err: &mysql.MySQLError{Number: 1142, Message: "denied after all"}})
	d.faults.Script("rollback", repotest.Answered(1317, "interrupted"))
	if _, err := d.Save(within(t), []repo.Outcome{succeeded("wx1", at(2), "b")}); err == nil {
		t.Fatal("saved")
	}
	d.save(t, succeeded("wx2", at(3), "c"))
	if c := d.component(t, "wx1"); c.Revision != 1 || c.Current.PreAuthCode.Reveal() != "a" {
		t.Errorf("known is %+v", c)
	}
	// Nor is one whose COMMIT the server refuses: it may be open still.
	d.faults.Operations()
	d.faults.Script("commit", timeout)
	d.save(t, succeeded("wx1", at(4), "d"))
	if !slices.Contains(d.faults.Operations(), "connect") {
		t.Error("the next attempt was made on the same connection")
	}
}

func TestSaveManyInOneCall(t *testing.T) {
	// Given more outcomes than fit into one transaction,
	d := newDatabase(t)
	var outcomes []repo.Outcome
	for i := range 2*repo.MaxBatch + 1 {
		outcomes = append(outcomes, succeeded(fmt.Sprint("wx", i%190), at(uint64(i+1)), fmt.Sprint("code", i)))
	}
	d.faults.Operations()
	// when they are saved,
	results := d.save(t, outcomes...)
	// then it takes several, and each has its result in its place.
	if n := countOf(d.faults.Operations(), "commit"); n != 3 {
		t.Errorf("%d transactions, wanted 3", n)
	}
	for i, result := range results {
		revision := uint64(1 + i/190)
		if result.Status != repo.Saved || result.Announcement.MessageID != fmt.Sprintf("%s.%d", outcomes[i].AppID, revision) {
			t.Fatalf("outcome %d: %+v", i, result)
		}
	}
	if results, err := d.Save(t.Context(), nil); err != nil || len(results) != 0 {
		t.Errorf("no outcomes: %v, %v", results, err)
	}
}

// size makes a failure so many bytes large, with characters that JSON and SQL escape.
func size(bytes int) func(*repo.Outcome) {
	return func(o *repo.Outcome) {
		o.Failure.ErrMsg = `"`
		left := bytes - len(o.Failure.Encode())
		o.Failure.ErrMsg = strings.Repeat(`"`, 1+left/2) + strings.Repeat("x", left%2)
	}
}

func TestSaveTheLargestFailures(t *testing.T) {
	// Given a full batch of failures of the largest size,
	d := newDatabase(t)
	var outcomes []repo.Outcome
	for i := range 100 {
		outcomes = append(outcomes, failed(fmt.Sprint("wx", i), at(uint64(i+1)), 1, size(preauth.MaxBody)))
	}
	// when they are saved, then no packet is too large.
	for i, result := range d.save(t, outcomes...) {
		if result.Status != repo.Saved {
			t.Fatalf("outcome %d: %+v", i, result)
		}
	}
	if waiting := d.outbox(t); len(waiting) != 100 || *waiting[99].Failure != *outcomes[99].Failure {
		t.Errorf("%d failures wait", len(waiting))
	}
}

// The announcement that Save returns and the one that the outbox keeps must be the same message.
func TestSaveReturnsWhatTheOutboxHolds(t *testing.T) {
	d := newDatabase(t)
	odd := succeeded("wx1", at(1), "a", func(o *repo.Outcome) {
		o.At = o.At.Add(789 * time.Nanosecond).In(time.FixedZone("UTC+8", 8*60*60))
		o.Code.IssuedAt = o.At
		o.Code.ExpiresAt = o.At.Add(30*time.Minute + 999*time.Nanosecond)
	})
	for _, o := range []repo.Outcome{odd, failed("wx2", at(2), 1), bad("", at(3))} {
		o.TraceParent = traceParent
		returned := d.save(t, o)[0].Announcement
		waiting := d.outbox(t)
		kept := waiting[len(waiting)-1]
		if !reflect.DeepEqual(*returned, kept) || kept.TraceParent != traceParent {
			t.Errorf("returned %s\nkept     %s", describe(*returned), describe(kept))
		}
	}
}

func describe(a repo.Announcement) string {
	text := fmt.Sprintln(a.MessageID, a.AppID, a.TraceParent, a.CreatedAt)
	if a.Update != nil {
		text += string(a.Update.Encode())
	}
	if a.Failure != nil {
		text += string(a.Failure.Encode())
	}
	return text
}

func TestSaveRefuses(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "first"), succeeded("wx1", at(2), "second"))
	before := d.dump(t)
	long := strings.Repeat("x", 513)
	tests := map[string]struct {
		outcome repo.Outcome
		says    string
	}{
		"a code of another component": {succeeded("wx2", at(3), "second"), "gave before"},
		"a retired code of another":   {succeeded("wx2", at(3), "first"), "gave before"},
		"a retired code of its own":   {succeeded("wx1", at(3), "first"), "gave before"},
		"one of its own that was made at the same time": {
			succeeded("wx1", at(3), "first", func(o *repo.Outcome) { o.Code.IssuedAt = at(1).Time.Add(time.Second) }), "gave before",
		},
		"no time":                      {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.At = time.Time{} }), "At "},
		"an impossible due time":       {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.DueAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }), "DueAt"},
		"a due time before year 1000":  {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.DueAt = time.Date(1000, 1, 1, 0, 0, 0, -1, time.UTC) }), "DueAt"},
		"an impossible appid":          {succeeded("wx 2", at(3), "x"), "AppID"},
		"no appid":                     {succeeded("", at(3), "x"), "AppID"},
		"a bad event's strange appid":  {bad("<script>", at(3)), "AppID"},
		"a code and a failure":         {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Failure = failed("wx2", at(3), 1).Failure }), "only one"},
		"a code without a token":       {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Token = repo.Token{} }), "Token"},
		"an event without a stream":    {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Token.Position.Stream = "" }), "Stream"},
		"a stream's name of 256":       {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Token.Position.Stream = strings.Repeat("訪", 256) }), "Stream must have 1 to 255 characters"},
		"a stream's name not in UTF-8": {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Token.Position.Stream = "a\xff" }), "Stream"},
		"an event without a time":      {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Token.Position.Time = time.Time{} }), "Position"},
		"an event of a stream of no age": {
			succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Token.Position.StreamCreated = time.Time{} }), "Position",
		},
		"a trace that is too long":     {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.TraceParent = long[:65] }), "TraceParent must have at most 64 bytes"},
		"an impossible token expiry":   {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Token.ExpiresAt = time.Unix(1<<40, 0) }), "ExpiresAt"},
		"an empty code":                {succeeded("wx2", at(3), ""), "1 to 512"},
		"a code of 513 bytes":          {succeeded("wx2", at(3), long[:513]), "1 to 512"},
		"a code without a beginning":   {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Code.IssuedAt = time.Time{} }), "Code"},
		"a code without an expiry":     {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Code.ExpiresAt = time.Time{} }), "Code"},
		"no cause":                     {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Cause = "" }), "Cause"},
		"a cause of 17 bytes":          {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.Cause = preauth.Cause(long[:17]) }), "Cause must have 1 to 16 bytes"},
		"a revision at the end of all": {succeeded("wx2", at(3), "x", func(o *repo.Outcome) { o.MinRevision = math.MaxInt64 }), "MinRevision"},
		"a bad event without an id":    {changed(bad("", at(3)), []func(*repo.Outcome){func(o *repo.Outcome) { o.FailureID = "" }}), "FailureID"},
		"a failure with a long id":     {failed("wx2", at(3), 1, func(o *repo.Outcome) { o.FailureID = strings.Repeat("訪", 351) }), "FailureID must have 1 to 350 characters"},
		"an id with a space":           {failed("wx2", at(3), 1, func(o *repo.Outcome) { o.FailureID = "a b" }), "FailureID"},
		"an id with a control":         {failed("wx2", at(3), 1, func(o *repo.Outcome) { o.FailureID = "a\x00" }), "FailureID"},
		"an id that is not UTF-8":      {failed("wx2", at(3), 1, func(o *repo.Outcome) { o.FailureID = "a\xff" }), "FailureID"},
		"a failure of another":         {failed("wx2", at(3), 1, func(o *repo.Outcome) { o.Failure.AppID = "wx3" }), "AppID"},
		"a failure without a class":    {failed("wx2", at(3), 1, func(o *repo.Outcome) { o.Failure.Class = "" }), "class"},
		"a negative attempt":           {failed("wx2", at(3), -1), "Attempt"},
		"an attempt that is too high":  {failed("wx2", at(3), math.MaxInt32+1), "Attempt must be 0 to 2147483647"},
		"a huge failure":               {failed("wx2", at(3), 1, size(preauth.MaxBody+1)), "more than 65536 bytes: cut ErrMsg"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			result := d.save(t, test.outcome)[0]
			if result.Status != repo.Refused || result.Err == nil || result.Announcement != nil {
				t.Fatalf("got %+v, want it refused", result)
			}
			if text := result.Err.Error(); !strings.Contains(text, test.says) || strings.Contains(text, "first") || strings.Contains(text, "second") {
				t.Errorf("the error says %q", text)
			}
			d.exec(t, "DELETE FROM component WHERE appid = 'wx2' AND token_time IS NULL") // seen, and nothing more
			if after := d.dump(t); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
	t.Run("a code of another component that was made at the same time", func(t *testing.T) {
		d.save(t, failed("wx6", at(2), 1))
		if result := d.save(t, succeeded("wx6", at(2), "second"))[0]; result.Status != repo.Refused || !errors.Is(result.Err, repo.ErrKnownCode) {
			t.Errorf("got %+v", result)
		}
	})
	t.Run("the outcomes beside it are saved", func(t *testing.T) {
		results := d.save(t, succeeded("wx3", at(3), "second"), succeeded("wx4", at(4), "x"), succeeded("wx5", at(5), "x"), bad("?", at(6)), succeeded("wx7", at(7), ""))
		if got := statuses(results); !slices.Equal(got, []repo.Status{repo.Refused, repo.Saved, repo.Refused, repo.Refused, repo.Refused}) {
			t.Error(got)
		}
		if c := d.component(t, "wx7"); c.AppID != "" {
			t.Errorf("what is impossible leaves %+v", c)
		}
	})
	t.Run("what is impossible needs no database", func(t *testing.T) {
		d.faults.Operations()
		d.save(t, succeeded("wx7", at(7), ""))
		if got := d.faults.Operations(); len(got) > 0 {
			t.Errorf("it takes %v", got)
		}
	})
}

// What is one more than this is in TestSaveRefuses.
func TestSaveTakesTheLargestValues(t *testing.T) {
	d := newDatabase(t)
	id := strings.Repeat("訪", 350)
	d.save(t, failed("wx1", at(1), math.MaxInt32, func(o *repo.Outcome) { o.FailureID = id }))
	if waiting := d.outbox(t); len(waiting) != 1 || waiting[0].MessageID != id {
		t.Errorf("waiting are %+v", waiting)
	}
	result := d.save(t, succeeded("wx1", at(2), "a", func(o *repo.Outcome) {
		o.MinRevision, o.Cause, o.TraceParent = math.MaxInt64-1, preauth.Cause(strings.Repeat("c", 16)), strings.Repeat("0", 64)
		o.Token.Position.Stream = strings.Repeat("訪", 255)
	}))[0]
	if result.Status != repo.Saved || result.Revision != math.MaxInt64 || d.component(t, "wx1").Revision != math.MaxInt64 {
		t.Errorf("got %+v", result)
	}
	// The end of a token may be unknown.
	result = d.save(t, succeeded("wx2", at(2), "b", func(o *repo.Outcome) { o.Token.ExpiresAt = time.Time{} }))[0]
	if result.Status != repo.Saved || !d.component(t, "wx2").Token.ExpiresAt.IsZero() {
		t.Errorf("got %+v", result)
	}
	for i, due := range []time.Time{
		time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(10000, 1, 1, 7, 59, 59, 999999000, time.FixedZone("UTC+8", 8*60*60)),
	} {
		appid := fmt.Sprint("wxdue", i)
		if d.save(t, failed(appid, at(3), 1, func(o *repo.Outcome) { o.DueAt = due })); !d.component(t, appid).DueAt.Equal(due) {
			t.Errorf("due at %v, wanted %v", d.component(t, appid).DueAt, due)
		}
	}
}

func TestSavedAgainAfterANewerOne(t *testing.T) {
	// Given a renewal whose answer was lost, and a newer renewal that has replaced it since,
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"))
	d.save(t, renewed("wx1", at(1), "b"))
	d.save(t, renewed("wx1", at(1), "c"))
	// when it is saved again,
	result := d.save(t, renewed("wx1", at(1), "b"))[0]
	// then it is superseded.
	if result.Status != repo.Superseded || result.Revision != 3 || result.Announcement != nil {
		t.Errorf("got %+v", result)
	}
	if c := d.component(t, "wx1"); c.Current.PreAuthCode.Reveal() != "c" {
		t.Errorf("got %+v", c)
	}
}

func TestCodesAreComparedByteForByte(t *testing.T) {
	d := newDatabase(t)
	every := make([]byte, 512)
	for i := range every {
		every[i] = byte(i)
	}
	codes := []string{"code", "Code", "code ", "cod\u00e9", "code\x00", `'";--\`, string(every), strings.Repeat("x", 512), strings.Repeat("x", 511)}
	for i, code := range codes {
		appid := fmt.Sprint("wx", i)
		if result := d.save(t, succeeded(appid, at(uint64(i+1)), code))[0]; result.Status != repo.Saved {
			t.Errorf("code %d: %+v", i, result)
		}
		if got := d.component(t, appid).Current; got == nil || got.PreAuthCode.Reveal() != code {
			t.Errorf("code %d comes back as another", i)
		}
	}
}

func TestComponentsAreComparedByteForByte(t *testing.T) {
	d := newDatabase(t)
	for i, appid := range []string{"wxa", "wxA", "WXA", "wx-", "wx_", strings.Repeat("w", 64)} {
		d.save(t, succeeded(appid, at(uint64(i+1)), fmt.Sprint("code", i)))
		if c := d.component(t, appid); c.AppID != appid || c.Revision != 1 {
			t.Errorf("%s: %+v", appid, c)
		}
	}
}

func TestTheDatabaseItselfKeepsOneCurrentCode(t *testing.T) {
	// Given a component with a current and a retired code,
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "old"))
	d.save(t, succeeded("wx1", at(2), "current"))
	// when something bypasses the repo to make another one current,
	for name, statement := range map[string]string{
		"by an insert": `INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at)
			SELECT appid, 9, 'third', cause, token_fingerprint, issued_at, expires_at FROM pre_auth_code WHERE code = 'old'`,
		"by an update": `UPDATE pre_auth_code SET deleted_at = NULL WHERE code = 'old'`,
	} {
		_, err := d.raw.ExecContext(t.Context(), statement)
		// then the server refuses.
		if refused, ok := errors.AsType[*mysql.MySQLError](err); !ok || refused.Number != 1062 {
			t.Errorf("%s: %v", name, err)
		}
	}
	// And a code exists once in the whole table.
	_, err := d.raw.ExecContext(t.Context(), `INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at)
		SELECT 'wx2', 1, code, cause, token_fingerprint, issued_at, expires_at FROM pre_auth_code WHERE code = 'old'`)
	if refused, ok := errors.AsType[*mysql.MySQLError](err); !ok || refused.Number != 1062 {
		t.Error(err)
	}
}

func TestALoneEventIsCheap(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"))
	d.faults.Operations()
	d.save(t, succeeded("wx1", at(2), "b"))
	if got := fmt.Sprint(d.faults.Operations()); got != "[begin lock component retire code announce commit]" {
		t.Errorf("a code that replaces one takes %s", got)
	}
	d.save(t, succeeded("wx2", at(1), "d"))
	if got := fmt.Sprint(d.faults.Operations()); got != "[begin lock create lock component code announce commit]" {
		t.Errorf("the first code of a component takes %s", got)
	}
	d.save(t, succeeded("wx1", at(1), "c"))
	if got := fmt.Sprint(d.faults.Operations()); got != "[begin lock commit]" {
		t.Errorf("a late event takes %s", got)
	}
}

// A rolled-back stream gives a smaller sequence to a newer event, and a clock that was set back
// gives it an earlier time. In both cases a late outcome, because MySQL was down for example,
// changes nothing.
func TestALateOutcomeOfAStreamThatWentBackChangesNothing(t *testing.T) {
	for name, newer := range map[string]repo.Position{
		"rolled back":    later(at(2), 2*time.Minute),
		"clock put back": later(at(10), -2*time.Minute),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			older := at(9)
			d.save(t, succeeded("wx1", at(8), "a"))
			// They were worked on one after the other, by the service's clock.
			worked := func(after time.Duration) func(*repo.Outcome) {
				return func(o *repo.Outcome) { o.At = start.Add(after) }
			}
			if result := d.save(t, succeeded("wx1", newer, "c", worked(3*time.Minute)))[0]; result.Status != repo.Saved || result.Revision != 2 {
				t.Fatalf("the newer one: %+v", result)
			}
			if result := d.save(t, succeeded("wx1", older, "b", worked(time.Minute)))[0]; result.Status != repo.Superseded {
				t.Errorf("the late one: %+v", result)
			}
			if c := d.component(t, "wx1"); c.Current.PreAuthCode.Reveal() != "c" || c.Token.Position != newer {
				t.Errorf("known is %+v", c)
			}
			// The same holds within one transaction.
			d.clear(t)
			d.save(t, succeeded("wx1", at(8), "a"), succeeded("wx1", newer, "c", worked(3*time.Minute)), succeeded("wx1", older, "b", worked(time.Minute)))
			if c := d.component(t, "wx1"); c.Current.PreAuthCode.Reveal() != "c" {
				t.Errorf("after one transaction, known is %+v", c)
			}
		})
	}
}

// The replicas' clocks may differ by half a minute.
func TestAnOutcomeOfAStreamThatWentBackCountsWhenItMayBeNewer(t *testing.T) {
	last := start.Add(3 * time.Minute)
	for name, test := range map[string]struct {
		at   time.Time
		want repo.Status
	}{
		"half a minute older": {last.Add(-30 * time.Second), repo.Saved},
		"older than that":     {last.Add(-30*time.Second - time.Microsecond), repo.Superseded},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.save(t, succeeded("wx1", at(9), "a", func(o *repo.Outcome) { o.At = last }))
			late := succeeded("wx1", later(at(2), 2*time.Minute), "b", func(o *repo.Outcome) { o.At = test.at })
			if result := d.save(t, late)[0]; result.Status != test.want {
				t.Errorf("got %+v, wanted %s", result, test.want)
			}
		})
	}
}

// The database was restored from a backup: others know a revision that is not below that of the
// current code. Saved again, the code is announced above it, once.
func TestTheCurrentCodeIsAnnouncedAboveKnownRevisions(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"))
	again := func(known uint64) repo.Outcome {
		return succeeded("wx1", at(1), "a", func(o *repo.Outcome) { o.MinRevision, o.TraceParent = known, traceParent })
	}
	for _, test := range []struct{ known, want uint64 }{{0, 1}, {1, 2}, {1, 2}, {41, 42}, {41, 42}} {
		result := d.save(t, again(test.known))[0]
		if result.Status != repo.Saved || result.Revision != test.want || result.Announcement == nil || result.Announcement.Update.Revision != test.want {
			t.Fatalf("known is %d: %+v", test.known, result)
		}
		if c := d.component(t, "wx1"); c.Revision != test.want || c.Current.Revision != test.want {
			t.Errorf("known is %d: %+v, current %+v", test.known, c, c.Current)
		}
		waiting := slices.DeleteFunc(d.outbox(t), func(a repo.Announcement) bool { return a.Update == nil })
		if len(waiting) != 1 || waiting[0].MessageID != result.Announcement.MessageID || test.want > 1 && waiting[0].TraceParent != traceParent {
			t.Errorf("known is %d: %+v waits", test.known, waiting)
		}
	}
	// A code that replaces it in the same call has a revision of its own.
	results := d.save(t, again(50), succeeded("wx1", at(2), "b"))
	if results[0].Revision != 51 || results[0].Announcement != nil || results[1].Revision != 52 || results[1].Announcement.MessageID != "wx1.52" {
		t.Errorf("got %+v", results)
	}
	if r, err := d.Resolve(within(t), preauth.NewSecret("a")); err != nil || r.Revision != 51 {
		t.Errorf("resolved: %+v, %v", r, err)
	}
	// Of a code that is saved twice in one call, new or not, only the higher revision is announced.
	for _, known := range []uint64{60, 70} {
		outcome := succeeded("wx1", at(3), "c")
		higher := outcome
		higher.MinRevision = known
		results := d.save(t, outcome, higher)
		if results[0].Announcement != nil || results[1].Revision != known+1 || results[1].Announcement.Update.Revision != known+1 {
			t.Errorf("got %+v", results)
		}
		if waiting := d.outbox(t); waiting[len(waiting)-1].MessageID != fmt.Sprint("wx1.", known+1) || known == 60 && waiting[len(waiting)-2].MessageID != "wx1.52" {
			t.Errorf("waiting are %+v", waiting)
		}
		d.consistent(t)
	}
	d.consistent(t)
}
