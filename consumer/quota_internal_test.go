package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/quota"
	"preauth/internal/view"
	"preauth/repo"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// quotaRig is one component whose quota several replicas share, with a clock of its own.
type quotaRig struct {
	t      *testing.T
	now    atomic.Pointer[time.Time]
	wechat *wechattest.Server
	token  preauth.Secret

	mu sync.Mutex
	// made and refused count the calls of the day by priority. until is how many calls were made when the
	// quota first forbade one of the priority.
	made, refused, until map[priority]int
}

const quotaAppID = "wx1"

// newQuotaRig begins at midnight in China.
func newQuotaRig(t *testing.T, limit int) *quotaRig {
	t.Helper()
	q := &quotaRig{t: t, token: preauth.NewSecret("token-of-" + quotaAppID)}
	q.forget()
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, china)
	q.now.Store(&start)
	var err error
	q.wechat, err = wechattest.Start(wechattest.Options{
		DailyQuota: limit, QuotaLag: limit / 100, TokenLife: 100 * time.Hour, Now: q.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.wechat.Close)
	q.wechat.SetToken(quotaAppID, q.token)
	return q
}

// forget begins to count anew.
func (q *quotaRig) forget() {
	q.made, q.refused, q.until = map[priority]int{}, map[priority]int{}, map[priority]int{}
}

func (q *quotaRig) clock() time.Time { return *q.now.Load() }

func (q *quotaRig) advance(d time.Duration) {
	now := q.clock().Add(d)
	q.now.Store(&now)
}

