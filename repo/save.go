package repo

import (
	"context"
	"slices"
	"time"

	"preauth/internal/database"
)

// MaxBatch bounds the outcomes of one transaction. 100 failures of [preauth.MaxBody] bytes fit into
// the smallest max_allowed_packet that is a server's default.
const MaxBatch = 100

// Save commits outcomes, at most [MaxBatch] in one transaction, or fewer where the server's
// max_allowed_packet is too small for that, and returns the result of each, in the same order.
// Outcomes of one component count in their order, as if they were saved one by one.
//
// After an error any of them may be committed: see [ErrUnavailable]. Save the same outcomes again;
// those that were committed get the answer that was lost.
func (r *Repo) Save(ctx context.Context, outcomes []Outcome) ([]Result, error) {
	results := make([]Result, 0, len(outcomes))
	for batch := range slices.Chunk(outcomes, MaxBatch) {
		err := database.Split(batch, func(piece []Outcome) error {
			saved, err := r.saveBatch(ctx, piece)
			if err == nil {
				results = append(results, saved...)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}

// saveBatch saves in one transaction: lock, decide, write. Its first attempt trusts that the codes
// are new. A further one looks them up: the attempt before may have been committed, or have found a
// code in the unique key.
func (r *Repo) saveBatch(ctx context.Context, outcomes []Outcome) ([]Result, error) {
	refused := make([]Result, len(outcomes))
	var at time.Time
	for i, o := range outcomes {
		if err := o.check(); err != nil {
			refused[i] = Result{Status: Refused, Err: err}
		} else {
			at = o.At
		}
	}
	results := refused
	if at.IsZero() {
		return results, nil // all are refused
	}
	again := false
	err := r.db.Transaction(ctx, "repo: save", func(tx *database.Tx) error {
		results = slices.Clone(refused)
		p := plan{at: stored(at), components: map[string]*component{}, owners: map[string]owner{}}
		for i, o := range outcomes {
			if results[i].Status == Refused {
				continue
			}
			if !o.isBadEvent() {
				p.components[o.AppID] = nil
			}
			if again && o.Code != nil {
				p.owners[o.Code.PreAuthCode.Reveal()] = owner{}
			}
		}
		again = true
		if err := p.lock(ctx, tx); err != nil {
			return err
		}
		if err := p.findOwners(ctx, tx); err != nil {
			return err
		}
		for i, o := range outcomes {
			if results[i].Status != Refused {
				p.apply(o.stored(), &results[i])
			}
		}
		return p.write(ctx, tx)
	})
	return results, err
}
