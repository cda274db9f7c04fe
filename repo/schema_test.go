package repo_test

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"preauth"
	"preauth/internal/mysqlserver"
	"preauth/repo"
	"preauth/repo/repotest"
)

// oldSchema makes the tables of the release that knew no spent codes, with a current code, a spare
// and announcements of both kinds in them.
func oldSchema(t *testing.T) *database {
	t.Helper()
	schema, err := os.ReadFile("testdata/schema_without_spent_codes.sql")
	if err != nil {
		t.Fatal(err)
	}
	d := emptyDatabase(t)
	for statement := range strings.SplitSeq(strings.TrimSpace(string(schema)), ";\n") {
		d.exec(t, statement)
	}
	d.exec(t, `INSERT INTO component (appid, revision, created_at, updated_at) VALUES ('wx1', 3, '2026-07-01', '2026-07-01')`)
	d.exec(t, `INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at) VALUES
		('wx1', 3, 'a', 'token', '', '2026-07-01 12:00', '2026-07-01 12:30'), ('wx1', NULL, 's', 'spare', '', '2026-07-01 12:00', '2026-07-01 12:30')`)
	d.exec(t, `INSERT INTO outbox (message_id, appid, revision, failure, created_at) VALUES
		('wx1.3', 'wx1', 3, NULL, '2026-07-01 12:00'), ('failed.1', 'wx1', NULL, '{"component_appid":"wx1","class":"quota"}', '2026-07-01 12:00')`)
	return d
}

// tables returns how the tables are made, without the texts about their columns.
func (d *database) tables(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, query := range []string{
		`SELECT CONCAT_WS(' ', table_name, ordinal_position, column_name, column_type, is_nullable, collation_name, extra, column_default)
			FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position`,
		`SELECT CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name) FROM information_schema.statistics
			WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index`,
		`SELECT CONCAT_WS(' ', table_name, constraint_name, constraint_type) FROM information_schema.table_constraints
			WHERE table_schema = DATABASE() ORDER BY table_name, constraint_name`,
	} {
		var lines []string
		if err := d.raw.SelectContext(t.Context(), &lines, query); err != nil {
			t.Fatal(err)
		}
		text.WriteString(strings.Join(lines, "\n") + "\n")
	}
	return text.String()
}

func TestTheTablesOfTheReleaseWithoutSpentCodes(t *testing.T) {
	// Given tables of the release before, which say what to do,
	d := oldSchema(t)
	if err := d.Check(within(t)); !says(err, "`preauth schema apply`") {
		t.Errorf("err = %v", err)
	}
	// when several replicas apply the schema at once,
	var applying sync.WaitGroup
	begin := make(chan struct{})
	for range 4 {
		other, _ := open(t, d.dsn)
		applying.Go(func() {
			<-begin
			if err := other.ApplySchema(within(t)); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	applying.Wait()
	// then the tables are those of a new database,
	if err := d.Check(within(t)); err != nil {
		t.Error(err)
	}
	t.Run("new", func(t *testing.T) {
		if got, want := d.tables(t), newDatabase(t).tables(t); got != want {
			t.Errorf("the tables are:\n%s\nwanted:\n%s", got, want)
		}
	})
	// what was in them is there,
	now := start.Add(time.Minute)
	if waiting := d.outbox(t); len(waiting) != 2 || waiting[0].Failure == nil || waiting[1].Update == nil || waiting[1].Update.Spent {
		t.Errorf("waiting are %+v", waiting)
	}
	if c := d.component(t, "wx1"); c.Current == nil || c.Current.PreAuthCode.Reveal() != "a" || c.Current.IsSpent() {
		t.Errorf("component: %+v", c)
	}
	// and codes can be spent.
	for _, code := range []string{"a", "s"} {
		if spent := d.spend(t, authorization("wx1", code, now)); spent.Status != repo.Saved || spent.Revision != 4 {
			t.Errorf("%s: %+v", code, spent)
		}
	}
	// Applied again, it changes nothing.
	d.faults.Operations()
	if err := d.ApplySchema(within(t)); err != nil {
		t.Error(err)
	}
	if n, want := countOf(d.faults.Operations(), "schema"), strings.Count(preauth.Schema, "CREATE TABLE"); n != want {
		t.Errorf("%d statements, wanted %d", n, want)
	}
}

// An upgrade that stops anywhere goes on when it is repeated.
func TestAnUpgradeThatStopsGoesOn(t *testing.T) {
	newTables := newDatabase(t).tables(t)
	creates := strings.Count(preauth.Schema, "CREATE TABLE")
	for step := range 8 {
		t.Run(string(rune('1'+step)), func(t *testing.T) {
			t.Parallel()
			if step >= 4 && server.Engine() == mysqlserver.TiDB {
				t.Skip("it keeps no constraints")
			}
			for how, fault := range map[string]repotest.Fault{"not applied": repotest.NotApplied, "applied": repotest.Applied} {
				d := oldSchema(t)
				d.faults.Script("schema", slices.Concat(make([]repotest.Fault, creates+step), repeated6(fault))...)
				if err := d.ApplySchema(within(t)); err == nil {
					t.Fatalf("%s: it did not stop", how)
				}
				d.faults.Reset()
				if err := d.ApplySchema(within(t)); err != nil {
					t.Fatal(err)
				}
				if got := d.tables(t); got != newTables {
					t.Errorf("%s: the tables are:\n%s\nwanted:\n%s", how, got, newTables)
				}
			}
		})
	}
}
