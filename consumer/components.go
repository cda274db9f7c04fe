package consumer

import (
	"context"
	"time"

	"preauth"
	"preauth/internal/pause"
	"preauth/internal/view"
	"preauth/repo"
)

// lookAgain is how often a request that waits for another replica's work looks at MySQL.
const lookAgain = 100 * time.Millisecond

// components reads what MySQL knows of components, for requests.
type components struct {
	db     *repo.Repo
	tokens *view.Tokens
	now    func() time.Time
}

// get returns a component. It waits for one whose first token is worked on. The error is
// errNeverNamed, errFirstCode when ctx ends first, or the database's.
func (c components) get(ctx context.Context, appid string) (repo.Component, error) {
	for announced := false; ; {
		known, err := c.db.Components(ctx, []string{appid})
		component, ok := known[appid]
		switch {
		case ok:
			return component, nil
		case err != nil && !announced:
			return repo.Component{}, err
		case err == nil:
			_, announced = c.tokens.Newest(appid, c.now())
		}
		if !announced {
			return repo.Component{}, errNeverNamed
		}
		if !pause.For(ctx, lookAgain) {
			return repo.Component{}, errFirstCode
		}
	}
}

// retriesWithin reports whether the service tries again after a failure while the request waits.
func retriesWithin(ctx context.Context, f *preauth.Failure, now time.Time) bool {
	deadline, ok := ctx.Deadline()
	return ok && !f.RetryAt.IsZero() && f.RetryAt.Sub(now) < time.Until(deadline)
}

// maxAgeWhenGiven is how old a new code may be when it is given out: as long as clients usually wait.
// Codes that live for less than fifty seconds are given out younger.
const maxAgeWhenGiven = 5 * time.Second

// checkMinTTL refuses a min_ttl that a new code need not have any more when it is given out, judged
// by the current one. Otherwise each such request would cost calls for codes that are too old when
// they come.
func checkMinTTL(minTTL time.Duration, current *repo.CurrentCode) error {
	life := current.ExpiresAt.Sub(current.IssuedAt)
	most := (life - min(maxAgeWhenGiven, life/10)).Truncate(time.Second)
	if minTTL <= most {
		return nil
	}
	return minTTLError{int64(most / time.Second), int64(life / time.Second)}
}
