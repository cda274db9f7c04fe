package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/inflight"
	"preauth/internal/pause"
	"preauth/internal/quota"
	"preauth/internal/view"
	"preauth/repo"
	"preauth/wechat"
)

const (
	// quickWait is the longest wait between tries for which an event stays in flight. An event that has
	// to wait longer is recorded as failed, with the time of the next try.
	quickWait = 2 * time.Second
	// quickTries and quickTime bound the calls made for an event before it is recorded as failed.
	quickTries = 5
	quickTime  = 5 * time.Second
	// youngToken is the age up to which a rejected token is tried once more: WeChat may not know it
	// everywhere yet.
	youngToken = 30 * time.Second
)

// errUnwanted means that the code is not wanted any more: a newer token was announced, or another
// replica works on the component.
var errUnwanted = errors.New("a newer token was announced, or the component's lease has ended")

// china is the time zone in which WeChat's day begins.
var china = time.FixedZone("UTC+8", 8*60*60)

// issuer asks WeChat for codes. Nothing else calls WeChat.
type issuer struct {
	api     *wechat.Client
	quota   *quota.Quota
	calls   inflight.Slots
	codes   *view.Codes
	delays  Delays
	now     func() time.Time
	trace   tracer
	metrics *metrics
	log     *slog.Logger
}

func newIssuer(cfg Config, api *wechat.Client, codes *view.Codes, m *metrics, log *slog.Logger) *issuer {
	return &issuer{
		api: api, quota: quota.New(cfg.CallsPerSecond, cfg.CallsPerDay, china, cfg.Now), calls: inflight.NewSlots(cfg.Calls),
		codes: codes, delays: cfg.Delays, now: cfg.Now, trace: cfg.tracer, metrics: m, log: log,
	}
}

// watch registers the gauges of what WeChat says of quotas.
func (i *issuer) watch(registerer prometheus.Registerer) {
	show := func(name, help string, read func(quota.Known) float64) {
		gauge(registerer, name, help, nil, func() float64 { return read(i.quota.Known()) })
	}
	show("wechat_quota_components", "Components of which WeChat has said to this replica what is left of today's quota.",
		func(k quota.Known) float64 { return float64(k.Keys) })
	show("wechat_quota_limit", "Calls in a day of the component that has the smallest part left, 0 if WeChat does not say.",
		func(k quota.Known) float64 { return float64(k.Least.Limit) })
	show("wechat_quota_remaining", "What it has left today.", func(k quota.Known) float64 { return float64(k.Least.Remaining) })
	show("wechat_quota_rate", "Its limit of calls per second, 0 if WeChat does not say.",
		func(k quota.Known) float64 { return k.Least.Rate })
}

// priority says which calls have to yield when calls are scarce.
type priority int

const (
	// priorityCurrent: the current code, for a token event or a renewal.
	priorityCurrent priority = iota
	// priorityDemand: the current code, for a look-up that waits for it.
	priorityDemand
	// priorityClaim: a code for a claim that waits for it.
	priorityClaim
	// prioritySpare: a code made ahead of claims.
	prioritySpare
)

// reserve is the part of a component's quota that the priority leaves to higher ones.
func (p priority) reserve() float64 {
	switch p {
	case prioritySpare:
		return 0.5
	case priorityDemand, priorityClaim:
		return 0.1
	default:
		return 0
	}
}

// order is a code to be issued.
type order struct {
	// outcome is to be completed with the code or the failure.
	outcome  repo.Outcome
	secret   preauth.Secret
	issuedAt time.Time // of the token
	// attempts counts the failed calls since the component's last code or token event.
	attempts int
	// rejected tells that WeChat rejected the token before.
	rejected bool
	// tries bounds the calls that are made before a failure is recorded.
	tries int
	// priority decides when calls are scarce.
	priority priority
	// unwanted reports that the code is not wanted any more.
	unwanted func() bool
}

