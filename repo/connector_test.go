package repo_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"preauth/repo"
	"preauth/repo/repotest"
)

func TestTimesComeBackToTheMicrosecondInUTC(t *testing.T) {
	d := newDatabase(t)
	// Given times in another zone, finer than what is stored, at the end of a second, and at both ends
	// of summer time,
	zone := time.FixedZone("UTC+8", 8*60*60)
	for i, given := range []time.Time{
		time.Date(2026, 12, 31, 23, 59, 59, 999999999, zone),
		time.Date(2026, 3, 29, 1, 30, 0, 1999, time.UTC),
		time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC),
		time.Date(2026, 2, 28, 23, 59, 59, 999999500, time.UTC),
	} {
		p := repo.Position{Stream: "S", StreamCreated: given, Sequence: uint64(i + 1), Time: given}
		o := repo.Outcome{
			AppID: "wx1", Token: repo.Token{Position: p, ExpiresAt: given}, Cause: "token", At: given, DueAt: given, MinRevision: uint64(i),
			Code: succeeded("", p, string(rune('a'+i))).Code,
		}
		o.Code.IssuedAt, o.Code.ExpiresAt = given, given
		// when they are saved and read,
		if result := d.save(t, o)[0]; result.Status != repo.Saved {
			t.Fatalf("%v: %+v", given, result)
		}
		c, waiting := d.component(t, "wx1"), d.outbox(t)
		d.clear(t)
		// then they are cut, never rounded, and in UTC.
		want := given.UTC().Truncate(time.Microsecond)
		for name, got := range map[string]time.Time{
			"StreamCreated": c.Token.Position.StreamCreated, "Time": c.Token.Position.Time, "Token.ExpiresAt": c.Token.ExpiresAt,
			"DueAt": c.DueAt, "IssuedAt": c.Current.IssuedAt, "ExpiresAt": c.Current.ExpiresAt, "CreatedAt": waiting[0].CreatedAt,
			"Update.IssuedAt": waiting[0].Update.IssuedAt,
		} {
			if got != want {
				t.Errorf("%s of %v came back as %v", name, given, got)
			}
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	if _, err := repo.Open("user:hunter2@tcp(db)", 1); !says(err, "user:password@tcp(host:3306)/database") || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestUnavailable(t *testing.T) {
	d := newDatabase(t)
	for _, number := range []uint16{1021, 1040, 1053, 1114, 1205, 1213, 1290, 1792, 1836, 1927, 2006, 2013, 8002, 8022, 9001, 9007} {
		fault := repotest.Answered(number, "the server's words")
		d.faults.Script("begin", fault, fault, fault, fault, fault, fault)
		_, err := d.Save(t.Context(), []repo.Outcome{succeeded("wx1", at(1), "a")})
		if server, ok := errors.AsType[*mysql.MySQLError](err); !errors.Is(err, repo.ErrUnavailable) || !ok || server.Number != number {
			t.Errorf("%d: %v", number, err)
		}
		if d.faults.Unmet() > 0 {
			t.Errorf("%d: it gave up early", number)
		}
		d.faults.Reset()
	}
	t.Run("a lock that TiDB gives up on", func(t *testing.T) {
		d.faults.Script("lock", repotest.Answered(1105, "pessimistic lock retry limit reached"))
		d.save(t, succeeded("wx1", at(1), "a"))
		d.faults.Script("lock", repotest.Answered(1105, "something else that has no number"))
		if _, err := d.Save(t.Context(), []repo.Outcome{succeeded("wx1", at(2), "b")}); err == nil || errors.Is(err, repo.ErrUnavailable) {
			t.Error(err)
		}
	})

	t.Run("nobody listens", func(t *testing.T) {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := free.Addr().String()
		free.Close()
		r, err := repo.Open("user:hunter2@tcp("+address+")/db", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for name, err := range map[string]error{
			"Check":       r.Check(t.Context()),
			"ApplySchema": r.ApplySchema(t.Context()),
		} {
			if !errors.Is(err, repo.ErrUnavailable) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("somebody listens and says nothing", func(t *testing.T) {
		mute, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer mute.Close()
		r, err := repo.Open("user:x@tcp("+mute.Addr().String()+")/db", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := r.Check(ctx); !errors.Is(err, repo.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("and the DSN says how long to wait", func(t *testing.T) {
		mute, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer mute.Close()
		r, err := repo.Open("user:x@tcp("+mute.Addr().String()+")/db?readTimeout=20ms", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		started := time.Now()
		if err := r.Check(t.Context()); !errors.Is(err, repo.ErrUnavailable) || time.Since(started) > 10*time.Second {
			t.Errorf("after %v: %v", time.Since(started), err)
		}
	})
	t.Run("the context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		d.faults.Script("commit", repotest.Fault{After: cancel, Err: mysql.ErrInvalidConn})
		_, err := d.Save(ctx, []repo.Outcome{succeeded("wx2", at(1), "b")})
		if !errors.Is(err, repo.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		// It was committed all the same, which the same call finds out.
		if result := d.save(t, succeeded("wx2", at(1), "b"))[0]; result.Status != repo.Saved || result.Revision != 1 {
			t.Errorf("got %+v", result)
		}
	})
}

func TestCheckSaysWhatToDo(t *testing.T) {
	newDatabase(t) // the keys of another database do not count
	for name, test := range map[string]struct{ damage, says string }{
		"no table":      {"DROP TABLE outbox", "the table outbox is missing (migration 1: components, codes and announcements): run `preauth schema apply`"},
		"no unique key": {"ALTER TABLE pre_auth_code DROP INDEX code", "`preauth schema print`"},
		"no column":     {"ALTER TABLE component DROP COLUMN attempts", "`preauth schema print`"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			if err := d.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.exec(t, test.damage)
			if err := d.Check(t.Context()); err == nil || errors.Is(err, repo.ErrUnavailable) || !strings.Contains(err.Error(), test.says) {
				t.Error(err)
			}
		})
	}
	t.Run("no table, and the server is away", func(t *testing.T) {
		d := emptyDatabase(t)
		d.faults.Script("found", slices.Repeat([]repotest.Fault{repotest.NotApplied}, 6)...)
		if err := d.Check(t.Context()); !errors.Is(err, repo.ErrUnavailable) {
			t.Error(err)
		}
	})
	t.Run("no table, and another replica creates it", func(t *testing.T) {
		d := emptyDatabase(t)
		other, _ := open(t, d.dsn)
		d.faults.Script("check", repotest.Fault{After: func() {
			if err := other.ApplySchema(t.Context()); err != nil {
				t.Error(err)
			}
		}})
		if err := d.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("no database", func(t *testing.T) {
		r, err := repo.Open(server.DSN("never_created"), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := r.Check(t.Context()); err == nil || errors.Is(err, repo.ErrUnavailable) || !strings.Contains(err.Error(), "never_created") {
			t.Error(err)
		}
	})
}

func TestErrorsHoldNoCode(t *testing.T) {
	const code = "preauthcode@@@Zm9yLXlvdXItZXllcy1vbmx5"
	d := newDatabase(t)
	check := func(t *testing.T, err error) {
		t.Helper()
		if err == nil || errors.Is(err, repo.ErrUnavailable) {
			t.Fatalf("err = %v, want one that does not pass by itself", err)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), code[:20]) {
				t.Errorf("the error says %v", e)
			}
		}
		if server, ok := errors.AsType[*mysql.MySQLError](err); ok && strings.Contains(server.Message, code[:20]) {
			t.Errorf("the error wraps %v", server)
		}
	}
	t.Run("a unique key that something past the repo stands in", func(t *testing.T) {
		d.exec(t, `INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at)
			VALUES ('wx1', 1, 'x', '', '', '2026-01-01', '2026-01-01')`)
		d.exec(t, "INSERT INTO component (appid, created_at, updated_at) VALUES ('wx2', '2026-01-01', '2026-01-01')")
		d.exec(t, `INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at, deleted_at)
			VALUES ('wx2', 1, 'y', '', '', '2026-01-01', '2026-01-01', '2026-01-01')`)
		d.save(t, succeeded("wx2", at(1), "z"))
		// The retired one has the slot that the current one is to move to.
		_, err := d.Save(t.Context(), []repo.Outcome{succeeded("wx2", at(2), code)})
		check(t, err)
	})
	for name, answer := range map[string]repotest.Fault{
		"a statement that the server does not understand": repotest.Answered(1064, "syntax to use near '"+code+"' at line 1"),
		"a duplicate":    repotest.Answered(1062, "Duplicate entry '"+code+"' for key 'code'"),
		"a wrong string": repotest.Answered(1366, "Incorrect string value: '"+code+"'"),
	} {
		t.Run(name, func(t *testing.T) {
			d.faults.Script("code", answer, answer, answer, answer, answer, answer)
			_, err := d.Save(t.Context(), []repo.Outcome{succeeded("wx3", at(1), code)})
			check(t, err)
			d.faults.Reset()
		})
	}
}

func TestNoArgumentReachesIntoAStatement(t *testing.T) {
	d := newDatabase(t)
	for i, hostile := range []string{
		`'; DELETE FROM component; -- `, `\'; DELETE FROM component; -- `, `"; DELETE FROM component; # `, "\x00'; DELETE FROM component; /*", `\`, `''`, `:appid ? %s`,
	} {
		appid, sequence := fmt.Sprint("wx", i), uint64(i*10)
		stream := func(o *repo.Outcome) { o.Token.Position.Stream = "stream " + hostile }
		d.save(t, succeeded(appid, at(sequence+1), "first "+hostile, stream))
		d.save(t, succeeded(appid, at(sequence+2), "second "+hostile, stream))
		d.save(t, failed(appid, at(sequence+3), 1, stream, func(o *repo.Outcome) { o.Failure.ErrMsg = hostile }))
		c := d.component(t, appid)
		if got := c.Current.PreAuthCode.Reveal(); got != "second "+hostile || c.Failure == nil || c.Failure.ErrMsg != hostile {
			t.Errorf("%q came back as %q and %+v", hostile, got, c.Failure)
		}
		if err := d.AddSpares(within(t), []repo.Spare{spare("spare "+hostile, start, func(s *repo.Spare) { s.AppID = appid })}); err != nil {
			t.Fatal(err)
		}
		claimed, err := d.Claim(within(t), request("visitor", start, func(r *repo.ClaimRequest) { r.AppID, r.Reference = appid, hostile }))
		if err != nil || claimed.PreAuthCode.Reveal() != "spare "+hostile || claimed.Reference != hostile {
			t.Errorf("%q is claimed as %q with %q: %v", hostile, claimed.PreAuthCode.Reveal(), claimed.Reference, err)
		}
		if n := d.count(t, "SELECT COUNT(*) FROM component"); n != i+1 {
			t.Fatalf("after %q there are %d components", hostile, n)
		}
	}
}
