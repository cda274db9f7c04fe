package repo_test

import (
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"preauth"
	db "preauth/internal/database"
	"preauth/internal/mysqlserver"
	"preauth/repo"
)

// page returns the components that a request matches.
func (d *database) page(t *testing.T, request preauth.StatusRequest, now time.Time, limit int) []preauth.Status {
	t.Helper()
	page, err := d.Statuses(within(t), request, now, limit)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestStatus(t *testing.T) {
	d := newDatabase(t)
	good := succeeded("wx1", at(1), "a")
	bad := failed("wx2", at(2), 3)
	d.save(t, good, bad)
	d.stock(t, start, "s1", "s2") // of wx1
	now := start.Add(5 * time.Second)
	want := preauth.Status{
		AppID: "wx1", State: preauth.StateValid, Revision: 1, Cause: good.Cause, IssuedAt: good.Code.IssuedAt, ExpiresAt: good.Code.ExpiresAt,
		DueAt: good.DueAt, TokenExpiresAt: good.Token.ExpiresAt, Spares: 2,
	}
	if got, ok, err := d.Status(within(t), "wx1", now); err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("a component with a code:\ngot  %+v, %v, %v\nwant %+v", got, ok, err, want)
	}
	want = preauth.Status{
		AppID: "wx2", State: preauth.StateFailing, DueAt: bad.DueAt, TokenExpiresAt: bad.Token.ExpiresAt, Attempts: 3, Failure: bad.Failure,
	}
	if got, ok, err := d.Status(within(t), "wx2", now); err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("a component that fails:\ngot  %+v, %v, %v\nwant %+v", got, ok, err, want)
	}
	if got, ok, err := d.Status(within(t), "wx3", now); err != nil || ok {
		t.Errorf("a component that nobody named: %+v, %v, %v", got, ok, err)
	}
	for before, want := range map[time.Duration]int{0: 0, time.Nanosecond: 2} {
		if got, _, err := d.Status(within(t), "wx1", start.Add(30*time.Minute-before)); err != nil || got.Spares != want {
			t.Errorf("%d spares %v before they expire, %v", got.Spares, before, err)
		}
	}
	// A spent code is not valid however long it would live.
	d.spend(t, authorization("wx1", "a", now))
	if got, _, err := d.Status(within(t), "wx1", now); err != nil || !got.Spent || got.State != preauth.StateExpiring || got.Revision != 2 {
		t.Errorf("after an authorization: %+v, %v", got, err)
	}
}

