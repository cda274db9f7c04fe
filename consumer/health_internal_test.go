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

// A call of MySQL is repeated while MySQL is away, soon at first and then once a second. What MySQL
// answers ends that, and so does the caller's context.
func TestCallsAreRepeatedWhileMySQLIsAway(t *testing.T) {
	denied, locked := errors.New("INSERT command denied"), fmt.Errorf("%w: lock wait timeout", repo.ErrUnavailable)
	for name, test := range map[string]struct {
		fails       int // because MySQL is away
		answer      error
		giveUpAfter time.Duration
		want        error
		calls       int // 0 for any number
		least, most time.Duration
	}{
		"MySQL is there":        {0, nil, time.Hour, nil, 1, 0, 0},
		"MySQL refuses":         {0, denied, time.Hour, denied, 1, 0, 0},
		"away once":             {1, nil, time.Hour, nil, 2, 25 * time.Millisecond, 75 * time.Millisecond},
		"away for long":         {120, nil, time.Hour, nil, 121, time.Minute, 3 * time.Minute},
		"away, and refuses":     {3, denied, time.Hour, denied, 4, 75 * time.Millisecond, time.Second},
		"away until the end":    {1 << 30, nil, time.Minute, context.DeadlineExceeded, 0, time.Minute, time.Minute},
		"the end comes before":  {1 << 30, nil, 0, context.DeadlineExceeded, 1, 0, 0},
		"an answer at the end":  {0, nil, 0, nil, 1, 0, 0},
		"refused after the end": {0, denied, 0, context.DeadlineExceeded, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHealth(outage.New(slog.New(slog.DiscardHandler), mysqlPart, time.Now))
				ctx, cancel := context.WithTimeout(t.Context(), test.giveUpAfter)
				defer cancel()
				began, calls := time.Now(), 0
				err := untilAvailable(ctx, h, "saving", func(context.Context) error {
					if calls++; calls <= test.fails {
						return locked
					}
					return test.answer
				})
				took := time.Since(began)
				if !errors.Is(err, test.want) || errors.Is(err, repo.ErrUnavailable) || test.calls > 0 && calls != test.calls ||
					took < test.least || took > test.most {
					t.Errorf("%v after %d calls and %v", err, calls, took)
				}
				// A call that the end of its context has cut off says nothing of MySQL.
				reason := ""
				switch {
				case test.giveUpAfter == 0:
				case test.answer != nil:
					reason = "saving: INSERT command denied"
				case test.want != nil:
					reason = "MySQL: saving: database unavailable: lock wait timeout"
				}
				if got := strings.ReplaceAll(fmt.Sprint(joined(h.notReady())), "<nil>", ""); got != reason {
					t.Errorf("not ready: %s, want %s", got, reason)
				}
			})
		})
	}
}

// A watch looks every two seconds or so. A look that hangs is cut off, and the watch ends with its
// context.
func TestWatchLooksFromTimeToTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began, looks, ended := time.Now(), 0, time.Duration(0)
		go func() {
			watch(ctx, func(lookCtx context.Context) {
				if looks++; looks == 1 && time.Since(began) != 0 {
					t.Error("the first look comes late")
				}
				if looks == 3 {
					before := time.Now()
					<-lookCtx.Done()
					if hung := time.Since(before); hung != lookTimeout || ctx.Err() != nil {
						t.Errorf("a look is cut off after %v", hung)
					}
				}
			})
			ended = time.Since(began)
		}()
		<-time.After(10*watchEvery + lookTimeout)
		synctest.Wait()
		if looks < 8 || looks > 11 {
			t.Errorf("%d looks", looks)
		}
		cancel()
		synctest.Wait()
		if ended != 10*watchEvery+lookTimeout {
			t.Errorf("ended after %v", ended)
		}
	})
}
