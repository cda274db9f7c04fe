package repo

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// desk reads for the claims of this replica. Those that come while it reads for others are served
// together by its next read, so that the more come, the less each costs; and each is shown a spare of
// its own, so that they do not try for the same.
type desk struct {
	mu sync.Mutex
	// queues are those who wait while the desk reads for others of their kind.
	queues map[kind][]*visit
	// shown are the spares that claims try for, by component.
	shown map[string]map[uint64]bool
}

// kind is what claims have in common that one read serves.
type kind struct {
	appID string
	// ttl is the life that a spare must have left.
	ttl time.Duration
}

// visit is one look at what there is.
type visit struct {
	request ClaimRequest
	served  chan struct{}
	// held is the code that the claim id has, and spare one that it may try for, nil if there is none.
	held, spare *claimRow
	err         error
}

// maxVisits bounds those who are served by one read.
const maxVisits = 100

// look returns the code that the request's claim id has, and a spare that lives long enough for it, which
// is to be let go of afterwards. Each may be nil.
func (r *Repo) look(ctx context.Context, request ClaimRequest) (held, spare *claimRow, err error) {
	v := &visit{request: request, served: make(chan struct{})}
	k := kind{request.AppID, max(request.MinTTL, request.SpareTTL)}
	r.desk.mu.Lock()
	queue, busy := r.desk.queues[k]
	if r.desk.queues == nil {
		r.desk.queues, r.desk.shown = map[kind][]*visit{}, map[string]map[uint64]bool{}
	}
	r.desk.queues[k] = append(queue, v)
	r.desk.mu.Unlock()
	if !busy {
		// Not even the first visitor's end ends what others wait for.
		go r.serve(context.WithoutCancel(ctx), k)
	}
	select {
	case <-v.served:
		return v.held, v.spare, v.err
	case <-ctx.Done():
		go func() {
			<-v.served
			r.desk.letGo(v.spare)
		}()
		return nil, nil, explain(ctx, "claim", ctx.Err(), nil)
	}
}

// serve reads for a queue until it is empty.
func (r *Repo) serve(ctx context.Context, k kind) {
	d := &r.desk
	for {
		d.mu.Lock()
		queue := d.queues[k]
		if len(queue) == 0 {
			delete(d.queues, k)
			d.mu.Unlock()
			return
		}
		n := min(len(queue), maxVisits)
		visits := queue[:n:n]
		d.queues[k] = queue[n:]
		limit := 2*n + len(d.shown[k.appID])
		d.mu.Unlock()

		rows, err := r.claimable(ctx, k, visits, limit)
		d.show(k.appID, visits, rows, err)
	}
}

// claimable returns the codes that the visitors' claim ids have, and the oldest spares that live long
// enough for all of them.
func (r *Repo) claimable(ctx context.Context, k kind, visits []*visit, limit int) ([]claimRow, error) {
	claimIDs := make([][]byte, len(visits))
	var at time.Time
	for i, v := range visits {
		claimIDs[i] = []byte(v.request.ClaimID)
		if v.request.At.After(at) {
			at = v.request.At
		}
	}
	var rows []claimRow
	err := do(ctx, "claim", func() error {
		return selectIn(ctx, r.db, &rows, "/* repo.claimable */ ("+selectClaims+"FORCE INDEX (live_claim) WHERE appid = ? AND live_claim IN (?)) UNION ALL "+
			"("+selectClaims+"FORCE INDEX (spare) WHERE appid = ? AND cause = ? AND expires_at > ? ORDER BY expires_at LIMIT ?)",
			k.appID, claimIDs, k.appID, causeSpare, at.Add(k.ttl), limit)
	})
	return rows, err
}

// show shows to the visitors what was read.
func (d *desk) show(appid string, visits []*visit, rows []claimRow, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := map[string]*claimRow{}
	var free, shown []*claimRow
	for i := range rows {
		switch row := &rows[i]; {
		case row.Cause == causeClaim:
			held[string(row.ClaimID)] = row
		case d.shown[appid][row.ID]:
			shown = append(shown, row)
		default:
			free = append(free, row)
		}
	}
	// The desks of other replicas show the same spares.
	free = free[:min(len(free), 2*len(visits))]
	rand.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	spares := slices.Concat(free, shown)
	for i, v := range visits {
		v.held, v.err = held[v.request.ClaimID], err
		if len(spares) > 0 {
			v.spare = spares[i%len(spares)]
			if d.shown[appid] == nil {
				d.shown[appid] = map[uint64]bool{}
			}
			d.shown[appid][v.spare.ID] = true
		}
		close(v.served)
	}
}

// letGo lets a spare be shown to others again.
func (d *desk) letGo(spare *claimRow) {
	if spare == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.shown[spare.AppID], spare.ID)
	if len(d.shown[spare.AppID]) == 0 {
		delete(d.shown, spare.AppID)
	}
}
