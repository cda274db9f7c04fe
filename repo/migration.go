package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"preauth"
	"preauth/internal/database"
)

// ErrNewerSchema means that the schema is of a newer release, whose tables this program cannot work
// with.
var ErrNewerSchema = errors.New("the schema is too new")

// migration leads from one version of the schema to the next. Its row in [preauth.Schema] has its
// version and name too, and what programs work with the tables after it.
type migration struct {
	version int
	name    string
	// tables are created as [preauth.Schema] has them: in the newest shape.
	tables []string
	// steps change the tables of an older release.
	steps []step
}

// step is one statement. DDL commits by itself, so each step tells by the tables whether it is done.
type step struct {
	statement string
	// The statement is needed if the tables have the one and not the other, in the words of
	// [Repo.found]. A step that applies to a table must name it, or a part of it, in has.
	has, lacks string
}

// migrations are all migrations, in order. One that was released stays as it is.
var migrations = []migration{
	{version: 1, name: "components, codes and announcements", tables: []string{"component", "pre_auth_code", "outbox"}},
	{version: 2, name: "shorter message ids", steps: []step{{
		`ALTER TABLE outbox MODIFY message_id VARCHAR(350) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'Nats-Msg-Id; the same however often it is saved or announced'`,
		"outbox.message_id varchar(400)", onTiDB, // TiDB cannot change the type of a primary key
	}}},
	{version: 3, name: "the streams that the database belongs to", tables: []string{"stream_set"}},
	{version: 4, name: "spent codes and trace contexts", steps: []step{
		{
			`ALTER TABLE pre_auth_code ADD COLUMN authorizer_appid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'the account that authorized with it'`,
			"pre_auth_code", "pre_auth_code.authorizer_appid",
		},
		{
			`ALTER TABLE pre_auth_code ADD COLUMN authorized_at DATETIME(6) NULL COMMENT 'when it did; NULL: not spent'`,
			"pre_auth_code", "pre_auth_code.authorized_at",
		},
		{
			`ALTER TABLE pre_auth_code ADD CONSTRAINT pre_auth_code_kinds CHECK ((revision IS NULL) = (cause IN ('spare', 'claim', 'used')))`,
			"pre_auth_code.pre_auth_code_kind", "pre_auth_code.pre_auth_code_kinds",
		},
		{`ALTER TABLE pre_auth_code DROP CONSTRAINT pre_auth_code_kind`, "pre_auth_code.pre_auth_code_kind", ""},
		{
			`ALTER TABLE outbox ADD COLUMN authorized MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'an authorization: the body, JSON'`,
			"outbox", "outbox.authorized",
		},
		{
			`ALTER TABLE outbox ADD COLUMN traceparent VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'the W3C trace context to publish it with'`,
			"outbox", "outbox.traceparent",
		},
		{
			`ALTER TABLE outbox ADD CONSTRAINT outbox_kinds CHECK ((revision IS NOT NULL) + (failure IS NOT NULL) + (authorized IS NOT NULL) = 1)`,
			"outbox.outbox_update_or_failure", "outbox.outbox_kinds",
		},
		{`ALTER TABLE outbox DROP CONSTRAINT outbox_update_or_failure`, "outbox.outbox_update_or_failure", ""},
	}},
	{version: 5, name: "the version of the schema", tables: []string{"schema_version"}},
}

// newest is the version of the schema that this program is made for.
var newest = migrations[len(migrations)-1].version

// Schema says how far the schema of a database is.
type Schema struct {
	// Version is that of the database: the number of the last migration that it has, with all before
	// it. It is 0 for a database without the tables.
	Version int `json:"version"`
	// Wanted is the version that this program is made for.
	Wanted int `json:"wanted"`
	// Oldest is the version of the oldest programs that work with the database, 0 if it does not say.
	Oldest int `json:"oldest_program"`
	// Missing are the migrations from Version to Wanted, in order.
	Missing []Migration `json:"missing"`
}

// Migration is a migration that a database lacks.
type Migration struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	// Statements are what is left to do of it, in order; nothing, if other migrations do it.
	Statements []string `json:"statements"`

	table string // that is missing, "" if none is
}

// Check returns nil if this program can work with the schema. The error says what to do.
func (s Schema) Check() error {
	if s.Oldest > newest {
		return fmt.Errorf("%w: the database has version %d, which programs made for version %d or later work with, and this one is made for version %d: "+
			"run a newer release of preauth here", ErrNewerSchema, s.Version, s.Oldest, newest)
	}
	if len(s.Missing) == 0 {
		return nil
	}
	m := s.Missing[0]
	what, apply := fmt.Sprintf("migration %d is missing (%s)", m.Version, m.Name), "run `preauth schema apply` with an account that may create and alter tables"
	if m.table != "" {
		what = fmt.Sprintf("the table %s is missing (migration %d: %s)", m.table, m.Version, m.Name)
		apply += ", or grant this account its rights on the table"
	}
	return fmt.Errorf("%s: %s", what, apply)
}

