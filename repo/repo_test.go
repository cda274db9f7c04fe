package repo_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"

	"preauth"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/repo"
	"preauth/repo/repotest"
)

// server is shared by the package's tests. Each has a database of its own.
var server *mysqlserver.Server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		server, err = mysqlserver.Start(context.Background(), mysqlserver.TestOptions())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := leak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// database is one test's own, with the schema applied.
type database struct {
	*repo.Repo
	faults *repotest.Faults
	dsn    string
	// raw bypasses the repo. Its times are text.
	raw *sqlx.DB
}

func newDatabase(t testing.TB) *database {
	t.Helper()
	d := emptyDatabase(t)
	if err := d.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// emptyDatabase has no schema yet.
func emptyDatabase(t testing.TB) *database {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r < '0' || r > 'z' || r > '9' && r < 'A' {
			return '_'
		}
		return r
	}, strings.ToLower(t.Name()))
	if len(name) > 64 { // more than a database's name may have
		name = fmt.Sprintf("%s_%08x", name[:55], crc32.ChecksumIEEE([]byte(name)))
	}
	if err := server.DropDatabase(t.Context(), name); err != nil { // of a run before this one
		t.Fatal(err)
	}
	if err := server.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	d := &database{dsn: server.DSN(name)}
	d.Repo, d.faults = open(t, d.dsn)
	raw, err := sqlx.Open("mysql", d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	d.raw = raw
	return d
}

