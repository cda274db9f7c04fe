package repo_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"preauth"
	"preauth/internal/mysqlserver"
	"preauth/repo"
)

// ownServer starts a server for one test, with more arguments, and a database on it. It has a user
// who may not do everything: init_connect and read_only pass over those who may.
func ownServer(t *testing.T, arguments ...string) *database {
	t.Helper()
	if os.Getenv(mysqlserver.EnvTestDSN) != "" || server.Engine() == mysqlserver.TiDB {
		t.Skip("it needs a server of its own, with arguments that TiDB does not take")
	}
	s := startServer(t, mysqlserver.Options{Arguments: arguments})
	if err := s.CreateDatabase(t.Context(), "preauth"); err != nil {
		t.Fatal(err)
	}
	raw, err := sqlx.Open("mysql", s.DSN("preauth"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	d := &database{raw: raw, dsn: "app:app@tcp(" + s.Addr() + ")/preauth"}
	d.exec(t, "CREATE USER app@'%' IDENTIFIED BY 'app'")
	d.exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON preauth.* TO app@'%'")
	d.Repo, d.faults = open(t, d.dsn)
	return d
}

// startServer starts a server of the engine that all tests use, for one test.
func startServer(t *testing.T, opts mysqlserver.Options) *mysqlserver.Server {
	t.Helper()
	opts.Engine = server.Engine()
	s, err := mysqlserver.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// sessionDefaults are what a server, or init_connect, may make of a session.
var sessionDefaults = map[string]string{
	"nothing":                      "",
	"autocommit off":               "autocommit = 0",
	"a chain of transactions":      "completion_type = 1",
	"a disconnect after COMMIT":    "completion_type = 2",
	"another client character set": "character_set_client = gbk",
	"results in latin1":            "character_set_results = latin1",
	"another collation":            "collation_connection = gbk_chinese_ci",
	"ANSI quotes":                  "sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
	"a lax mode":                   "sql_mode = ''",
	"another zone":                 "time_zone = '+08:00'",
	"no unique checks":             "unique_checks = 0",
	"few rows":                     "sql_select_limit = 1",
	"no wait for locks":            "innodb_lock_wait_timeout = 1",
}

// Whatever a session is by default, what the service is told that it committed is committed, once,
// as it was given.
func TestSessionsHoldWhatThePromisesRestOn(t *testing.T) {
	d := ownServer(t)
	if err := d.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	isolation := "transaction_isolation"
	if server.Engine() == mysqlserver.MariaDB {
		isolation = "tx_isolation"
	}
	defaults := map[string]string{"serializable": isolation + " = 'SERIALIZABLE'", "read-only": strings.Replace(isolation, "isolation", "read_only", 1) + " = 1"}
	initConnect := map[string]string{"a transaction": "START TRANSACTION", "a read-only session": "SET SESSION TRANSACTION READ ONLY", "gbk": "SET NAMES gbk"}
	for name, assignment := range sessionDefaults {
		defaults[name] = assignment
		if assignment != "" {
			initConnect[name] = "SET " + assignment
		}
	}
	for name, assignment := range defaults {
		t.Run("the server's default: "+name, func(t *testing.T) {
			if assignment == "" {
				d.keepsPromises(t)
				return
			}
			variable, _, _ := strings.Cut(assignment, " ")
			d.exec(t, "SET GLOBAL "+assignment)
			defer d.exec(t, "SET GLOBAL "+variable+" = DEFAULT")
			d.keepsPromises(t)
		})
	}
	for name, statement := range initConnect {
		t.Run("init_connect: "+name, func(t *testing.T) {
			d.exec(t, "SET GLOBAL init_connect = ?", statement)
			defer d.exec(t, "SET GLOBAL init_connect = ''")
			d.keepsPromises(t)
		})
	}
}

// keepsPromises uses the database by new connections, with each kind of DSN, and looks at what is
// left by others.
func (d *database) keepsPromises(t *testing.T) {
	t.Helper()
	for _, parameters := range []string{"", "?parseTime=true&loc=UTC&charset=utf8mb4", "?compress=true&readTimeout=5s", "?tls=preferred"} {
		d.clear(t)
		r, err := repo.Open(d.dsn+parameters, 4)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(within(t)); err != nil {
			t.Errorf("%q: %v", parameters, err)
		}
		p := at(1)
		p.Stream = "令牌🙂"
		save(t, r, succeeded("wx1", p, "a"), failed("wx2", p, 1, func(o *repo.Outcome) { o.FailureID = "令牌🙂"; o.Failure.ErrMsg = "频率🙂" }))
		save(t, r, succeeded("wx1", later(p, 2*time.Minute), "b"))
		if err := r.AddSpares(within(t), sparesOf("s", "t", "u")); err != nil {
			t.Errorf("%q: %v", parameters, err)
		}
		// A claim id that ends a string literal where the server reads the client's bytes as GBK.
		const hostile = "中', 'r', '2026-01-01'); DROP TABLE outbox; -- "
		first, err1 := r.Claim(within(t), request(hostile, start))
		_, err2 := r.InsertClaim(within(t), request("new "+hostile, start), fresh("n", start))
		if err1 != nil || err2 != nil {
			t.Errorf("%q: %v, %v", parameters, err1, err2)
		}
		// Closing rolls back what was not committed, as kill -9 does.
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		after, err := repo.Open(d.dsn+parameters, 4)
		if err != nil {
			t.Fatal(err)
		}
		defer after.Close()
		second, err := after.Claim(within(t), request("visitor-B", start))
		if err != nil || second.PreAuthCode.Equal(first.PreAuthCode) {
			t.Errorf("%q: B has A's code, or none: %v", parameters, err)
		}
		if c, err := after.Resolve(within(t), first.PreAuthCode); err != nil || !same(claimOf(c, first.PreAuthCode), first) || c.ClaimID != hostile {
			t.Errorf("%q: A's code is resolved to %+v, %v", parameters, c, err)
		}
		current, err := after.ListCurrent(within(t), "", 10)
		known, err2 := after.Components(within(t), []string{"wx1", "wx2"})
		if err != nil || err2 != nil || len(current) != 1 || current[0].Revision != 2 || len(known) != 2 || known["wx1"].Token.Position.Stream != p.Stream || known["wx2"].Failure.ErrMsg != "频率🙂" {
			t.Errorf("%q: current are %+v, known %+v, %v, %v", parameters, current, known, err, err2)
		}
		if waiting, err := after.Outbox(within(t), start.Add(time.Hour), 10); err != nil || len(waiting) != 3 {
			t.Errorf("%q: waiting are %+v, %v", parameters, waiting, err)
		}
		if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE issued_at = '2026-07-01 12:00:02.123456' AND code = 'a'"); n != 1 {
			t.Errorf("%q: the time of a code is not stored in UTC", parameters)
		}
		if _, err := after.Save(within(t), []repo.Outcome{succeeded("wx9", at(1), strings.Repeat("x", 600))}); err != nil {
			t.Errorf("%q: %v", parameters, err)
		}
	}
}

// A session that does not hold what was set is not used.
func TestASessionThatHoldsSomethingElse(t *testing.T) {
	d := ownServer(t, "--maximum-wait-timeout=10")
	for what, call := range map[string]func(context.Context) error{
		"Check": d.Check, "ApplySchema": d.ApplySchema,
		"Resolve": func(ctx context.Context) error { _, err := d.Resolve(ctx, preauth.NewSecret("x")); return err },
	} {
		if err := call(within(t)); err == nil || !strings.Contains(err.Error(), `the session's wait_timeout is "10"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := d.count(t, "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'preauth'"); n != 0 {
		t.Errorf("%d tables were created", n)
	}
}
