package repo

import (
	"context"
	"slices"

	"github.com/jmoiron/sqlx"
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
		err := split(batch, func(piece []Outcome) error {
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

func (r *Repo) saveBatch(ctx context.Context, outcomes []Outcome) (results []Result, err error) {
	again := false
	err = r.do(ctx, "save", func(conn *sqlx.Conn) error {
		results, err = saveOnce(ctx, conn, outcomes, again)
		again = true
		return err
	})
	return results, err
}

// saveOnce makes one attempt at the transaction: lock, decide, write. The first attempt trusts that
// the codes are new. A further one looks them up: the attempt before may have been committed, or
// have found a code in the unique key.
func saveOnce(ctx context.Context, conn *sqlx.Conn, outcomes []Outcome, lookUp bool) ([]Result, error) {
	results := make([]Result, len(outcomes))
	p := plan{components: map[string]*component{}, owners: map[string]string{}}
	for i, o := range outcomes {
		if err := o.check(); err != nil {
			results[i] = Result{Status: Refused, Err: err}
			continue
		}
		if at := stored(o.At); at.After(p.at) {
			p.at = at
		}
		if !o.isBadEvent() {
			p.components[o.AppID] = nil
		}
		if lookUp && o.Code != nil {
			p.owners[o.Code.PreAuthCode.Reveal()] = ""
		}
	}
	if p.at.IsZero() {
		return results, nil // all are refused
	}

	err := transaction(ctx, conn, func(tx *sqlx.Tx) error {
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
