package repo

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// spares returns rows with the given ids that live for so long.
func spares(life time.Duration, ids ...uint64) []claimRow {
	rows := make([]claimRow, len(ids))
	for i, id := range ids {
		rows[i] = claimRow{ID: id, AppID: "wx1", Cause: causeSpare, ExpiresAt: time.Now().Add(life)}
	}
	return rows
}

// read has the desk read the rows for n visitors, and returns what these are shown.
func (d *desk) read(ttl time.Duration, n int, rows []claimRow, meanwhile func()) []uint64 {
	k := kind{"wx1", ttl}
	if d.shelves == nil {
		d.shelves = map[string]*shelf{}
	}
	d.mu.Lock()
	d.beginRead(k, n)
	d.mu.Unlock()
	meanwhile()
	visits := make([]*visit, n)
	for i := range visits {
		visits[i] = &visit{served: make(chan struct{})}
	}
	d.show(k, visits, rows, nil)
	shown := []uint64{}
	for _, v := range visits {
		if v.spare != nil {
			shown = append(shown, v.spare.ID)
		}
	}
	return shown
}

// taken returns what is in stock for a request.
func (d *desk) taken(ttl time.Duration) []*claimRow {
	var rows []*claimRow
	for {
		row := d.take(ClaimRequest{AppID: "wx1", At: time.Now(), MinTTL: ttl})
		if row == nil {
			return rows
		}
		rows = append(rows, row)
	}
}

func ids(rows []*claimRow) []uint64 {
	ids := make([]uint64, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	slices.Sort(ids)
	return ids
}

func nothing() {}

// pass lets time pass in a bubble of synctest.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestTheDeskStocksWhatIsNotNeededYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d desk
		// Given five spares that were read for two visitors,
		shown := d.read(time.Minute, 2, spares(time.Hour, 1, 2, 3, 4, 5), nothing)
		// then claims that need another life find nothing in stock, and those that need the same the other three.
		if got := d.taken(0); got != nil {
			t.Errorf("for another kind: %v", ids(got))
		}
		if got := d.taken(2 * time.Minute); got != nil {
			t.Errorf("for a longer life: %v", ids(got))
		}
		got := ids(d.taken(time.Minute))
		all := slices.Sorted(slices.Values(slices.Concat(shown, got)))
		if !slices.Equal(all, []uint64{1, 2, 3, 4, 5}) || len(got) != 3 {
			t.Errorf("shown: %v, stocked: %v", shown, got)
		}
	})
}

func TestAStockIsShortLived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d desk
		d.read(0, 0, spares(time.Hour, 1, 2), nothing)
		// A stock that replaces another lives as long as any,
		pass(maxAge - time.Millisecond)
		d.read(0, 0, spares(time.Hour, 3, 4), nothing)
		pass(maxAge - time.Millisecond)
		first := d.take(ClaimRequest{AppID: "wx1", At: time.Now()})
		if first == nil || first.ID < 3 {
			t.Errorf("in stock: %v", first)
		}
		// and no longer.
		pass(time.Millisecond)
		if got := d.taken(0); got != nil {
			t.Errorf("in stock at its age: %v", ids(got))
		}
		// What is nobody's takes no memory.
		d.letGo(first, true)
		if len(d.shelves) != 0 {
			t.Errorf("%d shelves are left", len(d.shelves))
		}
	})
}

func TestASpareInStockMustLiveLongEnoughWhenItIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d desk
		d.read(time.Minute, 0, append(spares(time.Minute+time.Second, 1), spares(time.Hour, 2)...), nothing)
		pass(time.Second)
		if got := ids(d.taken(time.Minute)); !slices.Equal(got, []uint64{2}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestNoSpareIsShownTwiceThatIsGivenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d desk
		rows := spares(time.Hour, 1, 2, 3)
		d.read(0, 0, rows, nothing)
		trying := d.taken(0)
		// Given a read that finds three spares that claims try for, of which one is given away while it is under way,
		shown := d.read(0, 2, rows, func() { d.letGo(trying[0], true) })
		// then that one is shown to nobody, and the others, which their claims may not get, to those who find
		// nothing else; none is in stock.
		if slices.Contains(shown, trying[0].ID) || len(shown) != 2 {
			t.Errorf("shown: %v, given: %d", shown, trying[0].ID)
		}
		if got := d.taken(0); got != nil {
			t.Errorf("in stock: %v", ids(got))
		}
	})
}

func TestTheStockIsAsLargeAsItIsUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d desk
		limit := func(n int) int {
			k := kind{appID: "wx1"}
			if d.shelves == nil {
				d.shelves = map[string]*shelf{}
			}
			read := d.beginRead(k, n)
			rows := make([]uint64, read)
			for i := range rows {
				rows[i] = uint64(i + 1)
			}
			d.show(k, nil, spares(time.Hour, rows...), nil)
			return read
		}
		useUp := func() {
			for _, spare := range d.taken(0) {
				d.letGo(spare, true)
			}
		}
		// Stocks that are used up before their age double,
		got := []int{}
		for range 12 {
			got = append(got, limit(1))
			useUp()
		}
		if want := []int{2, 4, 8, 16, 32, 64, 128, 256, 512, maxStock, maxStock, maxStock}; !slices.Equal(got, want) {
			t.Errorf("read: %v, wanted %v", got, want)
		}
		// one from which somebody else gives, and one that is not used up, begin anew.
		limit(1)
		d.discard("wx1")
		if got := limit(1); got != 2 {
			t.Errorf("after one that was stale: %d", got)
		}
		useUp()
		limit(1)
		pass(maxAge)
		if got := limit(1); got != 2 {
			t.Errorf("after one that was too old: %d", got)
		}
		pass(maxAge)
	})
}
