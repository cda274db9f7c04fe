package repo_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// current is the newest version of the schema.
const current = 5

// released are the versions of the schema whose tables are in testdata.
var released = []int{1, 3, 4}

// rows are what tables of each version can hold: a current code, a spare, a claimed code and
// announcements of both kinds.
var rows = []string{
	`INSERT INTO component (appid, revision, created_at, updated_at) VALUES ('wx1', 3, '2026-07-01', '2026-07-01')`,
	`INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at) VALUES
		('wx1', 3, 'a', 'token', '', '2026-07-01 12:00', '2026-07-01 12:30'), ('wx1', NULL, 's', 'spare', '', '2026-07-01 12:00', '2026-07-01 12:30')`,
	`INSERT INTO pre_auth_code (appid, code, cause, token_fingerprint, issued_at, expires_at, claim_id, reference, claimed_at) VALUES
		('wx1', 'c', 'claim', '', '2026-07-01 12:00', '2026-07-01 12:30', 'visitor', 'order', '2026-07-01 12:01')`,
	`INSERT INTO outbox (message_id, appid, revision, failure, created_at) VALUES
		('wx1.3', 'wx1', 3, NULL, '2026-07-01 12:00'), ('failed.1', 'wx1', NULL, '{"component_appid":"wx1","class":"quota"}', '2026-07-01 12:00')`,
}

// databaseOf has the tables of a version of the schema with rows in them. Version 0 has neither.
func databaseOf(t *testing.T, version int) *database {
	t.Helper()
	d := emptyDatabase(t)
	if version == 0 {
		return d
	}
	schema, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("schema_%d.sql", version)))
	if err != nil {
		t.Fatal(err)
	}
	for statement := range strings.SplitSeq(strings.TrimSpace(string(schema)), ";\n") {
		d.exec(t, statement)
	}
	for _, statement := range rows {
		d.exec(t, statement)
	}
	return d
}

// tables returns how the tables are made, without the texts about their columns.
func (d *database) tables(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, query := range []string{
		`SELECT CONCAT_WS(' ', table_name, engine, row_format, table_collation) FROM information_schema.tables
			WHERE table_schema = DATABASE() ORDER BY table_name`,
		`SELECT CONCAT_WS(' ', table_name, ordinal_position, column_name, column_type, is_nullable, collation_name, extra, column_default, generation_expression)
			FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position`,
		`SELECT CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name, non_unique) FROM information_schema.statistics
			WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index`,
		`SELECT CONCAT_WS(' ', table_name, constraint_name, constraint_type) FROM information_schema.table_constraints
			WHERE table_schema = DATABASE() ORDER BY table_name, constraint_name`,
		`SELECT CONCAT_WS(' ', constraint_name, check_clause) FROM information_schema.check_constraints
			WHERE constraint_schema = DATABASE() ORDER BY constraint_name`,
	} {
		var lines []string
		if err := d.raw.SelectContext(t.Context(), &lines, query); err != nil {
			t.Fatal(err)
		}
		text.WriteString(strings.Join(lines, "\n") + "\n")
	}
	// MySQL notes the character set of texts in a constraint, which a change of the table changes.
	return strings.NewReplacer(`_ascii\'`, `\'`, `_utf8mb4\'`, `\'`).Replace(text.String())
}

// newTables returns how the tables of a new database are made, where those of a version become so:
// TiDB cannot shorten a key.
func newTables(t *testing.T, version int) string {
	t.Helper()
	d := newDatabase(t)
	tables := d.tables(t)
	if err := d.Close(); err != nil { // before the server ends the connection, which nobody uses
		t.Error(err)
	}
	if version == 1 && server.Engine() == mysqlserver.TiDB {
		tables = strings.Replace(tables, "varchar(350)", "varchar(400)", 1)
	}
	return tables
}

