package consumer

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"github.com/cenkalti/backoff/v5"

	"preauth"
	"preauth/internal/batch"
	"preauth/repo"
	"preauth/wechat"
)

// saver commits outcomes: what waits while transactions are under way goes into the next one, so that
// a lone outcome waits for nobody and a crowd costs few transactions.
type saver struct {
	*Service
	outcomes *batch.Batcher[repo.Outcome, repo.Result]
}

// transactions bounds those under way at a time. With several of them the database commits one while others
// are put together; with many, each would be for a few outcomes.
const transactions = 4

func newSaver(s *Service) *saver {
	saver := &saver{Service: s}
	saver.outcomes = batch.New(transactions, repo.MaxBatch, saver.commit)
	return saver
}

// save returns when the outcome is committed, however long MySQL is away, or else with an error: of
// ctx, or about an outcome that MySQL refuses. The outcome returned is the committed one: a code that
// cannot be kept, because another component has it, becomes a failure. before is what is known of the
// component, the zero Component for a token that was not worked on before.
func (s *saver) save(ctx context.Context, outcome repo.Outcome, before repo.Component) (repo.Outcome, repo.Result, error) {
	outcome = announcing(outcome, before)
	result, err := s.outcomes.Do(ctx, outcome)
	if err == nil && result.Status == repo.Refused && outcome.Code != nil {
		now := s.cfg.Now()
		bad := &wechat.Error{Class: preauth.ClassBadReply, ErrMsg: result.Err.Error()}
		outcome = announcing(fail(outcome, bad, before.Attempts+1, now, now.Add(jittered(s.cfg.Delays.TransientMax))), before)
		result, err = s.outcomes.Do(ctx, outcome)
	}
	if err == nil {
		err = result.Err
	}
	return outcome, result, err
}

// announcing returns an outcome whose failure is announced only if it says something new. Of an outage that
// goes on and on, each attempt is recorded in the component's row, and announced when the number of them has
// doubled: so a platform of many components does not flood the stream of failures.
func announcing(outcome repo.Outcome, before repo.Component) repo.Outcome {
	if outcome.Failure != nil && before.Failure != nil && !saysSomethingNew(outcome.Failure, before.Failure) {
		outcome.FailureID = ""
	}
	return outcome
}

func saysSomethingNew(failed, last *preauth.Failure) bool {
	doubled := failed.Attempt > last.Attempt && bits.OnesCount(uint(failed.Attempt)) == 1
	return doubled || failed.Class != last.Class || failed.ErrCode != last.ErrCode || failed.RequestIP != last.RequestIP ||
		failed.RetryAt.IsZero() != last.RetryAt.IsZero() ||
		failed.Stream != last.Stream || failed.StreamSequence != last.StreamSequence
}

func (s *saver) commit(outcomes []repo.Outcome) (results []repo.Result, err error) {
	started := time.Now()
	err = s.persist(s.lasting, func(ctx context.Context) (err error) {
		results, err = s.db.Save(ctx, outcomes)
		return err
	})
	s.metrics.saved(len(outcomes), time.Since(started), err)
	return results, err
}

// persist repeats a call of package repo until MySQL is there, or ctx ends.
func (s *saver) persist(ctx context.Context, call func(context.Context) error) error {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 50*time.Millisecond, time.Second
	for {
		err := call(ctx)
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		s.health.setUse("saving", err)
		if !errors.Is(err, repo.ErrUnavailable) {
			return err
		}
		if !pause(ctx, retry.NextBackOff()) {
			return ctx.Err()
		}
	}
}
