package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"time"

	"preauth"
	"preauth/internal/batch"
	"preauth/internal/outage"
	"preauth/internal/pause"
	"preauth/internal/view"
	"preauth/repo"
	"preauth/wechat"
)

// transactions bounds the saving transactions under way. With several of them the database commits
// one while others are put together; with many, each would hold few outcomes.
const transactions = 4

// committer saves outcomes, and then tells of them. Outcomes that wait while transactions are under
// way go into the next one, so a lone outcome waits for nobody and a crowd costs few transactions.
type committer struct {
	db        *repo.Repo
	codes     *view.Codes
	publisher *publisher
	health    *health
	metrics   *metrics
	log       *slog.Logger
	trace     tracer
	now       func() time.Time
	retry     time.Duration // after a code that MySQL refuses
	wechat    *outage.Log
	// owned returns nil while the database belongs to this service's streams.
	owned func() error
	// onNewCode is told each component that got a new current code.
	onNewCode func(appid string)

	outcomes *batch.Batcher[repo.Outcome, repo.Result]
}

func newCommitter(
	cfg Config, db *repo.Repo, codes *view.Codes, p *publisher, h *health, m *metrics, log *slog.Logger,
	wechat *outage.Log, owned func() error, onNewCode func(appid string),
) *committer {
	c := &committer{
		db: db, codes: codes, publisher: p, health: h, metrics: m, log: log, trace: cfg.tracer, now: cfg.Now,
		retry: cfg.Delays.TransientMax, wechat: wechat, owned: owned, onNewCode: onNewCode,
	}
	c.outcomes = batch.New(transactions, repo.MaxBatch, c.save)
	return c
}

// commit saves an outcome and tells of it: first the view, then the publisher, since somebody waits
// for it, and at last metrics, log and hook. It waits for as long as MySQL is away. The error is that
// of ctx, or about an outcome that MySQL refuses. The outcome returned is the committed one: a code
// that cannot be kept, because it was given before, becomes a failure. before is what is known of the
// component, the zero Component for a token that was not worked on before. Publishing goes on under
// ctx, so it has to be the one of all work.
func (c *committer) commit(ctx context.Context, outcome repo.Outcome, before repo.Component) (repo.Outcome, repo.Result, error) {
	outcome = announceNews(outcome, before)
	result, err := c.do(ctx, outcome)
	if err == nil && result.Status == repo.Refused && outcome.Code != nil {
		now := c.now()
		bad := &wechat.Error{Class: preauth.ClassBadReply, ErrMsg: result.Err.Error()}
		outcome = announceNews(fail(outcome, bad, before.Attempts+1, now, now.Add(pause.Jittered(c.retry))), before)
		result, err = c.do(ctx, outcome)
	}
	if err = cmp.Or(err, result.Err); err == nil {
		c.tell(ctx, outcome, result)
	}
	return outcome, result, err
}

// do has the next transaction save an outcome.
func (c *committer) do(ctx context.Context, outcome repo.Outcome) (repo.Result, error) {
	return batched(ctx, c.trace, "repo: save", c.outcomes, outcome)
}

// errNotOwned means that the database belongs to other streams by now. What was begun for these is
// not saved there.
var errNotOwned = errors.New("not saved")

// save commits a batch of outcomes, unless the database was given to others while they were made.
func (c *committer) save(ctx context.Context, outcomes []repo.Outcome) (results []repo.Result, err error) {
	started := time.Now()
	var lost error
	err = untilAvailable(ctx, c.health, "saving", func(ctx context.Context) (err error) {
		if lost = c.owned(); lost == nil {
			results, err = c.db.Save(unspanned(ctx), outcomes)
		}
		return err
	})
	if lost != nil {
		err = fmt.Errorf("%w: %w", errNotOwned, lost)
	}
	c.metrics.saved(len(outcomes), time.Since(started), err)
	return results, err
}

func (c *committer) tell(ctx context.Context, outcome repo.Outcome, result repo.Result) {
	step := outcomeStep(StepRepeated, outcome)
	switch {
	case result.Status == repo.Superseded:
		step.Name = StepSuperseded
	case outcome.Failure != nil:
		step.Name = StepFailed
	case outcome.Code != nil:
		step.Name, step.Revision = StepCommitted, result.Revision
	}
	c.trace.step(ctx, step)
	if a := result.Announcement; a != nil {
		var eventAt time.Time
		if a.Update != nil && outcome.Cause == preauth.CauseToken {
			eventAt = outcome.Token.Position.Time
		}
		c.announce(ctx, *a, eventAt)
	}
	switch step.Name {
	case StepFailed:
		c.tellFailure(ctx, outcome)
	case StepCommitted:
		c.wechat.Back()
		c.log.Info("code saved", "component", step.AppID, "sequence", step.Sequence,
			"cause", string(outcome.Cause), "revision", result.Revision, "expires_at", outcome.Code.ExpiresAt)
		c.onNewCode(step.AppID)
	case StepRepeated:
		c.log.Debug("token announced again", "component", step.AppID, "sequence", step.Sequence)
	default: // superseded: nothing has changed
	}
}

// announce has the view know of what was committed, and then everybody: see [publisher.enqueue],
// whose result it returns.
func (c *committer) announce(ctx context.Context, a repo.Announcement, eventAt time.Time) bool {
	if a.Update != nil {
		c.codes.Add(*a.Update)
	}
	return c.publisher.enqueue(ctx, a, eventAt)
}

// tellFailure logs a failure that is news. That WeChat is away is logged once for all components.
func (c *committer) tellFailure(ctx context.Context, outcome repo.Outcome) {
	f := outcome.Failure
	c.metrics.failed(f.Class)
	level := slog.LevelWarn
	if away := f.Class == preauth.ClassTransient; away || outcome.FailureID == "" {
		level = slog.LevelDebug
		if away {
			c.wechat.Away(errors.New(f.ErrMsg))
		}
	}
	var attrs []slog.Attr // what is known
	text := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	number := func(name string, value int) {
		if value != 0 {
			attrs = append(attrs, slog.Int(name, value))
		}
	}
	text("component", f.AppID)
	attrs = append(attrs, slog.Uint64("sequence", f.StreamSequence))
	text("class", string(f.Class))
	number("attempt", f.Attempt)
	text("errmsg", f.ErrMsg)
	number("errcode", f.ErrCode)
	text("rid", f.RID)
	text("request_ip", f.RequestIP)
	if !f.RetryAt.IsZero() {
		attrs = append(attrs, slog.Time("retry_at", f.RetryAt))
	}
	c.log.LogAttrs(ctx, level, "no code", attrs...)
}

// announceNews returns the outcome, without the message id of a failure that says nothing new. While
// a failure lasts, each attempt is recorded in the component's row, but announced again only when the
// attempt count doubles. So an outage does not flood the stream of failures.
func announceNews(outcome repo.Outcome, before repo.Component) repo.Outcome {
	if outcome.Failure != nil && before.Failure != nil && !isNews(outcome.Failure, before.Failure) {
		outcome.FailureID = ""
	}
	return outcome
}

func isNews(f, last *preauth.Failure) bool {
	doubled := f.Attempt > last.Attempt && bits.OnesCount(uint(f.Attempt)) == 1
	return doubled || f.Class != last.Class || f.ErrCode != last.ErrCode || f.RequestIP != last.RequestIP ||
		f.RetryAt.IsZero() != last.RetryAt.IsZero() ||
		f.Stream != last.Stream || f.StreamSequence != last.StreamSequence
}