func (d *database) schema(t *testing.T) repo.Schema {
	t.Helper()
	schema, err := d.Schema(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// The file for people who manage the database themselves makes the tables that ApplySchema makes.
func TestTheSchemaIsTheWholeSchema(t *testing.T) {
	want := newTables(t, 0)
	t.Run("file", func(t *testing.T) {
		d := emptyDatabase(t)
		for range 2 {
			for statement := range strings.SplitSeq(strings.TrimSpace(preauth.Schema), ";\n") {
				d.exec(t, statement)
			}
			if got := d.tables(t); got != want {
				t.Errorf("the tables are:\n%s\nwanted:\n%s", got, want)
			}
			if schema := d.schema(t); schema.Version != current || len(schema.Missing) > 0 {
				t.Errorf("%+v", schema)
			}
			if err := d.Check(within(t)); err != nil {
				t.Error(err)
			}
		}
	})
}

// From each release, several replicas at once bring the tables to those of a new database, and what
// was in them is there.
func TestFromEachReleasedSchema(t *testing.T) {
	for _, version := range released {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			d := databaseOf(t, version)
			// Given the tables of a release, of which Check says what to do,
			schema := d.schema(t)
			if schema.Version != version && (schema.Version != 2 || server.Engine() != mysqlserver.TiDB) || schema.Wanted != current || schema.Oldest != 0 {
				t.Errorf("%+v", schema)
			}
			if err := d.Check(within(t)); !says(err, fmt.Sprintf("migration %d", schema.Version+1), "`preauth schema apply`") || errors.Is(err, repo.ErrUnavailable) {
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
			if schema := d.schema(t); schema.Version != current || schema.Oldest != 1 || len(schema.Missing) > 0 {
				t.Errorf("%+v", schema)
			}
			t.Run("new", func(t *testing.T) {
				if got, want := d.tables(t), newTables(t, version); got != want {
					t.Errorf("the tables are:\n%s\nwanted:\n%s", got, want)
				}
			})
			// and what was in them is there, and can be used.
			d.holdsRows(t)
			now := start.Add(time.Minute)
			for _, code := range []string{"a", "s", "c"} {
				if spent := d.spend(t, authorization("wx1", code, now)); spent.Status != repo.Saved || spent.Revision != 4 {
					t.Errorf("%s: %+v", code, spent)
				}
			}
			// Applied again, it changes nothing.
			d.faults.Operations()
			if err := d.ApplySchema(within(t)); err != nil {
				t.Error(err)
			}
			if n := countOf(d.faults.Operations(), "schema"); n != 0 {
				t.Errorf("%d statements, wanted none", n)
			}
		})
	}
}

// holdsRows tests that the rows are there.
func (d *database) holdsRows(t *testing.T) {
	t.Helper()
	if waiting := d.outbox(t); len(waiting) != 2 || waiting[0].Failure == nil || waiting[1].Update == nil || waiting[1].Update.Spent {
		t.Errorf("waiting are %+v", waiting)
	}
	if c := d.component(t, "wx1"); c.Current == nil || c.Current.PreAuthCode.Reveal() != "a" || c.Current.IsSpent() {
		t.Errorf("component: %+v", c)
	}
	resolved, err := d.Resolve(within(t), preauth.NewSecret("c"))
	if err != nil || resolved.ClaimID != "visitor" || resolved.Reference != "order" {
		t.Errorf("claim: %+v, %v", resolved, err)
	}
	if n := d.count(t, "SELECT COUNT(*) FROM pre_auth_code WHERE cause = 'spare' AND code = 's'"); n != 1 {
		t.Errorf("%d spares", n)
	}
}

// Whichever statement is the last before the program is killed, the next run does the rest. It may
// have been done or not.
func TestMigratingGoesOnWhereItStopped(t *testing.T) {
	for _, version := range slices.Concat([]int{0}, released) {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			want := newTables(t, version)
			for step := 0; ; step++ {
				stops := 0
				for how, fault := range map[string]repotest.Fault{"not applied": repotest.NotApplied, "applied": repotest.Applied} {
					t.Run(fmt.Sprint(step, how), func(t *testing.T) {
						d := databaseOf(t, version)
						ctx, stop := context.WithCancel(within(t))
						defer stop()
						if fault.Skip {
							fault.Before = stop
						} else {
							fault.After = stop
						}
						d.faults.Script("schema", append(make([]repotest.Fault, step), fault)...)
						if d.ApplySchema(ctx) != nil {
							stops++
						}
						d.faults.Reset()
						if err := d.ApplySchema(within(t)); err != nil {
							t.Fatal(err)
						}
						if got := d.tables(t); got != want {
							t.Errorf("the tables are:\n%s\nwanted:\n%s", got, want)
						}
						if schema := d.schema(t); schema.Version != current || len(schema.Missing) > 0 {
							t.Errorf("%+v", schema)
						}
						if version > 0 {
							d.holdsRows(t)
						}
					})
				}
				if stops == 0 { // there are no more statements
					if step < 2 {
						t.Errorf("it stopped after %d statements only", step)
					}
					break
				}
			}
		})
	}
}

