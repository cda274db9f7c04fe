package repo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"preauth"
)

// ApplySchema creates the tables of [preauth.Schema] that are missing and changes nothing else. Any
// number of replicas may do so at once. Each statement commits by itself: after an error a part of the
// schema may exist, so apply it again.
func (r *Repo) ApplySchema(ctx context.Context) error {
	for statement := range strings.SplitSeq(strings.TrimSpace(preauth.Schema), ";\n") {
		// These statements hold no data, so the server's text can be shown.
		err := retry(ctx, func() error {
			_, err := r.db.ExecContext(ctx, "/* repo.schema */ "+strings.TrimSuffix(statement, ";"))
			if isServerError(err, tableExists) { // another replica created it first, despite IF NOT EXISTS
				return nil
			}
			return err
		})
		if err := describe(ctx, "apply schema", err, err); err != nil {
			return err
		}
	}
	return nil
}

// uniqueKeys are the keys that keep the promises of this package, whatever a program does.
var uniqueKeys = []string{
	"component.PRIMARY", "outbox.PRIMARY", "pre_auth_code.code", "pre_auth_code.current_code", "pre_auth_code.live_claim",
}

// Check returns nil if the server is reachable and the schema complete. The error says what to do.
func (r *Repo) Check(ctx context.Context) error {
	found, err := query[string](ctx, r, "check", `/* repo.check */ SELECT CONCAT(table_name, '.', index_name)
FROM information_schema.statistics WHERE table_schema = DATABASE() AND non_unique = 0`)
	if err != nil {
		return err
	}
	for _, wanted := range uniqueKeys {
		table, key, _ := strings.Cut(wanted, ".")
		switch {
		case !slices.ContainsFunc(found, func(name string) bool { return strings.HasPrefix(name, table+".") }):
			return fmt.Errorf("repo: check: the table %s is missing: run `preauth schema apply`", table)
		case !slices.Contains(found, wanted):
			return fmt.Errorf("repo: check: the table %s lacks the unique key %s: compare it with `preauth schema print`", table, key)
		}
	}
	// These queries name all columns that the package reads.
	if _, err := r.Components(ctx, []string{""}); err != nil {
		return err
	}
	_, err = r.Outbox(ctx, time.Time{}, 1)
	return err
}
