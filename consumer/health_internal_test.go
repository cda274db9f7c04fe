package consumer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"preauth/internal/outage"
	"preauth/internal/stream"
	"preauth/repo"
)

// A database that passes the watch's check and does not take what a part writes is not ready, and its
// outage is one in the log. A part whose work another replica has done is ready again in time.
func TestHealthBelievesThePartsThatUseMySQL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		h := newHealth(outage.New(slog.New(slog.NewTextHandler(&out, nil)), mysqlPart, time.Now), mysqlPart)
		is := func(want string) {
			t.Helper()
			got := strings.ReplaceAll(fmt.Sprint(joined(h.notReady())), "\n", "; ")
			if got != want {
				t.Errorf("not ready: %s, want %s", got, want)
			}
		}
		locked := fmt.Errorf("%w: lock wait timeout", repo.ErrUnavailable)
		is("MySQL: has not started yet")
		h.set(mysqlPart, nil)
		is("<nil>")
		h.setUse("saving", locked)
		h.set(mysqlPart, nil) // the check passes
		is("MySQL: saving: database unavailable: lock wait timeout")
		h.setUse("reading components", nil)
		is("MySQL: saving: database unavailable: lock wait timeout")
		h.setUse("outbox", errors.New("SELECT command denied"))
		is("MySQL: saving: database unavailable: lock wait timeout; outbox: SELECT command denied")
		h.setUse("saving", nil)
		h.setUse("outbox", nil)
		is("<nil>")
		if away, back := strings.Count(out.String(), "MySQL away"), strings.Count(out.String(), "MySQL back"); away != 1 || back != 1 {
			t.Errorf("logged %d times away and %d times back:\n%s", away, back, out.String())
		}

		h.set(mysqlPart, locked) // the check does not pass
		is("MySQL: database unavailable: lock wait timeout")
		h.set(mysqlPart, nil)
		if away, back := strings.Count(out.String(), "MySQL away"), strings.Count(out.String(), "MySQL back"); away != 2 || back != 2 {
			t.Errorf("logged %d times away and %d times back:\n%s", away, back, out.String())
		}

		h.setUse("saving", errors.New("INSERT command denied"))
		h.setUse("reading components", locked)
		<-time.After(useStands)
		is("MySQL: reading components: database unavailable: lock wait timeout; saving: INSERT command denied")
		<-time.After(time.Second)
		is("<nil>")
	})
}

// A service that is ready, or not, says so once. What delays a start is said only after a while.
func TestReadinessIsLoggedWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var reasons []reason
		w := &readinessWatch{
			log: slog.New(slog.NewTextHandler(&out, nil)), ready: func() []reason { return reasons }, started: time.Now(),
		}
		for _, step := range []struct {
			after   time.Duration
			reasons []reason
			want    string // what is logged
		}{
			{0, []reason{{"NATS", errNotStarted}}, ""},
			{startPatience - 1, []reason{{"NATS", errNotStarted}}, ""},
			{1, []reason{{"NATS", errNotStarted}}, `level=WARN msg="not ready" reason="NATS: has not started yet"`},
			{time.Second, []reason{{"NATS", errors.New("the connection is CLOSED")}}, ""},
			{time.Second, []reason{{"MySQL", errNotStarted}, {"NATS", errNotStarted}}, `level=WARN msg="not ready" reason="MySQL: has not started yet\nNATS: has not started yet"`},
			{time.Second, nil, "level=INFO msg=ready"},
			{time.Hour, nil, ""},
			{time.Second, []reason{{"MySQL", errNotStarted}}, `level=WARN msg="not ready" reason="MySQL: has not started yet"`},
		} {
			<-time.After(step.after)
			reasons = step.reasons
			out.Reset()
			w.look(t.Context())
			_, got, _ := strings.Cut(strings.TrimSpace(out.String()), " ") // without the time
			if got != step.want {
				t.Errorf("with %v it is logged: %s, want %s", step.reasons, got, step.want)
			}
		}
	})
}

