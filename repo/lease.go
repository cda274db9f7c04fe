package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
)

// LeaseDue leases components that are due at now, at most limit: it moves their DueAt to until, before
// which no other call gets them, from whatever replica. They come in the order in which they were
// due. Whoever has one saves an [Outcome] with a code or a failure before until, which sets DueAt anew and
// ends the lease; a replica that dies leaves it to the others at until. After an error some may have
// been leased until then and worked on by nobody.
func (r *Repo) LeaseDue(ctx context.Context, now, until time.Time, limit int) ([]Component, error) {
	now, until = stored(now), stored(until)
	if !until.After(now) {
		return nil, fmt.Errorf("repo: take due: %w", errNoLease)
	}
	lease := newLease()
	for {
		var due []string
		err := do(ctx, "take due", func() error {
			due = nil
			return r.db.SelectContext(ctx, &due,
				"/* repo.due */ SELECT appid FROM component WHERE due_at <= ? ORDER BY due_at LIMIT ?", now, max(limit, 0))
		})
		if err != nil || len(due) == 0 {
			return nil, err
		}
		taken, err := r.take(ctx, due, lease, now, until)
		if err != nil || len(taken) > 0 {
			return taken, err
		}
		// Others were quicker with every one of them. There may be more.
	}
}

// errNoLease is the refusal of a lease that ends when it begins.
var errNoLease = errors.New("until has to be after now, or two would get the same component")

// newLease returns what tells the lease of one call from all others.
func newLease() []byte {
	lease := make([]byte, 16)
	_, _ = rand.Read(lease) // never fails
	return lease
}

// take leases those of the components that are still due. The lease names them, so that both
// statements can be repeated.
func (r *Repo) take(ctx context.Context, due []string, lease []byte, now, until time.Time) ([]Component, error) {
	// All calls take the rows in the same order, in which a saving transaction locks them too.
	sorted := slices.Sorted(slices.Values(due))
	var taken []Component
	for piece := range slices.Chunk(sorted, maxIn) {
		statement, args, err := sqlx.In("/* repo.lease */ UPDATE component FORCE INDEX (PRIMARY) SET due_at = ?, lease = ? "+
			"WHERE appid IN (?) AND due_at <= ?", until, lease, piece, now)
		if err != nil {
			return nil, err
		}
		if _, err := r.exec(ctx, "take due", statement, args...); err != nil {
			return nil, err
		}
		var rows []componentRow
		err = do(ctx, "take due", func() error {
			return selectIn(ctx, r.db, &rows, "/* repo.leased */ "+selectComponents+
				"WHERE c.appid IN (?) AND c.lease = ? AND c.due_at = ?", piece, lease, until)
		})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			taken = append(taken, row.component())
		}
	}
	slices.SortFunc(taken, func(a, b Component) int { return slices.Index(due, a.AppID) - slices.Index(due, b.AppID) })
	return taken, nil
}

// Extend moves the end of a lease from dueAt, as LeaseDue or Lease set it or Extend did before, to until. It returns false
// if the lease is over: an outcome was saved, or another replica has it. One that has run out and that nobody else took is
// extended. After an error it may be.
func (r *Repo) Extend(ctx context.Context, appid string, dueAt, until time.Time) (bool, error) {
	dueAt, until = stored(dueAt), stored(until)
	// Also where it was extended before and the answer got lost.
	rows, err := r.exec(ctx, "extend lease", "/* repo.extend */ UPDATE component SET due_at = ? "+
		"WHERE appid = ? AND due_at IN (?, ?) AND lease IS NOT NULL", until, appid, dueAt, until)
	return err == nil && rows > 0, err
}

// Lease leases a component whether or not it is due, as [Repo.LeaseDue] does, if its newest code still
// has the given revision. It returns false if it has a newer one, or if a replica has leased it for longer
// than until now: the component is then as it was read, with the end of the other lease in DueAt. One that
// no valid token event ever named is returned as the zero Component. After an error it may be leased.
func (r *Repo) Lease(ctx context.Context, appid string, revision uint64, now, until time.Time) (Component, bool, error) {
	now, until = stored(now), stored(until)
	if !until.After(now) {
		return Component{}, false, fmt.Errorf("repo: take one: %w", errNoLease)
	}
	lease := newLease()
	_, err := r.exec(ctx, "take one", "/* repo.take_one */ UPDATE component SET due_at = ?, lease = ? "+
		"WHERE appid = ? AND revision = ? AND (lease IS NULL OR due_at <= ?)", until, lease, appid, revision, now)
	if err != nil {
		return Component{}, false, err
	}
	var rows []componentRow
	err = do(ctx, "take one", func() error {
		return selectIn(ctx, r.db, &rows, "/* repo.taken_one */ "+selectComponents+"WHERE c.appid = ?", appid)
	})
	if err != nil || len(rows) == 0 {
		return Component{}, false, err
	}
	return rows[0].component(), bytes.Equal(rows[0].Lease, lease), nil
}
