package consumer_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// The simulation is short by default. To simulate a whole day of a large platform:
//
//	go test ./consumer -run TestSimulatedDay -simulate 24h -simulate-components 1000 -timeout 1h -v
var (
	simulated  = flag.Duration("simulate", 2*time.Hour, "simulated time")
	components = flag.Int("simulate-components", 10, "simulated components")
)

// simClock stands still until it is moved.
type simClock struct{ now atomic.Int64 }

func (c *simClock) Now() time.Time          { return time.Unix(0, c.now.Load()).UTC() }
func (c *simClock) set(t time.Time)         { c.now.Store(t.UnixNano()) }
func (c *simClock) advance(d time.Duration) { c.now.Add(int64(d)) }

// No look-up misses while the component's token is valid and WeChat has answered within the last
// lead time. The service makes hardly more codes than that takes.
func TestSimulatedDay(t *testing.T) {
	for _, life := range []time.Duration{600 * time.Second, 1800 * time.Second} {
		t.Run(life.String(), func(t *testing.T) { simulate(t, life, *simulated, *components) })
	}
}

func simulate(t *testing.T, life, duration time.Duration, components int) {
	const (
		step    = 15 * time.Second
		refresh = 110 * time.Minute
	)
	lead := life / 4
	var clock simClock
	// The simulation runs in the past, so that the stream's real time stamps are never before its
	// clock.
	clock.set(time.Now().Add(-duration - 3*time.Hour))
	start := clock.Now()

	w := newWorld(t, wechattest.Options{CodeLife: life, Now: clock.Now, KeepCalls: 1 << 20})
	var (
		mu   sync.Mutex
		done = map[uint64]bool{} // acknowledged sequences; on a loaded machine some come twice
	)
	w.start(func(s *setup) {
		s.cfg.Now = clock.Now
		s.onStep = func(step consumer.Step) {
			if step.Name == consumer.StepAcknowledged {
				mu.Lock()
				defer mu.Unlock()
				done[step.Sequence] = true
			}
		}
		s.cfg.CallsPerSecond, s.cfg.CallsPerDay = 100_000, 100_000_000
	}).ready()

	// WeChat fails for stretches of up to twice the lead time.
	random := rand.New(rand.NewPCG(1, uint64(life)))
	var failing atomic.Bool
	var failed atomic.Int64
	w.wechat.Every(func(wechattest.Call) wechattest.Fault {
		if !failing.Load() {
			return wechattest.Fault{}
		}
		failed.Add(1)
		return wechattest.Error(-1, "")
	})
	type stretch struct{ from, to time.Time }
	var stretches []stretch
	for at := start.Add(time.Hour); at.Before(start.Add(duration)); at = at.Add(2*time.Hour + time.Duration(random.Int64N(int64(time.Hour)))) {
		stretches = append(stretches, stretch{at, at.Add(time.Duration(random.Int64N(int64(2 * lead))))})
	}
	var answered time.Time // when WeChat last worked
	next := make([]time.Time, components)
	appids := make([]string, components)
	for i := range next {
		next[i] = start.Add(time.Duration(random.Int64N(int64(refresh))))
		appids[i] = fmt.Sprintf("wx%d", i)
	}
	known := make([]bool, components)

	database := w.database
	var (
		looked, missed int
		settledEvents  int
		minimum        int
	)
	for now := start; now.Before(start.Add(duration)); now = clock.Now() {
		inStretch := false
		for _, s := range stretches {
			inStretch = inStretch || !now.Before(s.from) && now.Before(s.to)
		}
		failing.Store(inStretch)
		if !inStretch {
			answered = now
		}
		for i, appid := range appids {
			if next[i].After(now) {
				continue
			}
			next[i] = next[i].Add(refresh)
			event := preauth.TokenEvent{
				AppID: appid, Token: preauth.NewSecret(fmt.Sprintf("token-%d-%d", i, now.UnixNano())),
				IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour),
			}
			w.publish(preauth.SubjectFor("component.token.updated", appid), event.Encode())
			known[i] = known[i] || !inStretch
			settledEvents++
			// Until the next token or the end of the simulation, each code serves until its lead begins.
			minimum += int((min(refresh, start.Add(duration).Sub(now)) + life - lead - 1) / (life - lead))
		}
		// The clock stands still until no work is left.
		w.eventually("events done", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(done) == settledEvents
		})
		w.eventually("nothing due", func() bool {
			due, err := dueNow(database, now)
			return err == nil && due == 0
		})
		if now.Sub(answered) < lead {
			n, bad := lookUpAll(w, appids, known)
			looked += n
			missed += bad
		}
		clock.advance(step)
	}
	made := len(w.wechat.Issued(""))
	ratio := float64(made) / float64(minimum)
	t.Logf("%d components, %v, life %v: %d look-ups, %d missed; %d codes made, %d needed: ratio %.3f; %d calls failed in %d outages",
		components, duration, life, looked, missed, made, minimum, ratio, failed.Load(), len(stretches))
	if missed > 0 {
		t.Errorf("%d of %d look-ups missed", missed, looked)
	}
	if made > minimum*105/100+2 { // two, because a short simulation has few
		t.Errorf("%d codes made, %.3f times the %d needed, want at most 1.05 times", made, ratio, minimum)
	}
}

// lookUpAll looks up the components that should have a code. It returns how many it looked up and
// how many of them got no code.
func lookUpAll(w *world, appids []string, known []bool) (looked, missed int) {
	var replies sync.WaitGroup
	var bad atomic.Int64
	inbox, err := w.nc.Subscribe(w.nc.NewInbox(), func(msg *nats.Msg) {
		if preauth.ParseError(msg.Header.Get, msg.Data) != nil {
			bad.Add(1)
		}
		replies.Done()
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = inbox.Unsubscribe() }()
	for i, appid := range appids {
		if !known[i] {
			continue
		}
		looked++
		replies.Add(1)
		if err := w.nc.PublishRequest(preauth.SubjectFor("preauth.lookup", appid), inbox.Subject, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	replies.Wait()
	return looked, int(bad.Load())
}

// dueNow returns how many components are due or leased.
func dueNow(database *sqlx.DB, now time.Time) (int, error) {
	var due int
	err := database.Get(&due, "SELECT COUNT(*) FROM component WHERE due_at <= ? OR lease IS NOT NULL", now)
	return due, err
}
