package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"preauth"
	"preauth/repo"
	"preauth/wechat"
)

const (
	// inHandWait is the longest wait that is spent with the event in hand. What has to wait longer
	// is recorded as failed, with the time at which the due loop tries again.
	inHandWait = 2 * time.Second
	// inHandTries and inHandTime bound the calls made for an event before it is recorded as failed.
	inHandTries = 5
	inHandTime  = 5 * time.Second
	// youngToken is the age up to which a rejected token is tried once more.
	youngToken = 30 * time.Second
)

// errOvertaken: somebody else makes a code, or has one made, which makes this one moot.
var errOvertaken = errors.New("a newer token was announced, or the component's lease ends")

// china is the time zone in which WeChat's day begins.
var china = time.FixedZone("UTC+8", 8*60*60)

// minter asks WeChat for codes. It is the only caller of package wechat's API.
type minter struct {
	*Service
	api   *wechat.Client
	calls chan struct{} // bounds the calls under way
	*limits
}

func newMinter(s *Service, api *wechat.Client) *minter {
	return &minter{
		Service: s, api: api, calls: make(chan struct{}, s.cfg.Calls),
		limits: newLimits(s.cfg.CallsPerSecond, s.cfg.CallsPerDay),
	}
}

// job is a code to be made.
type job struct {
	// outcome is to be completed with the code or the failure.
	outcome  repo.Outcome
	secret   preauth.Secret
	issuedAt time.Time
	// attempts counts the calls in vain since the component's last success.
	attempts int
	// rejected tells that WeChat rejected the token before.
	rejected bool
	// tries bounds the calls made before a failure is recorded.
	tries int
	// priority decides when calls are short.
	priority priority
	// overtaken reports that the code has become moot meanwhile: errOvertaken.
	overtaken func() bool
}

// mint completes the job's outcome with a code, or with the failure and the time of the next try.
// The error is errOvertaken, that of ctx, or errLimit for a code that is not to become current.
func (m *minter) mint(ctx context.Context, j job) (repo.Outcome, error) {
	started := m.cfg.Now()
	for try := 1; ; try++ {
		asked, code, err := m.call(ctx, j)
		if ctx.Err() != nil {
			return repo.Outcome{}, ctx.Err()
		}
		if errors.Is(err, errOvertaken) {
			return repo.Outcome{}, err
		}
		if errors.Is(err, errLimit) && j.priority >= priorityClaim {
			return repo.Outcome{}, errLimit
		}
		now := m.cfg.Now()
		j.outcome.At = now
		if err == nil {
			j.outcome.Code = &repo.Code{
				PreAuthCode: code.PreAuthCode,
				IssuedAt:    asked.UTC().Truncate(time.Microsecond),
				ExpiresAt:   asked.Add(code.ExpiresIn).UTC().Truncate(time.Microsecond),
			}
			j.outcome.DueAt = renewAt(j.outcome.Code)
			j.outcome.MinRevision = m.codes.lastAnnounced(j.outcome.AppID).revision
			m.step(Step{
				AppID: j.outcome.AppID, Sequence: j.outcome.Token.Position.Sequence, Cause: j.outcome.Cause,
			}, StepMinted)
			return j.outcome, nil
		}
		failed, ok := errors.AsType[*wechat.Error](err)
		if !ok { // errLimit
			failed = &wechat.Error{Class: preauth.ClassThrottled, ErrMsg: err.Error()}
		}
		j.attempts++
		delay, again := m.delay(failed.Class, j.attempts, !j.rejected && now.Sub(j.issuedAt) < youngToken, now)
		j.rejected = j.rejected || failed.Class == preauth.ClassTokenRejected
		if again && delay <= inHandWait && try < j.tries && now.Sub(started) < inHandTime {
			m.log.Debug("trying again", "component", j.outcome.AppID, "class", string(failed.Class), "in", delay)
			if !pause(ctx, delay) {
				return repo.Outcome{}, ctx.Err()
			}
			continue
		}
		var retryAt time.Time
		if again {
			retryAt = now.Add(delay)
		}
		return fail(j.outcome, failed, j.attempts, now, retryAt), nil
	}
}

// call makes one call and returns when WeChat was asked, from when on the code's life counts: WeChat begins to
// count at some time before its answer arrives, and nobody is to be given a code that has died since.
func (m *minter) call(ctx context.Context, j job) (asked time.Time, code wechat.Code, err error) {
	if j.overtaken() { // costs nothing of the limits
		return time.Time{}, wechat.Code{}, errOvertaken
	}
	if err := m.limits.wait(ctx, j.outcome.AppID, j.priority); err != nil {
		return time.Time{}, wechat.Code{}, err
	}
	select {
	case m.calls <- struct{}{}:
		defer func() { <-m.calls }()
	case <-ctx.Done():
		return time.Time{}, wechat.Code{}, ctx.Err()
	}
	if j.overtaken() { // while it waited
		return time.Time{}, wechat.Code{}, errOvertaken
	}
	asked = m.cfg.Now()
	started := time.Now()
	code, err = m.api.CreatePreAuthCode(ctx, j.outcome.AppID, j.secret)
	m.metrics.called(err, time.Since(started))
	return asked, code, err
}

// fail completes an outcome with a failure. attempts counts the calls in vain since the component's
// last success. It is tried again at retryAt, if the token lives then; the zero time gives up.
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

// expired completes an outcome for a token that is dead: nothing more is tried until a newer one
// comes.
func expired(outcome repo.Outcome, now time.Time) repo.Outcome {
	dead := &wechat.Error{Class: preauth.ClassTokenExpired, ErrMsg: errNoToken.Error()}
	return fail(outcome, dead, 0, now, time.Time{})
}

// delay returns how long to wait after a failure, and whether to try again with this token at all.
// attempt counts the calls in vain since the component's last success. fresh is a token that WeChat may not know
// everywhere yet.
func (m *minter) delay(class preauth.Class, attempt int, fresh bool, now time.Time) (time.Duration, bool) {
	d := m.cfg.Delays
	switch class {
	case preauth.ClassTransient, preauth.ClassBadReply:
		doubled := d.TransientMax
		if shift := min(attempt-1, 30); d.Transient<<shift > 0 {
			doubled = min(d.TransientMax, d.Transient<<shift)
		}
		return jittered(doubled), true
	case preauth.ClassThrottled:
		return jittered(d.Throttled), true
	case preauth.ClassQuota:
		y, mo, day := now.In(china).Date()
		tomorrow := time.Date(y, mo, day+1, 0, 0, 0, 0, china)
		// Spread over the first minute of the day, so that not all components ask at midnight.
		return min(jittered(d.Quota), tomorrow.Sub(now)+rand.N(time.Minute)), true
	case preauth.ClassAddressNotAllowed, preauth.ClassConfiguration:
		return jittered(d.Operator), true
	case preauth.ClassUnknown:
		if attempt == 1 {
			return d.Once, true
		}
		return jittered(d.Operator), true
	case preauth.ClassTokenRejected:
		return d.Once, fresh
	default: // a defect of ours, which no repetition mends
		return 0, false
	}
}

// renewAt is when a code is to be renewed: when a quarter of its life is left, or a little earlier,
// so that codes made at the same time are not renewed at the same time.
func renewAt(code *repo.Code) time.Time {
	life := code.ExpiresAt.Sub(code.IssuedAt)
	lead := life/4 + rand.N(life/50+1)
	return code.ExpiresAt.Add(-lead).Truncate(time.Microsecond)
}