// A service that is ready from the start says so at once.
func TestReadinessIsLoggedAtOnce(t *testing.T) {
	var out bytes.Buffer
	w := &readinessWatch{log: slog.New(slog.NewTextHandler(&out, nil)), ready: func() []reason { return nil }, started: time.Now()}
	w.look(t.Context())
	if !strings.Contains(out.String(), "msg=ready") {
		t.Errorf("logged: %s", out.String())
	}
}

// Events that wait while none is finished are a reason not to be ready, after a while.
func TestStandstillIsAReason(t *testing.T) {
	const part = "progress of tokens"
	unknown := errors.New("consumer not found")
	type look struct {
		after time.Duration
		state stream.Progress
		err   error
		want  string // the reason
	}
	for name, looks := range map[string][]look{
		"nothing waits": {
			{time.Hour, stream.Progress{Floor: 7}, nil, ""},
			{time.Hour, stream.Progress{Floor: 7}, nil, ""},
		},
		"events are finished": {
			{time.Minute, stream.Progress{Floor: 7, Pending: 5}, nil, ""},
			{time.Minute, stream.Progress{Floor: 8, Pending: 9}, nil, ""},
			{time.Minute, stream.Progress{Floor: 9, Pending: 9}, nil, ""},
		},
		"events are finished behind one that is not": {
			{time.Minute, stream.Progress{Floor: 7, Pending: 5}, nil, ""},
			{time.Minute, stream.Progress{Floor: 7, Pending: 3, InFlight: 1}, nil, ""},
			{time.Minute, stream.Progress{Floor: 7, Pending: 3}, nil, ""},
		},
		"none is finished": {
			{0, stream.Progress{Floor: 7, Pending: 1, InFlight: 1}, nil, ""},
			{time.Minute, stream.Progress{Floor: 7, Pending: 1, InFlight: 1}, nil, ""},
			{1500 * time.Millisecond, stream.Progress{Floor: 7, InFlight: 2}, nil, "2 events wait and none was finished for 1m1s"},
			{500 * time.Millisecond, stream.Progress{Floor: 7, InFlight: 3}, nil, "3 events wait and none was finished for 1m2s"},
			{time.Second, stream.Progress{Floor: 8, InFlight: 2}, nil, ""},
		},
		"nobody knows": {
			{time.Minute, stream.Progress{}, unknown, ""},
			{1500 * time.Millisecond, stream.Progress{}, unknown, "not known for 1m1s: consumer not found"},
			{time.Second, stream.Progress{Floor: 1}, nil, ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			var next look
			h := newHealth(outage.New(slog.New(slog.DiscardHandler), mysqlPart, time.Now))
			w := newProgressWatch(part, h, func() time.Time { return now }, time.Minute, func(context.Context) (stream.Progress, error) {
				return next.state, next.err
			})
			for _, next = range looks {
				now = now.Add(next.after)
				w.look(t.Context())
				got := fmt.Sprint(joined(h.notReady()))
				if want := cmp.Or(next.want, "<nil>"); strings.TrimPrefix(got, part+": ") != want {
					t.Errorf("after %v: %s, want %s", next, got, want)
				}
				if next.err == nil && w.latest() != next.state {
					t.Errorf("the progress is said to be %+v, want %+v", w.latest(), next.state)
				}
			}
		})
	}
}

// That MySQL is away is logged once for all, and not by each part. A stopped service is no defect.
func TestLevelsOfFailures(t *testing.T) {
	for _, test := range []struct {
		err  error
		want slog.Level
	}{
		{fmt.Errorf("saving: %w", repo.ErrUnavailable), slog.LevelDebug},
		{fmt.Errorf("saving: %w", context.Canceled), slog.LevelDebug},
		{errors.New("INSERT command denied"), slog.LevelWarn},
	} {
		if got := levelOf(test.err); got != test.want {
			t.Errorf("%v is logged at %v, want %v", test.err, got, test.want)
		}
	}
}