// The statements that a person would run instead do the same.
func TestMissingStatementsCanBeRunByHand(t *testing.T) {
	for _, version := range slices.Concat([]int{0}, released) {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			d := databaseOf(t, version)
			schema := d.schema(t)
			for _, m := range schema.Missing {
				for _, statement := range m.Statements {
					d.exec(t, statement)
				}
			}
			if err := d.Check(within(t)); err != nil {
				t.Error(err)
			}
			t.Run("new", func(t *testing.T) {
				if got, want := d.tables(t), newTables(t, version); got != want {
					t.Errorf("the tables are:\n%s\nwanted:\n%s", got, want)
				}
			})
		})
	}
}

// A migration that is not recorded, or whose tables somebody changed, is missing.
func TestAMigrationThatIsMissing(t *testing.T) {
	for name, test := range map[string]struct {
		statement string
		missing   int
		checked   string // what Check says of it, if it does
	}{
		"not recorded":                {"DELETE FROM schema_version WHERE version = 5", 5, "migration 5 is missing (the version of the schema): run"},
		"one in between not recorded": {"DELETE FROM schema_version WHERE version = 2", 2, ""},
		"without the table":           {"DROP TABLE schema_version", 5, "the table schema_version is missing (migration 5: the version of the schema): run"},
		"without another table":       {"DROP TABLE stream_set", 3, ", or grant this account its rights on the table"},
		"without a column":            {"ALTER TABLE outbox DROP COLUMN traceparent", 4, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.exec(t, test.statement)
			if schema := d.schema(t); schema.Version != test.missing-1 || schema.Missing[0].Version != test.missing || len(schema.Missing) != current+1-test.missing {
				t.Errorf("%+v", schema)
			}
			if err := d.Check(within(t)); test.checked != "" && !says(err, fmt.Sprintf("migration %d", test.missing), "preauth schema apply", test.checked) {
				t.Errorf("Check: %v", err)
			}
			if err := errors.Join(d.ApplySchema(within(t)), d.Check(within(t))); err != nil {
				t.Error(err)
			}
		})
	}
}

// A schema of a newer release is used if that release says so, and otherwise left alone.
func TestASchemaOfANewerRelease(t *testing.T) {
	for name, test := range map[string]struct {
		oldest int
		works  bool
	}{"that can be used": {current, true}, "that cannot": {current + 1, false}} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.save(t, succeeded("wx1", at(1), "a"))
			d.exec(t, fmt.Sprintf("INSERT INTO schema_version (version, oldest_program, name, applied_at) VALUES (6, 1, 'x', '2026-01-01'), (7, %d, 'y', '2026-01-01')", test.oldest))
			d.exec(t, "ALTER TABLE outbox ADD COLUMN later INT NULL")
			if !test.works { // it may have dropped what this one would create
				d.exec(t, "ALTER TABLE outbox DROP COLUMN traceparent")
			}
			if schema := d.schema(t); schema.Version != 7 || schema.Wanted != current || schema.Oldest != test.oldest || len(schema.Missing) != 0 {
				t.Errorf("%+v", schema)
			}
			before := d.tables(t)
			for what, call := range map[string]func(context.Context) error{
				"Check": d.Check, "ApplySchema": d.ApplySchema,
				"Own": func(ctx context.Context) error { return d.Own(ctx, streamsOf("A", ""), start) },
			} {
				err := call(within(t))
				if test.works && err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if test.works && what == "Check" { // it looks whether the server takes writes
					d.faults.Script("probe", slices.Repeat([]repotest.Fault{repotest.Answered(1290, "read-only")}, 6)...)
					if err := d.Check(within(t)); !errors.Is(err, repo.ErrUnavailable) {
						t.Errorf("Check of a server that takes no writes: %v", err)
					}
				}
				if !test.works && (!errors.Is(err, repo.ErrNewerSchema) || !says(err, "version 7", "version 6", "version 5", "newer release of preauth")) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if after := d.tables(t); after != before {
				t.Errorf("the tables were:\n%s\nand are:\n%s", before, after)
			}
		})
	}
}