// The pages of all requests together have the components that match, and the states are those that
// the census counts.
func TestStatusesPageByPage(t *testing.T) {
	d := newDatabase(t)
	expired := failed("wx_no", at(4), 1)
	expired.Token.ExpiresAt = start.Add(time.Minute)
	d.save(t, succeeded("wx1", at(1), "a"), succeeded("wx12", at(2), "b"), failed("wx2", at(3), 1), expired, succeeded("Wx1", at(5), "c"), succeeded("wx", at(6), "d"))
	list := func(request preauth.StatusRequest, now time.Time, limit int) (appids []string) {
		for {
			page := d.page(t, request, now, limit)
			for _, s := range page {
				appids = append(appids, s.AppID)
			}
			if len(page) < limit {
				return appids
			}
			request.After = page[limit-1].AppID
		}
	}
	now := start.Add(2 * time.Minute)
	for name, test := range map[string]struct {
		request preauth.StatusRequest
		want    []string
	}{
		"all":                  {preauth.StatusRequest{}, []string{"Wx1", "wx", "wx1", "wx12", "wx2", "wx_no"}},
		"a prefix":             {preauth.StatusRequest{Prefix: "wx1"}, []string{"wx1", "wx12"}},
		"a prefix, no pattern": {preauth.StatusRequest{Prefix: "wx_"}, []string{"wx_no"}},
		"after":                {preauth.StatusRequest{After: "wx1"}, []string{"wx12", "wx2", "wx_no"}},
		"a state":              {preauth.StatusRequest{State: preauth.StateFailing}, []string{"wx2"}},
		"a state and a prefix": {preauth.StatusRequest{State: preauth.StateValid, Prefix: "wx1"}, []string{"wx1", "wx12"}},
		"none":                 {preauth.StatusRequest{Prefix: "wy"}, nil},
	} {
		for limit := range 4 {
			if got := list(test.request, now, limit+1); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%s, %d at a time: %q, want %q", name, limit+1, got, test.want)
			}
		}
	}
	expires, aQuarterLeft := start.Add(time.Minute), start.Add(2*time.Second+30*time.Minute*3/4)
	for _, now := range []time.Time{start, expires, now, start.Add(20 * time.Minute), aQuarterLeft, start.Add(time.Hour), start.Add(48 * time.Hour)} {
		census, err := d.Census(within(t), now)
		if err != nil {
			t.Fatal(err)
		}
		count := func(state preauth.State) int { return len(d.page(t, preauth.StatusRequest{State: state}, now, 100)) }
		got := repo.Census{
			Valid: count(preauth.StateValid), Expiring: count(preauth.StateExpiring), Failing: count(preauth.StateFailing), NoToken: count(preauth.StateNoToken),
			Overdue: census.Overdue, Spares: census.Spares, CodeExpiresAt: census.CodeExpiresAt, TokenExpiresAt: census.TokenExpiresAt,
		}
		if got != census {
			t.Errorf("at %v the pages have %+v, the census %+v", now, got, census)
		}
		for _, s := range d.page(t, preauth.StatusRequest{}, now, 100) {
			alone := d.page(t, preauth.StatusRequest{State: s.State, Prefix: s.AppID}, now, 1)
			if len(alone) != 1 || !reflect.DeepEqual(alone[0], s) {
				t.Errorf("at %v %s is %s, and the filter gives %+v", now, s.AppID, s.State, alone)
			}
		}
	}
}

// A page reads the rows of its own components, however many others there are.
func TestStatusReadsNoMoreThanItsPage(t *testing.T) {
	if server.Engine() == mysqlserver.TiDB {
		t.Skip("TiDB does not count the rows that a session reads")
	}
	d := newDatabase(t)
	const components, page = 2000, 100
	outcomes := make([]repo.Outcome, components)
	for i := range outcomes {
		appid := fmt.Sprintf("wx%05d", i)
		outcomes[i] = succeeded(appid, at(1), "code "+appid)
	}
	for batch := range slices.Chunk(outcomes, repo.MaxBatch) {
		d.save(t, batch...)
	}
	// Both the Repo and the question what it has read use the one connection.
	connector, err := db.Connector(d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	session := sql.OpenDB(connector)
	t.Cleanup(func() { session.Close() })
	r := repo.New(db.New(session, 1))
	read := func() (rows int) {
		t.Helper()
		found, err := session.QueryContext(within(t), "SHOW SESSION STATUS LIKE 'Handler_read%'")
		if err != nil {
			t.Fatal(err)
		}
		defer found.Close()
		for found.Next() {
			var name string
			var n int
			if err := found.Scan(&name, &n); err != nil {
				t.Fatal(err)
			}
			rows += n
		}
		if err := found.Err(); err != nil {
			t.Fatal(err)
		}
		return rows
	}
	for name, request := range map[string]preauth.StatusRequest{
		"the first page":    {},
		"one in the middle": {After: "wx00999"},
		"a prefix":          {Prefix: "wx007"},
		"a state":           {State: preauth.StateValid, After: "wx00999"},
	} {
		before := read()
		if found, err := r.Statuses(within(t), request, start.Add(5*time.Second), page); err != nil || len(found) != page {
			t.Errorf("%s: %d components, %v", name, len(found), err)
		}
		if rows := read() - before; rows > 10*page {
			t.Errorf("%s: %d rows are read for %d components", name, rows, page)
		}
	}
	before := read()
	if _, ok, err := r.Status(within(t), "wx01000", start); err != nil || !ok {
		t.Error(ok, err)
	}
	if rows := read() - before; rows > 10 {
		t.Errorf("%d rows are read for one component", rows)
	}
}
