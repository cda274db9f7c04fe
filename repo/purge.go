package repo

import (
	"context"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
)

// Purge deletes codes that expired before the given time, claimed or not, at most limit and those that
// expired first. The current code of a component stays. It returns how many it deleted, which are less
// than limit when no more are left or another replica is at them. Keep limit at some hundred: the rows
// are locked until all of them are deleted.
func (r *Repo) Purge(ctx context.Context, before time.Time, limit int) (int, error) {
	var ids []uint64
	err := do(ctx, "purge", func() error {
		return selectIn(ctx, r.db, &ids, "/* repo.expired */ SELECT id FROM pre_auth_code FORCE INDEX (expires) "+
			"WHERE expires_at < ? AND (slot IS NULL OR slot > 0) ORDER BY expires_at LIMIT ?", stored(before), max(limit, 0))
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	// Replicas that delete the same rows meet them in the same order.
	slices.Sort(ids)
	deleted := 0
	for piece := range slices.Chunk(ids, maxIn) {
		statement, args, err := sqlx.In("/* repo.purge */ DELETE p FROM pre_auth_code AS p FORCE INDEX (PRIMARY) WHERE p.id IN (?)", piece)
		if err != nil {
			return deleted, err
		}
		rows, err := r.exec(ctx, "purge", statement, args...)
		if err != nil {
			return deleted, err
		}
		deleted += int(rows)
	}
	return deleted, nil
}
