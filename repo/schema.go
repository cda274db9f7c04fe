package repo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"preauth"
	"preauth/internal/database"
)

// ApplySchema creates the tables of [preauth.Schema] that are missing, adds what the tables of older
// releases lack, and changes nothing else. Any number of replicas may do so at once, and those of the
// release before may go on working. Each statement commits by itself: after an error a part of the
// schema may exist, so apply it again.
func (r *Repo) ApplySchema(ctx context.Context) error {
	for statement := range strings.SplitSeq(strings.TrimSpace(preauth.Schema), ";\n") {
		if err := r.db.Define(ctx, "repo: apply schema", "/* repo.schema */ "+strings.TrimSuffix(statement, ";")); err != nil {
			return err
		}
	}
	found, err := r.found(ctx)
	if err != nil {
		return err
	}
	for _, u := range upgrades {
		alter := "/* repo.schema */ ALTER TABLE " + u.table
		isNeeded := !slices.Contains(found, u.table+"."+u.adds)
		if u.replaces != "" { // some servers keep no constraints, and add none
			isNeeded = slices.Contains(found, u.table+"."+u.replaces)
		}
		if !isNeeded {
			continue
		}
		statements := []string{alter + " ADD " + definition(u.table, u.adds)}
		if u.replaces != "" {
			statements = append(statements, alter+" DROP CONSTRAINT "+u.replaces)
		}
		for _, statement := range statements {
			if err := r.db.Define(ctx, "repo: apply schema", statement); err != nil {
				return err
			}
		}
	}
	return nil
}

// upgrades are the columns that the tables of an older release lack, and the constraints that replace
// theirs.
var upgrades = []struct{ table, adds, replaces string }{
	{"pre_auth_code", "authorizer_appid", ""},
	{"pre_auth_code", "authorized_at", ""},
	{"pre_auth_code", "pre_auth_code_kinds", "pre_auth_code_kind"},
	{"outbox", "authorized", ""},
	{"outbox", "traceparent", ""},
	{"outbox", "outbox_kinds", "outbox_update_or_failure"},
}

// definition returns the line of the schema that defines a column or a constraint of a table.
func definition(table, name string) string {
	_, lines, _ := strings.Cut(preauth.Schema, "CREATE TABLE IF NOT EXISTS "+table+" (")
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ",")
		if strings.HasPrefix(strings.TrimPrefix(line, "CONSTRAINT "), name+" ") {
			return line
		}
	}
	return ""
}

// found returns the columns and the constraints of all tables, each as "table.name".
func (r *Repo) found(ctx context.Context) ([]string, error) {
	return database.Query[string](ctx, r.db, "repo: apply schema", `/* repo.found */ SELECT CONCAT(table_name, '.', column_name)
FROM information_schema.columns WHERE table_schema = DATABASE()
UNION SELECT CONCAT(table_name, '.', constraint_name) FROM information_schema.table_constraints WHERE table_schema = DATABASE()`)
}

// uniqueKeys are the keys that keep the promises of this package, whatever a program does.
var uniqueKeys = []string{
	"component.PRIMARY", "outbox.PRIMARY", "pre_auth_code.code", "pre_auth_code.current_code", "pre_auth_code.live_claim",
	"stream_set.PRIMARY",
}

// Check returns nil if the server can be reached, reads and writes, and the schema is complete. The
// error says what to do. It costs a few short statements, of which one writes and is rolled back.
func (r *Repo) Check(ctx context.Context) error {
	found, err := database.Query[string](ctx, r.db, "repo: check", `/* repo.check */ SELECT CONCAT(table_name, '.', index_name)
FROM information_schema.statistics WHERE table_schema = DATABASE() AND non_unique = 0`)
	if err != nil {
		return err
	}
	for _, wanted := range uniqueKeys {
		table, key, _ := strings.Cut(wanted, ".")
		switch {
		case !slices.ContainsFunc(found, func(name string) bool { return strings.HasPrefix(name, table+".") }):
			return fmt.Errorf("repo: check: the table %s is missing: run `preauth schema apply` with an account that may create tables, or grant this account its rights on the table", table)
		case !slices.Contains(found, wanted):
			return fmt.Errorf("repo: check: the table %s lacks the unique key %s: compare it with `preauth schema print`", table, key)
		}
	}
	// These queries name all columns that the package reads.
	if _, err := r.Components(ctx, []string{""}); err != nil {
		return err
	}
	if _, err := r.Outbox(ctx, time.Time{}, 1); err != nil {
		return err
	}
	return r.probe(ctx)
}

// probe writes a row and rolls it back: a server that is read-only answers all queries. The row has
// a key of its own, so that replicas do not wait for one another. It reaches no other replica of
// the service, no replica of the database and no binary log.
func (r *Repo) probe(ctx context.Context) error {
	err := r.db.Transaction(ctx, "repo: check", func(tx *database.Tx) error {
		err := tx.Exec(ctx, "/* repo.probe */ INSERT INTO outbox (message_id, appid, failure, created_at) VALUES (?, '', '', '2000-01-01')", "probe."+rand.Text())
		return cmp.Or(err, errProbed)
	})
	if errors.Is(err, errProbed) {
		return nil
	}
	return err
}

// errProbed rolls a probe back.
var errProbed = errors.New("the server takes writes")