// open returns one more replica's view of a database.
func open(t testing.TB, dsn string) (*repo.Repo, *repotest.Faults) {
	t.Helper()
	r, faults, err := repotest.Open(dsn, 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, faults
}

// dump returns the contents of the tables, without ids and leases, which differ between equal runs.
func (d *database) dump(t testing.TB) string {
	t.Helper()
	var text strings.Builder
	for _, query := range []string{
		`SELECT appid, revision, token_stream, token_stream_created, token_sequence, token_time, HEX(token_fingerprint),
			token_expires_at, attempts, due_at, failure, created_at, updated_at FROM component ORDER BY appid`,
		`SELECT appid, revision, code, cause, HEX(token_fingerprint), issued_at, expires_at, deleted_at, slot,
			claim_id, reference, claimed_at, live_claim, authorizer_appid, authorized_at FROM pre_auth_code ORDER BY appid, revision, code`,
		`SELECT IF(authorized IS NULL, message_id, 'authorized'), appid, revision, failure, authorized, traceparent, created_at FROM outbox ORDER BY 1`,
	} {
		rows, err := d.raw.QueryxContext(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, err := rows.SliceScan()
			if err != nil {
				t.Fatal(err)
			}
			for _, value := range values {
				if b, ok := value.([]byte); ok {
					value = string(b)
				}
				fmt.Fprintf(&text, "%v | ", value)
			}
			text.WriteByte('\n')
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		text.WriteByte('\n')
	}
	return text.String()
}

// clear empties the tables.
func (d *database) clear(t testing.TB) {
	t.Helper()
	for _, table := range []string{"component", "pre_auth_code", "outbox"} {
		d.exec(t, "DELETE FROM "+table)
	}
}

func (d *database) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := d.raw.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func (d *database) count(t testing.TB, query string, args ...any) int {
	t.Helper()
	var n int
	if err := d.raw.GetContext(t.Context(), &n, query, args...); err != nil {
		t.Fatal(err)
	}
	return n
}

// save saves outcomes in one call. It may be called from any goroutine.
func (d *database) save(t testing.TB, outcomes ...repo.Outcome) []repo.Result {
	t.Helper()
	return save(t, d.Repo, outcomes...)
}

func save(t testing.TB, r *repo.Repo, outcomes ...repo.Outcome) []repo.Result {
	t.Helper()
	results, err := r.Save(within(t), outcomes)
	if err != nil || len(results) != len(outcomes) {
		t.Errorf("%d results for %d outcomes, %v", len(results), len(outcomes), err)
		return make([]repo.Result, len(outcomes))
	}
	return results
}

// component returns what is known of one component.
func (d *database) component(t testing.TB, appid string) repo.Component {
	t.Helper()
	known, err := d.Components(within(t), []string{appid})
	if err != nil {
		t.Fatal(err)
	}
	return known[appid]
}

// outbox returns all announcements that wait.
func (d *database) outbox(t testing.TB) []repo.Announcement {
	t.Helper()
	waiting, err := d.Outbox(within(t), start.AddDate(1, 0, 0), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	return waiting
}

// within bounds a test's waits.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start is the time of the tests by the service's clock. The server's clock does not matter.
var start = time.Date(2026, 7, 1, 12, 0, 0, 123456000, time.UTC)

// at returns the event with a sequence in the stream that all tests share. The stream took it that
// many seconds after start.
func at(sequence uint64) repo.Position {
	return repo.Position{
		Stream: "COMPONENT_TOKENS", StreamCreated: start.Add(-24 * time.Hour),
		Sequence: sequence, Time: start.Add(time.Duration(sequence) * time.Second),
	}
}

// token returns the token of an event. Each event announces a different one.
func token(p repo.Position) repo.Token {
	return repo.Token{
		Position:    p,
		Fingerprint: repo.FingerprintOf(preauth.NewSecret(fmt.Sprint("token ", p.StreamCreated, p.Sequence))),
		ExpiresAt:   p.Time.Add(2 * time.Hour),
	}
}

// succeeded is the outcome of an event: a code, which lives for 30 minutes.
func succeeded(appid string, p repo.Position, code string, change ...func(*repo.Outcome)) repo.Outcome {
	now := p.Time.Add(time.Second)
	return changed(repo.Outcome{
		AppID: appid, Token: token(p), Cause: preauth.CauseToken,
		Code:  &repo.Code{PreAuthCode: preauth.NewSecret(code), IssuedAt: now, ExpiresAt: now.Add(30 * time.Minute)},
		DueAt: now.Add(25 * time.Minute), At: now,
	}, change)
}

// renewed is the outcome of a renewal with the token of an event, 25 minutes after the event.
func renewed(appid string, p repo.Position, code string, change ...func(*repo.Outcome)) repo.Outcome {
	o := succeeded(appid, p, code)
	o.Cause = preauth.CauseRenewal
	o.At = o.DueAt
	o.Code.IssuedAt, o.Code.ExpiresAt = o.At, o.At.Add(30*time.Minute)
	o.DueAt = o.At.Add(25 * time.Minute)
	return changed(o, change)
}

// failed is the outcome of an event for which WeChat gave no code.
func failed(appid string, p repo.Position, attempt int, change ...func(*repo.Outcome)) repo.Outcome {
	now := p.Time.Add(time.Second)
	return changed(repo.Outcome{
		AppID: appid, Token: token(p), Cause: preauth.CauseToken,
		Failure: &preauth.Failure{
			AppID: appid, Class: preauth.ClassQuota, ErrCode: 45009, ErrMsg: "reach max api daily quota limit", RID: "6543-2100",
			Stream: p.Stream, StreamSequence: p.Sequence, Attempt: attempt, RetryAt: now.Add(30 * time.Minute), OccurredAt: now,
		},
		FailureID: fmt.Sprintf("failed.%s.%d.%d", p.Stream, p.Sequence, attempt),
		DueAt:     now.Add(30 * time.Minute), At: now,
	}, change)
}

// later is an event with the same sequence and a later time.
func later(p repo.Position, d time.Duration) repo.Position {
	p.Time = p.Time.Add(d)
	return p
}

// repeated is the outcome of an event that announces again the token which the code was made with.
func repeated(appid string, p repo.Position, of repo.Position) repo.Outcome {
	announced := token(of)
	announced.Position, announced.ExpiresAt = p, announced.ExpiresAt.Add(time.Minute)
	now := p.Time.Add(time.Second)
	return repo.Outcome{AppID: appid, Token: announced, Cause: preauth.CauseToken, At: now, DueAt: now.Add(20 * time.Minute)}
}

// bad is the outcome of an event that could not be parsed.
func bad(appid string, p repo.Position) repo.Outcome {
	return repo.Outcome{
		AppID: appid, At: p.Time.Add(time.Second), FailureID: fmt.Sprintf("failed.%s.%d.0", p.Stream, p.Sequence),
		Failure: &preauth.Failure{
			AppID: appid, Class: preauth.ClassBadEvent, ErrMsg: "the body is not JSON", Stream: p.Stream, StreamSequence: p.Sequence,
			OccurredAt: p.Time.Add(time.Second),
		},
	}
}

func changed(o repo.Outcome, change []func(*repo.Outcome)) repo.Outcome {
	for _, c := range change {
		c(&o)
	}
	return o
}

func statuses(results []repo.Result) []repo.Status {
	all := make([]repo.Status, len(results))
	for i, result := range results {
		all[i] = result.Status
	}
	return all
}

func countOf[T comparable](items []T, item T) int {
	return len(slices.DeleteFunc(slices.Clone(items), func(other T) bool { return other != item }))
}
