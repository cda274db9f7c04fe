package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"preauth/internal/database"
)

// LeaseDue leases at most limit components that are due at now, the longest due first. It sets
// their DueAt to until, and no other call of any replica gets them before. Save an [Outcome] with a
// code or a failure before until: it sets DueAt anew and ends the lease. If the replica dies,
// others take over at until. After an error some components may be leased until then with nobody
// working on them.
func (r *Repo) LeaseDue(ctx context.Context, now, until time.Time, limit int) ([]Component, error) {
	now, until = stored(now), stored(until)
	if !until.After(now) {
		return nil, fmt.Errorf("repo: lease due: %w", errNoLease)
	}
	lease := newLease()
	for {
		due, err := database.Query[string](ctx, r.db, "repo: lease due",
			"/* repo.due */ SELECT appid FROM component WHERE due_at <= ? ORDER BY due_at LIMIT ?", now, max(limit, 0))
		if len(due) == 0 {
			return nil, err
		}
		leased, err := r.leaseEach(ctx, due, lease, now, until)
		if err != nil || len(leased) > 0 {
			return leased, err
		}
		// Other replicas were quicker with every one of them. There may be more.
	}
}

var errNoLease = errors.New("until has to be after now, or two replicas would get the same component")

// newLease returns the random id of a lease.
func newLease() []byte {
	lease := make([]byte, 16)
	_, _ = rand.Read(lease) // never fails
	return lease
}

// leaseEach leases those of the components that are still due, in the given order. The lease names
// the rows that it got, so both statements can be repeated.
func (r *Repo) leaseEach(ctx context.Context, due []string, lease []byte, now, until time.Time) ([]Component, error) {
	// All calls lock the rows in the same order, and saving transactions do too.
	sorted := slices.Sorted(slices.Values(due))
	var leased []Component
	for piece := range slices.Chunk(sorted, database.MaxIn) {
		_, err := r.db.Exec(ctx, "repo: lease due", "/* repo.lease */ UPDATE component FORCE INDEX (PRIMARY) SET due_at = ?, lease = ? "+
			"WHERE appid IN (?) AND due_at <= ?", until, lease, piece, now)
		if err != nil {
			return nil, err
		}
		rows, err := database.Query[componentRow](ctx, r.db, "repo: lease due", "/* repo.leased */ "+selectComponents+
			"WHERE c.appid IN (?) AND c.lease = ? AND c.due_at = ?", piece, lease, until)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			leased = append(leased, row.component())
		}
	}
	slices.SortFunc(leased, func(a, b Component) int { return slices.Index(due, a.AppID) - slices.Index(due, b.AppID) })
	return leased, nil
}

// Extend renews the lease that ends at dueAt, as LeaseDue, Lease or an earlier Extend set it; it
// now ends at until. It returns false if the lease is over: an outcome was saved, or another
// replica has the component. It renews a lease that ran out if nobody else took the component.
// After an error the lease may be renewed.
func (r *Repo) Extend(ctx context.Context, appid string, dueAt, until time.Time) (bool, error) {
	dueAt, until = stored(dueAt), stored(until)
	// The lease ends at until already if the answer to an earlier try was lost.
	rows, err := r.db.Exec(ctx, "repo: extend lease", "/* repo.extend */ UPDATE component SET due_at = ? "+
		"WHERE appid = ? AND due_at IN (?, ?) AND lease IS NOT NULL", until, appid, dueAt, until)
	return rows > 0, err
}

// Lease leases one component like [Repo.LeaseDue], due or not, if its newest code still has the
// given revision. It returns false if the code is newer, or if another lease lasts beyond now: the
// component is then as it was read, and DueAt is the end of the other lease. A component that no
// valid token event ever named is returned as the zero Component. After an error the component may
// be leased.
func (r *Repo) Lease(ctx context.Context, appid string, revision uint64, now, until time.Time) (Component, bool, error) {
	now, until = stored(now), stored(until)
	if !until.After(now) {
		return Component{}, false, fmt.Errorf("repo: lease: %w", errNoLease)
	}
	lease := newLease()
	_, err := r.db.Exec(ctx, "repo: lease", "/* repo.lease_one */ UPDATE component SET due_at = ?, lease = ? "+
		"WHERE appid = ? AND revision = ? AND (lease IS NULL OR due_at <= ?)", until, lease, appid, revision, now)
	if err != nil {
		return Component{}, false, err
	}
	row, err := first(database.Query[componentRow](ctx, r.db, "repo: lease", "/* repo.leased_one */ "+selectComponents+"WHERE c.appid = ?", appid))
	if row == nil {
		return Component{}, false, err
	}
	return row.component(), bytes.Equal(row.Lease, lease), nil
}
