package repo

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// desk shows spares to the claims of this replica, each one of its own, so that they do not try for the same.
// It reads more than it needs at the moment, as long as that is used up soon, so that most claims wait for no
// read; and those that come while it reads for others are served together by its next read. That what it
// has in stock is still to be had is for the statement to find out that gives it away.
type desk struct {
	mu sync.Mutex
	// queues are those who wait while the desk reads for others of their kind.
	queues map[kind][]*visit
	// shelves are by component.
	shelves map[string]*shelf
}

// kind is what claims have in common that one read serves.
type kind struct {
	appID string
	// ttl is the life that a spare must have left.
	ttl time.Duration
}

func (r ClaimRequest) kind() kind { return kind{r.AppID, max(r.MinTTL, r.SpareTTL)} }

// shelf is what the desk knows of a component's spares.
type shelf struct {
	// stock was read for claims with ttl and is shown to nobody yet, in a random order.
	stock []*claimRow
	ttl   time.Duration
	// size is how many the stock and those it was read for were.
	size int
	// age ends the stock.
	age *time.Timer
	// shown is how many claims try for a spare: one, unless there are less spares than claims.
	shown map[uint64]int
	// given are those that were given away since the oldest of the reads under way began, which may find
	// them.
	given map[uint64]bool
	reads int
}

// visit is one look at what there is.
type visit struct {
	request ClaimRequest
	served  chan struct{}
	// held is the code that the claim id has, and spare one that it may try for, nil if there is none.
	held, spare *claimRow
	err         error
}

const (
	// maxVisits bounds those who are served by one read.
	maxVisits = 100
	// maxStock bounds the spares that are read at once and not needed yet.
	maxStock = 1000
	// maxAge is for how long these are kept.
	maxAge = 2 * time.Second
)

// take returns a spare in stock that lives long enough for the request, nil if there is none. It is to be let go
// of afterwards.
func (d *desk) take(request ClaimRequest) *claimRow {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.shelves[request.AppID]
	if s == nil || s.ttl != request.kind().ttl {
		return nil
	}
	for len(s.stock) > 0 {
		spare := s.stock[0]
		s.stock = s.stock[1:]
		if spare.ExpiresAt.After(request.At.Add(s.ttl)) && s.shown[spare.ID] == 0 {
			s.shown[spare.ID]++
			return spare
		}
	}
	return nil
}

// look returns the code that the request's claim id has, and a spare that lives long enough for it if that code
// does not, which is to be let go of afterwards. Each may be nil.
func (r *Repo) look(ctx context.Context, request ClaimRequest) (held, spare *claimRow, err error) {
	v := &visit{request: request, served: make(chan struct{})}
	k := request.kind()
	r.desk.mu.Lock()
	queue, busy := r.desk.queues[k]
	if r.desk.queues == nil {
		r.desk.queues, r.desk.shelves = map[kind][]*visit{}, map[string]*shelf{}
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
			r.desk.letGo(v.spare, false)
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
		limit := d.beginRead(k, n)
		d.mu.Unlock()

		rows, err := r.claimable(ctx, k, visits, limit)
		d.show(k, visits, rows, err)
	}
}

// beginRead returns how many spares are to be read for n visitors: two for each, or twice as many as the last
// time if those were used up before their age, besides those that are in stock or shown already.
func (d *desk) beginRead(k kind, n int) int {
	s := d.shelves[k.appID]
	if s == nil {
		s = &shelf{shown: map[uint64]int{}, given: map[uint64]bool{}}
		d.shelves[k.appID] = s
	}
	s.reads++
	limit := 2 * n
	if s.ttl == k.ttl && len(s.stock) == 0 {
		limit = max(limit, min(2*s.size, maxStock))
	}
	return limit + min(len(s.stock), maxStock) + len(s.shown)
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

// show shows to the visitors what was read, and stocks the rest.
func (d *desk) show(k kind, visits []*visit, rows []claimRow, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.shelves[k.appID]
	held := map[string]*claimRow{}
	var free, shown, given []*claimRow
	for i := range rows {
		switch row := &rows[i]; {
		case row.Cause == causeClaim:
			held[string(row.ClaimID)] = row
		case s.given[row.ID]:
			given = append(given, row)
		case s.shown[row.ID] > 0:
			shown = append(shown, row)
		default:
			free = append(free, row)
		}
	}
	// The desks of other replicas show the same spares.
	rand.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	// Those who try for one that is gone look again, and do not believe that there is none.
	spares := slices.Concat(free, shown, given)
	for i, v := range visits {
		v.held, v.err = held[v.request.ClaimID], err
		if _, done, err := v.request.answer(v.held); !done && err == nil && len(spares) > 0 {
			v.spare = spares[i%len(spares)]
			s.shown[v.spare.ID]++
		}
		close(v.served)
	}
	s.reads--
	if s.reads == 0 {
		clear(s.given)
	}
	d.restock(s, k, free)
	d.tidy(k.appID, s)
}

// restock replaces the stock by what was read and is not shown.
func (d *desk) restock(s *shelf, k kind, read []*claimRow) {
	s.ttl, s.size = k.ttl, len(read)
	s.stock = slices.DeleteFunc(read, func(spare *claimRow) bool { return s.shown[spare.ID] > 0 })
	s.endAge()
	var age *time.Timer
	age = time.AfterFunc(maxAge, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if s.age == age {
			d.clear(k.appID, s)
		}
	})
	s.age = age
}

// endAge keeps the stock's timer from doing anything, even if it waits to begin.
func (s *shelf) endAge() {
	if s.age != nil {
		s.age.Stop()
		s.age = nil
	}
}

// discard throws the stock of a component away: another replica gives from it.
func (d *desk) discard(appid string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.shelves[appid]; s != nil {
		d.clear(appid, s)
	}
}

// clear ends a stock.
func (d *desk) clear(appid string, s *shelf) {
	s.stock, s.size = nil, 0
	d.tidy(appid, s)
}

// letGo ends a claim's try for a spare: it was given away, or may be shown to others again.
func (d *desk) letGo(spare *claimRow, given bool) {
	if spare == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.shelves[spare.AppID]
	if s.shown[spare.ID]--; s.shown[spare.ID] == 0 {
		delete(s.shown, spare.ID)
	}
	if given && s.reads > 0 {
		s.given[spare.ID] = true
	}
	d.tidy(spare.AppID, s)
}

// tidy removes a shelf that has nothing on it.
func (d *desk) tidy(appid string, s *shelf) {
	if s.reads == 0 && len(s.shown) == 0 && s.size == 0 {
		s.endAge()
		delete(d.shelves, appid)
	}
}