// Schema returns how far the schema is. It reads what tables there are, so the account must have a
// right on each of them.
func (r *Repo) Schema(ctx context.Context) (Schema, error) {
	const operation = "repo: schema"
	found, err := database.Query[string](ctx, r.db, operation, `/* repo.found */ SELECT CONCAT(table_name, '.', column_name)
FROM information_schema.columns WHERE table_schema = DATABASE()
UNION SELECT CONCAT(table_name, '.', column_name, ' ', column_type) FROM information_schema.columns WHERE table_schema = DATABASE()
UNION SELECT CONCAT(table_name, '.', constraint_name) FROM information_schema.table_constraints WHERE table_schema = DATABASE()
UNION SELECT CONCAT(table_name, '') FROM information_schema.columns WHERE table_schema = DATABASE()`)
	if err != nil {
		return Schema{}, err
	}
	server, err := r.db.Connection(ctx)
	if err != nil {
		return Schema{}, err
	}
	if strings.Contains(server.Version, onTiDB) {
		found = append(found, onTiDB)
	}
	schema := Schema{Version: newest, Wanted: newest, Missing: []Migration{}}
	var recorded []int
	if slices.Contains(found, "schema_version") {
		if recorded, schema.Oldest, err = r.recorded(ctx, operation); err != nil {
			return Schema{}, err
		}
		if schema.Version = slices.Max(append(recorded, newest)); schema.Version > newest {
			return schema, nil // a newer release has what it needs of the tables
		}
	}
	for _, m := range migrations {
		left := m.left(found)
		isRecorded := slices.Contains(recorded, m.version) || !slices.Contains(found, "schema_version")
		if len(schema.Missing) > 0 || len(left.Statements) > 0 || !isRecorded {
			schema.Missing = append(schema.Missing, left)
		}
	}
	if missing := schema.Missing; len(missing) > 0 {
		schema.Version = missing[0].Version - 1
		last := &missing[len(missing)-1]
		last.Statements = append(last.Statements, recording())
	}
	return schema, nil
}

// onTiDB is among what is found on TiDB.
const onTiDB = "TiDB"

// left returns what is left to do of a migration.
func (m migration) left(found []string) Migration {
	left := Migration{Version: m.version, Name: m.name, Statements: []string{}}
	for _, table := range m.tables {
		if !slices.Contains(found, table) {
			left.Statements, left.table = append(left.Statements, creation(table)), cmp.Or(left.table, table)
		}
	}
	for _, s := range m.steps {
		if slices.Contains(found, s.has) && !slices.Contains(found, s.lacks) {
			left.Statements = append(left.Statements, s.statement)
		}
	}
	return left
}

// creation returns the statement of the schema that creates a table.
func creation(table string) string { return statementOf("CREATE TABLE IF NOT EXISTS " + table + " (") }

// recording returns the statement of the schema that records all migrations.
func recording() string { return statementOf("INSERT IGNORE INTO schema_version ") }

// statementOf returns the statement of the schema that begins with a text.
func statementOf(begin string) string {
	_, rest, _ := strings.Cut(preauth.Schema, "\n"+begin)
	rest, _, _ = strings.Cut(rest, ";\n")
	return begin + rest
}

// recorded returns the migrations that are recorded, and the version of the oldest programs that work
// with the tables after them.
func (r *Repo) recorded(ctx context.Context, operation string) (versions []int, oldest int, err error) {
	rows, err := database.Query[struct {
		Version int `db:"version"`
		Oldest  int `db:"oldest_program"`
	}](ctx, r.db, operation, "/* repo.versions */ SELECT version, oldest_program FROM schema_version")
	for _, row := range rows {
		versions = append(versions, row.Version)
		oldest = max(oldest, row.Oldest)
	}
	return versions, oldest, err
}

// ApplySchema brings the schema to the version that this program is made for: from nothing, from that
// of any release before, or from any point in between. It changes nothing in a schema of a newer
// release; the error is [ErrNewerSchema] if this program cannot work with it. Any number of replicas
// may call it at once, and those of the release before may go on working. Each statement commits by
// itself: after an error, call it again, and it goes on where it stopped.
func (r *Repo) ApplySchema(ctx context.Context) error {
	schema, err := r.Schema(ctx)
	if err != nil {
		return err
	}
	for _, m := range schema.Missing {
		for _, statement := range m.Statements {
			if err := r.db.Define(ctx, "repo: apply schema", "/* repo.schema */ "+statement); err != nil {
				return err
			}
		}
	}
	if schema.Oldest > newest {
		return fmt.Errorf("repo: apply schema: %w", schema.Check())
	}
	return nil
}
