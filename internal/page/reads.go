package page

import (
	"context"
	"maps"
	"time"
)

// reads shares among all who look what is read of MySQL. There is one read at a time. The same is
// read again after a second at the earliest, and so seldom that a read that takes long is no load.
type reads struct {
	turn    chan struct{} // holds an item while somebody reads, who may then use what follows
	away    error         // of the last read; nil if it succeeded
	retry   time.Time     // when to read again after it failed
	answers map[string]answer
}

// answer is what was read.
type answer struct {
	value     any
	at, fresh time.Time // when it was read, and until when it is new enough
}

const (
	// readEvery is the least time between two reads of the same, and readShare how many times as long as
	// a read takes it is.
	readEvery, readShare = time.Second, 10
	// readTimeout bounds a read.
	readTimeout = 4 * time.Second
	// keptFor is for how long an answer is shown that cannot be read again, and keptAnswers bounds their
	// number.
	keptFor, keptAnswers = 10 * time.Minute, 200
)

func newReads() *reads { return &reads{turn: make(chan struct{}, 1), answers: map[string]answer{}} }

// read returns what ask says, now or a moment ago. If it cannot be asked now, read returns the error
// beside what it said before. at is when it said so, the zero time if that is too long ago.
func read[T any](ctx context.Context, r *reads, what string, ask func(context.Context) (T, error)) (value T, at time.Time, err error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return value, at, ctx.Err()
	}
	now := time.Now()
	a := r.answers[what]
	if said, ok := a.value.(T); ok && now.Sub(a.at) < keptFor {
		value, at = said, a.at
		if now.Before(a.fresh) {
			return value, at, nil
		}
	}
	if r.away != nil && now.Before(r.retry) {
		return value, at, r.away
	}
	// Others wait for the same, so it goes on when this one has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	said, err := ask(ctx)
	end := time.Now()
	if r.away = err; err != nil {
		r.retry = end.Add(readEvery)
		return value, at, err
	}
	if len(r.answers) >= keptAnswers {
		maps.DeleteFunc(r.answers, func(_ string, a answer) bool { return end.After(a.fresh) })
	}
	if len(r.answers) >= keptAnswers {
		clear(r.answers)
	}
	r.answers[what] = answer{said, end, end.Add(max(readEvery, readShare*end.Sub(now)))}
	return said, end, nil
}
