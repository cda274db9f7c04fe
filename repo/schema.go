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

	"preauth/internal/database"
)

// uniqueKeys are the keys that keep the promises of this package, whatever a program does.
var uniqueKeys = []string{
	"component.PRIMARY", "outbox.PRIMARY", "pre_auth_code.code", "pre_auth_code.current_code", "pre_auth_code.live_claim",
	"stream_set.PRIMARY", "schema_version.PRIMARY",
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
			return r.checkSchema(ctx)
		case !slices.Contains(found, wanted):
			return fmt.Errorf("repo: check: the table %s lacks the unique key %s: compare it with `preauth schema print`", table, key)
		}
	}
	recorded, oldest, err := r.recorded(ctx, "repo: check")
	switch {
	case err != nil:
		return err
	case oldest > newest || !slices.Contains(recorded, newest):
		return r.checkSchema(ctx)
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

// checkSchema returns why this program cannot work with the schema.
func (r *Repo) checkSchema(ctx context.Context) error {
	schema, err := r.Schema(ctx)
	if err != nil {
		return err
	}
	if err := schema.Check(); err != nil {
		return fmt.Errorf("repo: check: %w", err)
	}
	return nil
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
