package consumer_test

import (
	"strings"
	"testing"
	"time"

	"preauth/consumer"
	"preauth/internal/mysqlserver"
	"preauth/wechat/wechattest"
)

// gauges returns the values of gauges, in the given order.
func (r *replica) gauges(names ...string) string {
	r.t.Helper()
	values := map[string]string{}
	for line := range strings.Lines(r.metrics()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			values[name] = value
		}
	}
	var all []string
	for _, name := range names {
		all = append(all, values["preauth_"+name])
	}
	return strings.Join(all, " ")
}

// The outbox is read at each look at MySQL; all components and the settings only from time to time.
// What cannot be read is read at the next look, and what was seen last stands meanwhile. Only the
// outbox of a MySQL that is away is not shown: its oldest row would seem to wait ever longer.
func TestFiguresOfMySQL(t *testing.T) {
	c := new(simClock)
	c.set(time.Now().Truncate(time.Second))
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	counting := func(every time.Duration) *replica {
		return w.prepare(func(s *setup) {
			s.db, s.cfg.Now = db, c.Now
			consumer.ShortenIntervals(&s.cfg, time.Hour, time.Hour, time.Hour, every)
		})
	}
	seldom, always, late := counting(time.Hour), counting(time.Nanosecond), counting(time.Hour)
	// add adds a component without a token, and a row to the outbox that has waited for so long.
	add := func(appid string, waits time.Duration) func() {
		return func() {
			w.database.MustExec("INSERT INTO component (appid, created_at, updated_at) VALUES (?, ?, ?)", appid, c.Now(), c.Now())
			w.database.MustExec("INSERT INTO outbox (message_id, appid, failure, created_at) VALUES (?, ?, '{}', ?)", appid, appid, c.Now().Add(-waits))
		}
	}
	refuse := func(statement string) func() { return func() { faults.Script(statement, denied) } }
	for _, step := range []struct {
		name  string
		given func()
		r     *replica
		want  string // outbox rows, age of the oldest, components without a token
		away  bool
	}{
		{"nothing is there", func() {}, seldom, "0 0 0", false},
		{"before the components are counted again", add("wx1", time.Minute), seldom, "1 60 0", false},
		{"when they are", func() {}, always, "1 60 1", false},
		{"the outbox cannot be read", func() { add("wx2", time.Hour)(); refuse("depth")() }, always, "1 60 1", false},
		{"the components cannot be counted", refuse("census"), always, "2 3600 1", false},
		{"the settings cannot be read", refuse("durability"), always, "2 3600 1", false},
		{"all can be read", func() {}, always, "2 3600 2", false},
		{"MySQL is away", refuse("check"), always, "0 0 2", true},
		{"MySQL is back", func() {}, always, "2 3600 2", false},
		{"the components cannot be counted at the first look", refuse("census"), late, "2 3600 0", false},
		{"they are at the next", func() {}, late, "2 3600 2", false},
	} {
		step.given()
		consumer.LookAtMySQL(w.within(), step.r.service)
		if got := step.r.gauges("outbox_rows", "outbox_oldest_age_seconds", `components{state="no_token"}`); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
		if err := step.r.service.Ready(); contains(err, "MySQL: ") != step.away {
			t.Errorf("%s: not ready: %v", step.name, err)
		}
		if n := faults.Unmet(); n != 0 {
			t.Errorf("%s: %d statements were not made", step.name, n)
		}
	}
}

// A setting with which MySQL can lose a commit is warned of when it is first seen, and again if it
// comes back. It does not make the service unready.
func TestMySQLThatDoesNotSyncIsWarnedOf(t *testing.T) {
	w, server := newWorldWithMySQL(t, wechattest.Options{})
	if server.Engine() == mysqlserver.TiDB {
		t.Skip("it has no such setting")
	}
	r := w.prepare(func(s *setup) { consumer.ShortenIntervals(&s.cfg, time.Hour, time.Hour, time.Hour, time.Nanosecond) })
	look := func(value, warnings string, said int) {
		t.Helper()
		w.database.MustExec("SET GLOBAL innodb_flush_log_at_trx_commit = " + value)
		consumer.LookAtMySQL(w.within(), r.service)
		if got := r.gauges("durability_warnings"); got != warnings {
			t.Errorf("with %s: %s settings are warned of, want %s", value, got, warnings)
		}
		if n := strings.Count(w.log.String(), `"MySQL can lose a commit that it acknowledged","setting":"innodb_flush_log_at_trx_commit","value":"2","advice":"set it to 1`); n != said {
			t.Errorf("with %s: said %d times, want %d", value, n, said)
		}
	}
	look("1", "0", 0)
	look("2", "1", 1)
	look("2", "1", 1)
	if contains(r.service.Ready(), "MySQL: ") {
		t.Errorf("not ready: %v", r.service.Ready())
	}
	look("1", "0", 1)
	look("2", "1", 2)
}
