package repo

import (
	"context"
	"slices"
	"time"

	"preauth/internal/database"
)

// Purge deletes codes that expired before the given time, claimed or not: the oldest first, at most
// limit, and no current code. It returns how many it deleted, which is less than limit if no more
// are left or another replica deletes the same. The rows stay locked until all are deleted, so keep
// limit at some hundred.
func (r *Repo) Purge(ctx context.Context, before time.Time, limit int) (int, error) {
	ids, err := database.Query[uint64](ctx, r.db, "repo: purge", "/* repo.expired */ SELECT id FROM pre_auth_code FORCE INDEX (expires) "+
		"WHERE expires_at < ? AND (slot IS NULL OR slot > 0) ORDER BY expires_at LIMIT ?", stored(before), max(limit, 0))
	if err != nil {
		return 0, err
	}
	slices.Sort(ids) // replicas that delete the same rows lock them in the same order
	deleted := 0
	for piece := range slices.Chunk(ids, database.MaxIn) {
		rows, err := r.db.Exec(ctx, "repo: purge", "/* repo.purge */ DELETE p FROM pre_auth_code AS p FORCE INDEX (PRIMARY) WHERE p.id IN (?)", piece)
		if err != nil {
			return 0, err
		}
		deleted += int(rows)
	}
	return deleted, nil
}