// issue completes the order's outcome with a code, or with the failure and the time of the next try.
// The error is errUnwanted, that of ctx, or for a code that is not to become current, that of the
// quota.
func (i *issuer) issue(ctx context.Context, o order) (repo.Outcome, error) {
	started := i.now()
	for try := 1; ; try++ {
		asked, code, err := i.call(ctx, o)
		switch {
		case ctx.Err() != nil:
			return repo.Outcome{}, ctx.Err()
		case errors.Is(err, errUnwanted), o.priority >= priorityClaim && isOfQuota(err):
			return repo.Outcome{}, err
		}
		now := i.now()
		o.outcome.At = now
		if err == nil {
			return i.succeed(ctx, o.outcome, asked, code), nil
		}
		failed, ok := errors.AsType[*wechat.Error](err)
		if !ok {
			failed = quotaFailure(err, o.priority)
		}
		o.attempts++
		delay, again := i.delays.after(failed.Class, o.attempts, !o.rejected && now.Sub(o.issuedAt) < youngToken, now)
		o.rejected = o.rejected || failed.Class == preauth.ClassTokenRejected
		if again && delay <= quickWait && try < o.tries && now.Sub(started) < quickTime {
			i.log.Debug("trying again", "component", o.outcome.AppID, "class", string(failed.Class), "in", delay)
			if !pause.For(ctx, delay) {
				return repo.Outcome{}, ctx.Err()
			}
			continue
		}
		var retryAt time.Time
		if again {
			retryAt = now.Add(delay)
		}
		return fail(o.outcome, failed, o.attempts, now, retryAt), nil
	}
}

// isOfQuota reports whether the quota forbade a call.
func isOfQuota(err error) bool {
	return errors.Is(err, quota.ErrExceeded) || errors.Is(err, quota.ErrSpent)
}

// quotaFailure is the failure of a call that the quota forbade. A code on demand is asked for again
// in a minute, as a renewal: what is kept for renewals may be enough, and the current code must not
// die meanwhile.
func quotaFailure(err error, p priority) *wechat.Error {
	class := preauth.ClassThrottled
	if errors.Is(err, quota.ErrSpent) && p == priorityCurrent {
		class = preauth.ClassQuota
	}
	return &wechat.Error{Class: class, ErrMsg: err.Error()}
}

// call makes one call. asked is when it began, and the code's life counts from then: WeChat begins to
// count before its answer arrives, and nobody is to be given a code that has died since.
func (i *issuer) call(ctx context.Context, o order) (asked time.Time, code wechat.Code, err error) {
	ctx, issuing := i.trace.work(ctx, "issue", o.outcome.AppID)
	defer func() {
		switch {
		case errors.Is(err, errUnwanted): // which is no failure
			issuing.end(nil)
		case isOfQuota(err):
			issuing.end(quotaFailure(err, o.priority))
		default:
			issuing.end(err)
		}
	}()
	if o.unwanted() { // costs nothing of the quota
		return time.Time{}, wechat.Code{}, errUnwanted
	}
	appid := o.outcome.AppID
	ask := i.asker(appid, o.secret)
	if err := i.quota.Begin(ctx, appid, o.priority.reserve(), ask); err != nil {
		return time.Time{}, wechat.Code{}, err
	}
	defer i.quota.Finish(appid)
	if err := i.calls.Acquire(ctx); err != nil {
		return time.Time{}, wechat.Code{}, err
	}
	defer i.calls.Release(1)
	if o.unwanted() { // while it waited
		return time.Time{}, wechat.Code{}, errUnwanted
	}
	asked = i.now()
	started := time.Now()
	code, err = i.api.CreatePreAuthCode(ctx, appid, o.secret)
	i.metrics.called(err, time.Since(started))
	if failed, ok := errors.AsType[*wechat.Error](err); ok && (failed.Class == preauth.ClassQuota || failed.Class == preauth.ClassThrottled) {
		i.quota.Doubt(ctx, appid, ask)
	}
	return asked, code, err
}

// asker asks WeChat what is left of a component's quota. That it does not say is no failure.
func (i *issuer) asker(appid string, token preauth.Secret) quota.Ask {
	return func(ctx context.Context) (quota.Answer, error) {
		q, err := i.api.Quota(ctx, token)
		i.metrics.asked(err)
		if err != nil {
			i.log.Debug("quota not known", "component", appid, "error", err)
			return quota.Answer{}, err
		}
		answer := quota.Answer{Limit: q.DailyLimit, Remaining: q.Remaining}
		if q.RateWindow > 0 {
			answer.Rate = float64(q.RateCalls) / q.RateWindow.Seconds()
		}
		return answer, nil
	}
}