// replica returns the issuer of a replica, with a client of its own.
func (q *quotaRig) replica() *issuer {
	q.t.Helper()
	api, err := wechat.New(wechat.Config{BaseURLs: []string{q.wechat.URL()}})
	if err != nil {
		q.t.Fatal(err)
	}
	cfg := Config{CallsPerSecond: 100_000, Now: q.clock}.withDefaults()
	i := newIssuer(cfg, api, view.NewCodes(), newMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	q.t.Cleanup(func() {
		i.quota.WaitForAnswers()
		api.Close()
	})
	return i
}

// issue has a replica issue a code, and counts what became of it.
func (q *quotaRig) issue(i *issuer, p priority) (repo.Outcome, error) {
	now := q.clock()
	outcome, err := i.issue(q.t.Context(), order{
		outcome: repo.Outcome{AppID: quotaAppID, Token: repo.Token{ExpiresAt: now.Add(100 * time.Hour)}},
		secret:  q.token, issuedAt: now.Add(-time.Hour), tries: 1, priority: p, unwanted: func() bool { return false },
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil && outcome.Code != nil {
		q.made[p]++
		return outcome, err
	}
	if q.refused[p]++; q.refused[p] == 1 {
		q.until[p] = q.sum()
	}
	return outcome, err
}

// sum returns the calls of the day.
func (q *quotaRig) sum() (n int) {
	for _, made := range q.made {
		n += made
	}
	return n
}

// above returns how many calls WeChat refused because the day's quota was used up.
func (q *quotaRig) above() (n int) {
	for _, call := range q.wechat.Calls(quotaAppID) {
		if call.ErrCode == 45009 {
			n++
		}
	}
	return n
}

// Replicas that know nothing of one another share WeChat's quota of a component: no call is above the
// limit, spares yield first, then claims, and renewals last. With -v it prints the table of
// docs/reliability.md.
func TestReplicasShareWeChatsQuota(t *testing.T) {
	const limit = 2000
	t.Log("| replicas | calls of 2,000 | refused by WeChat | spares | the first one refused after | claims | the first one refused after | renewals of 70 | questions |")
	for replicas := 1; replicas <= 4; replicas++ {
		q := newQuotaRig(t, limit)
		var all []*issuer
		for range replicas {
			all = append(all, q.replica())
		}
		for range 2 {
			q.forget()
			before := q.wechat.Questions(quotaAppID)
			q.day(all)
			questions := q.wechat.Questions(quotaAppID) - before
			if n := q.sum(); n > limit {
				t.Errorf("%d replicas: %d calls", replicas, n)
			}
			if spares, claims := q.until[prioritySpare], q.until[priorityClaim]; spares < limit*4/10 || spares > limit*6/10 ||
				claims < limit*8/10 || claims > limit*95/100 {
				t.Errorf("%d replicas: spares yield after %d calls, claims after %d", replicas, spares, claims)
			}
			if n := q.refused[priorityCurrent]; n > 0 {
				t.Errorf("%d replicas: %d renewals were refused", replicas, n)
			}
			if n := q.above(); n > 0 {
				t.Errorf("%d replicas: %d calls above the limit", replicas, n)
			}
			made := q.sum()
			spares, claims, renewals := q.made[prioritySpare], q.made[priorityClaim], q.made[priorityCurrent]
			q.spend(all)
			if n := q.above(); n > 0 {
				t.Errorf("%d replicas: %d calls above the limit in a rush of renewals", replicas, n)
			}
			if q.clock().Day() > 1 {
				t.Logf("| %d | %d | %d | %d | %d | %d | %d | %d | %d |", replicas, made, q.above(),
					spares, q.until[prioritySpare], claims, q.until[priorityClaim], renewals, questions)
			}
			year, month, day := q.clock().Date()
			q.advance(time.Date(year, month, day+1, 0, 0, 1, 0, china).Sub(q.clock()))
		}
	}
}

// day is a day of renewals, and of more claims than the quota allows, each with a spare made in its
// place where that is still possible. It ends before midnight.
func (q *quotaRig) day(replicas []*issuer) {
	const steps = 70 // of 20 minutes
	for step := range steps {
		var working sync.WaitGroup
		working.Go(func() { q.issue(replicas[step%len(replicas)], priorityCurrent) }) //nolint:errcheck // counted
		for n := range 60 {
			working.Go(func() {
				i := replicas[n%len(replicas)]
				if _, err := q.issue(i, prioritySpare); err != nil {
					q.issue(i, priorityClaim) //nolint:errcheck // counted
				}
			})
		}
		working.Wait()
		q.advance(20 * time.Minute)
	}
}

// spend has all replicas renew until the quota forbids it, and checks how that is reported.
func (q *quotaRig) spend(replicas []*issuer) {
	q.t.Helper()
	var working sync.WaitGroup
	for _, i := range replicas {
		for range 5 {
			working.Go(func() {
				for {
					outcome, err := q.issue(i, priorityCurrent)
					if err != nil {
						q.t.Error(err)
						return
					}
					f := outcome.Failure
					if f == nil {
						continue
					}
					if f.Class != preauth.ClassQuota || f.RetryAt.IsZero() || f.RetryAt.Sub(q.clock()) > 38*time.Minute {
						q.t.Errorf("renewal refused as %+v", f)
					}
					return
				}
			})
		}
	}
	working.Wait()
}

// What is kept for renewals does not go to codes on demand and claims. They fail as the contract
// says.
func TestCallsThatTheQuotaForbids(t *testing.T) {
	q := newQuotaRig(t, 1000)
	q.wechat.SetDailyQuota(quotaAppID, 100)
	i := q.replica()
	for n := 0; ; n++ {
		if _, err := q.issue(i, priorityClaim); err != nil {
			if !errors.Is(err, quota.ErrSpent) {
				t.Fatal(err)
			}
			break
		}
		if n > 100 {
			t.Fatal("no claim was refused")
		}
	}
	if wire := wireError(fmt.Errorf("issuing: %w", quota.ErrSpent)); wire.Code != preauth.StatusUnavailable || wire.Class != preauth.ClassQuota {
		t.Errorf("on the wire: %+v", wire)
	}
	if _, err := q.issue(i, prioritySpare); !errors.Is(err, quota.ErrSpent) {
		t.Errorf("a spare: %v", err)
	}
	// It is tried again soon, as a renewal: the current code must not die meanwhile.
	outcome, err := q.issue(i, priorityDemand)
	if err != nil || outcome.Failure == nil || outcome.Failure.Class != preauth.ClassThrottled || outcome.Failure.RetryAt.Sub(q.clock()) > 2*time.Minute {
		t.Errorf("on demand: %+v, %v", outcome.Failure, err)
	}
	if outcome, err := q.issue(i, priorityCurrent); err != nil || outcome.Code == nil {
		t.Errorf("a renewal: %+v, %v", outcome.Failure, err)
	}
	// An operator raises the quota.
	q.wechat.SetDailyQuota(quotaAppID, 1000)
	q.advance(11 * time.Minute)
	if outcome, err := q.issue(i, priorityClaim); err != nil || outcome.Code == nil {
		t.Errorf("a claim after the quota was raised: %v", err)
	}
}

// Whatever becomes of the questions, calls go by the service's own limits then, and none waits long.
func TestQuestionsThatFailDoNoHarm(t *testing.T) {
	hold := wechattest.NewHold()
	defer hold.Release()
	for name, fault := range map[string]wechattest.Fault{
		"refused": wechattest.Error(76022, ""), "unavailable": wechattest.HTTPStatus(503), "reset": {Reset: wechattest.ResetBefore},
		"no page": wechattest.HTTPStatus(404), "a portal": wechattest.HTML(), "unanswered": {Hold: hold},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuotaRig(t, 1000)
			q.wechat.FailQuestions(fault)
			i := q.replica()
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // that of a request
			defer cancel()
			for _, p := range []priority{priorityCurrent, priorityClaim, prioritySpare, priorityDemand, priorityClaim} {
				if outcome, err := q.issue(i, p); err != nil || outcome.Code == nil {
					t.Errorf("priority %d: %+v, %v", p, outcome.Failure, err)
				}
			}
			if ctx.Err() != nil {
				t.Error("five calls took longer than a request may")
			}
			if n := q.wechat.Questions(""); n != 1 {
				t.Errorf("%d questions, want 1", n)
			}
			if known := i.quota.Known(); known.Keys != 0 {
				t.Errorf("%+v is known", known)
			}
		})
	}
}

// WeChat's refusal makes the service ask.
func TestRefusalMakesTheServiceAsk(t *testing.T) {
	for _, errCode := range []int{45009, 45011} {
		q := newQuotaRig(t, 1000)
		i := q.replica()
		for range 2 {
			if _, err := q.issue(i, priorityClaim); err != nil {
				t.Fatal(err)
			}
		}
		before := q.wechat.Questions(quotaAppID)
		q.wechat.Next(quotaAppID, wechattest.Error(errCode, ""))
		if outcome, err := q.issue(i, priorityCurrent); err != nil || outcome.Failure == nil || outcome.Failure.ErrCode != errCode {
			t.Fatalf("%+v, %v", outcome, err)
		}
		i.quota.WaitForAnswers()
		if n := q.wechat.Questions(quotaAppID) - before; n != 1 {
			t.Errorf("%d questions after errcode %d, want 1", n, errCode)
		}
	}
}
