package repo

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// giver turns spares into claims. Those that come while it writes for others are written together, in one
// statement that commits by itself, so that a crowd of claims costs few commits and a lone one waits for
// nobody.
type giver struct {
	mu      sync.Mutex
	writing int
	waiting []*gift
}

// gift is a spare for the claim that is to get it.
type gift struct {
	request ClaimRequest
	spare   *claimRow
	done    chan struct{}
	// held is the code that the claim id has then, nil if it has none.
	held *claimRow
	err  error
}

const (
	// maxWriting bounds the statements under way at a time.
	maxWriting = 4
	// maxGifts bounds the claims of one statement.
	maxGifts = 50
)

// give gives a spare to a claim id, and lets go of it. It returns the code that the claim id has then: the
// spare, or the one that it had already. It returns nil if it has none, since another claim has got the spare, and may
// do so if another claim of this replica tried for the same.
func (r *Repo) give(ctx context.Context, request ClaimRequest, spare *claimRow) (held *claimRow, err error) {
	this := &gift{request: request, spare: spare, done: make(chan struct{})}
	r.giver.mu.Lock()
	r.giver.waiting = append(r.giver.waiting, this)
	if r.giver.writing < maxWriting {
		r.giver.writing++
		// Not even the first one's end ends what others wait for.
		go r.giveWaiting(context.WithoutCancel(ctx))
	}
	r.giver.mu.Unlock()
	select {
	case <-this.done:
		return this.held, this.err
	case <-ctx.Done():
		return nil, explain(ctx, "claim", ctx.Err(), nil)
	}
}

// giveWaiting writes until nothing waits any more.
func (r *Repo) giveWaiting(ctx context.Context) {
	g := &r.giver
	for {
		g.mu.Lock()
		n := min(len(g.waiting), maxGifts)
		batch := slices.Clone(g.waiting[:n])
		g.waiting = slices.Delete(g.waiting, 0, n)
		if n == 0 {
			g.writing--
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		r.giveAll(ctx, batch)
		for _, each := range batch {
			r.desk.letGo(each.spare, each.held != nil && each.held.ID == each.spare.ID)
			close(each.done)
		}
	}
}

// giveAll gives a batch.
func (r *Repo) giveAll(ctx context.Context, batch []*gift) {
	// Of those who want the same spare, or are the same claim, the first one tries.
	spares, claims := map[uint64]bool{}, map[[2]string]bool{}
	left := slices.DeleteFunc(slices.Clone(batch), func(each *gift) bool {
		claim := [2]string{each.request.AppID, each.request.ClaimID}
		taken := spares[each.spare.ID] || claims[claim]
		spares[each.spare.ID], claims[claim] = true, true
		return taken
	})
	for len(left) > 0 {
		given, err := r.writeGifts(ctx, left)
		duplicate := errors.Is(err, errDuplicate) // then none of them is given
		switch {
		case err == nil && given == int64(len(left)):
			for _, each := range left {
				each.held = each.request.given(each.spare)
			}
			return
		case err == nil || duplicate:
			err = r.lookUp(ctx, left)
		}
		if err != nil {
			for _, each := range left {
				each.err = err
			}
			return
		}
		n := len(left)
		left = slices.DeleteFunc(left, func(each *gift) bool { return each.held != nil })
		if !duplicate || len(left) == n {
			for _, each := range left {
				r.desk.discard(each.request.AppID)
			}
			return
		}
	}
}

// given returns the row of a spare that the request was given.
func (r ClaimRequest) given(spare *claimRow) *claimRow {
	row := *spare
	row.Cause, row.ClaimID, row.Reference = causeClaim, []byte(r.ClaimID), []byte(r.Reference)
	row.ClaimedAt = sql.Null[time.Time]{V: r.At, Valid: true}
	return &row
}

// writeGifts makes claims of the spares that are spares yet, and returns how many those are.
func (r *Repo) writeGifts(ctx context.Context, batch []*gift) (int64, error) {
	var (
		set  [3]strings.Builder // by column: WHEN this row THEN this value
		args [3][]any
		ids  []any
	)
	for _, each := range batch {
		for i, value := range []any{[]byte(each.request.ClaimID), []byte(each.request.Reference), each.request.At} {
			set[i].WriteString(" WHEN ? THEN ?")
			args[i] = append(args[i], each.spare.ID, value)
		}
		ids = append(ids, each.spare.ID)
	}
	statement := "/* repo.claim */ UPDATE pre_auth_code FORCE INDEX (PRIMARY) SET cause = ?, claim_id = CASE id" + set[0].String() +
		" END, reference = CASE id" + set[1].String() + " END, claimed_at = CASE id" + set[2].String() +
		" END WHERE id IN (?" + strings.Repeat(",?", len(ids)-1) + ") AND cause = ?"
	return r.exec(ctx, "claim", statement, slices.Concat([]any{causeClaim}, args[0], args[1], args[2], ids, []any{causeSpare})...)
}

// lookUp finds the codes that the claim ids of a batch have.
func (r *Repo) lookUp(ctx context.Context, batch []*gift) error {
	var claims []string
	var args []any
	for _, each := range batch {
		claims = append(claims, "(appid = ? AND live_claim = ?)")
		args = append(args, each.request.AppID, []byte(each.request.ClaimID))
	}
	var rows []claimRow
	err := do(ctx, "claim", func() error {
		return selectIn(ctx, r.db, &rows, "/* repo.held */ "+selectClaims+"FORCE INDEX (live_claim) WHERE "+strings.Join(claims, " OR "), args...)
	})
	if err != nil {
		return err
	}
	held := map[[2]string]*claimRow{}
	for i, row := range rows {
		held[[2]string{row.AppID, string(row.ClaimID)}] = &rows[i]
	}
	for _, each := range batch {
		each.held = held[[2]string{each.request.AppID, each.request.ClaimID}]
	}
	return nil
}