func (i *issuer) succeed(ctx context.Context, outcome repo.Outcome, asked time.Time, code wechat.Code) repo.Outcome {
	outcome.Code = &repo.Code{
		PreAuthCode: code.PreAuthCode,
		IssuedAt:    asked.UTC().Truncate(time.Microsecond),
		ExpiresAt:   asked.Add(code.ExpiresIn).UTC().Truncate(time.Microsecond),
	}
	outcome.DueAt = renewAt(outcome.Code)
	outcome.MinRevision = i.codes.LastStored(outcome.AppID).Revision
	i.trace.step(ctx, outcomeStep(StepIssued, outcome))
	return outcome
}

// renewAt is when a code is to be renewed: when a quarter of its life is left, or a little earlier,
// so that codes made at the same time are not renewed at the same time. Spares are topped up then, so
// they count on a renewal before an eighth is left.
func renewAt(code *repo.Code) time.Time {
	life := code.ExpiresAt.Sub(code.IssuedAt)
	lead := life/4 + rand.N(life/50+1)
	return code.ExpiresAt.Add(-lead).Truncate(time.Microsecond)
}

// fail completes an outcome with a failure. attempts counts the failed calls since the component's
// last code or token event. The next try is at retryAt, if the token is alive then; the zero time
// gives up.
func fail(outcome repo.Outcome, failed *wechat.Error, attempts int, now, retryAt time.Time) repo.Outcome {
	position := outcome.Token.Position
	failure := &preauth.Failure{
		AppID: outcome.AppID, Class: failed.Class, ErrCode: failed.ErrCode, ErrMsg: failed.ErrMsg,
		RID: failed.RID, RequestIP: failed.RequestIP,
		Stream: position.Stream, StreamSequence: position.Sequence,
		Attempt: attempts, OccurredAt: now.UTC().Truncate(time.Microsecond),
	}
	if failure.ErrMsg == "" {
		failure.ErrMsg = failed.Error()
	}
	if retryAt.Before(outcome.Token.ExpiresAt) && !retryAt.IsZero() {
		failure.RetryAt = retryAt.UTC().Truncate(time.Microsecond)
	}
	outcome.Code, outcome.At = nil, now
	outcome.Failure, outcome.DueAt = failure, failure.RetryAt
	outcome.FailureID = failureID(position, failure.OccurredAt)
	return outcome
}

// errNoToken means that nothing can be done for a component before its token service announces a
// newer token.
var errNoToken = errors.New("the component's token has expired: announce a newer one")

// expired completes an outcome for a token that is dead. Nothing more is tried until a newer one
// comes.
func expired(outcome repo.Outcome, now time.Time) repo.Outcome {
	dead := &wechat.Error{Class: preauth.ClassTokenExpired, ErrMsg: errNoToken.Error()}
	return fail(outcome, dead, 0, now, time.Time{})
}

// failureID is the message id of a failure: the event, and when it failed. It is made once, with the
// failure, and stays with it in the outbox.
func failureID(p repo.Position, at time.Time) string {
	return fmt.Sprintf("failed.%s.%d.%d.%d", p.Stream, p.StreamCreated.UnixMicro(), p.Sequence, at.UnixMicro())
}

// after returns how long to wait after a failure, and whether to try again with this token at all.
// attempt counts the failed calls since the component's last code or token event. fresh tells that
// WeChat may not know the token everywhere yet.
func (d Delays) after(class preauth.Class, attempt int, fresh bool, now time.Time) (time.Duration, bool) {
	switch class {
	case preauth.ClassTransient, preauth.ClassBadReply:
		doubled := d.TransientMax
		if shift := min(attempt-1, 30); d.Transient<<shift > 0 {
			doubled = min(d.TransientMax, d.Transient<<shift)
		}
		return pause.Jittered(doubled), true
	case preauth.ClassThrottled:
		return pause.Jittered(d.Throttled), true
	case preauth.ClassQuota:
		y, mo, day := now.In(china).Date()
		tomorrow := time.Date(y, mo, day+1, 0, 0, 0, 0, china)
		// Spread over the first minute of the day, so that not all components ask at midnight.
		return min(pause.Jittered(d.Quota), tomorrow.Sub(now)+rand.N(time.Minute)), true
	case preauth.ClassAddressNotAllowed, preauth.ClassConfiguration:
		return pause.Jittered(d.Operator), true
	case preauth.ClassUnknown:
		if attempt == 1 {
			return d.Once, true
		}
		return pause.Jittered(d.Operator), true
	case preauth.ClassTokenRejected:
		return d.Once, fresh
	default: // a defect of ours, which no repetition mends
		return 0, false
	}
}
