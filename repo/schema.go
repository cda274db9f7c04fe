package repo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"preauth"
)

// ApplySchema creates what is missing of [preauth.Schema] and changes nothing else. Any number of
// replicas may do so at once. Every statement commits by itself, so after an error a part of the
// schema may be there: apply it again.
func (r *Repo) ApplySchema(ctx context.Context) error {
	for statement := range strings.SplitSeq(strings.TrimSpace(preauth.Schema), ";\n") {
		// A statement without data: what the server says about it can be told whole.
		err := retry(ctx, func() error {
			_, err := r.db.ExecContext(ctx, "/* repo.schema */ "+strings.TrimSuffix(statement, ";"))
			if isServerError(err, tableExists) { // another replica was quicker in spite of IF NOT EXISTS
				return nil
			}
			return err
		})
		if err := explain(ctx, "apply schema", err, err); err != nil {
			return err
		}
	}
	return nil
}

// uniqueKeys are the keys that keep the promises of this package whatever a program does.
var uniqueKeys = []uniqueKey{
	{"component", "PRIMARY"},
	{"outbox", "PRIMARY"},
	{"pre_auth_code", "code"},
	{"pre_auth_code", "current_code"},
	{"pre_auth_code", "live_claim"},
}

type uniqueKey struct {
	Table string `db:"in_table"`
	Name  string `db:"name"`
}

// Check returns nil if the server is reachable and the schema complete. The error says what to do.
func (r *Repo) Check(ctx context.Context) error {
	var found []uniqueKey
	err := do(ctx, "check", func() error {
		return selectIn(ctx, r.db, &found, `/* repo.check */ SELECT table_name AS in_table, index_name AS name
FROM information_schema.statistics WHERE table_schema = DATABASE() AND non_unique = 0`)
	})
	if err != nil {
		return err
	}
	for _, key := range uniqueKeys {
		switch {
		case !slices.ContainsFunc(found, func(k uniqueKey) bool { return k.Table == key.Table }):
			return fmt.Errorf("repo: check: the table %s is missing: run `preauth schema apply`", key.Table)
		case !slices.Contains(found, key):
			return fmt.Errorf("repo: check: the table %s lacks the unique key %s: compare it with `preauth schema print`", key.Table, key.Name)
		}
	}
	// The statements that are read with name the columns.
	if _, err := r.Components(ctx, []string{""}); err != nil {
		return err
	}
	_, err = r.Outbox(ctx, time.Time{}, 1)
	return err
}
