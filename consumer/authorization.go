package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/stream"
	"preauth/internal/view"
	"preauth/repo"
)

// authorizations takes one report of an authorization all its way: the code is spent, so nobody gets
// it any more, and a component whose current code it was gets another one.
type authorizations struct {
	subject string
	db      *repo.Repo
	codes   *view.Codes
	commit  *committer
	health  *health
	metrics *metrics
	log     *slog.Logger
	trace   tracer
	now     func() time.Time
	// owned returns nil while the database belongs to this service's streams.
	owned func() error
	// renewNow begins to make the code that follows a revision; see [renewer.renewNow].
	renewNow func(workCtx context.Context, appid string, revision uint64) <-chan struct{}
}

// work takes an event all its way. When ctx ends before, the event goes back to the stream.
func (a *authorizations) work(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, id stream.Identity) {
	appid := preauth.AppIDFromSubject(a.subject, msg.Subject())
	event, err := preauth.ParseAuthorizationEvent(appid, msg.Headers(), msg.Data(), meta.Timestamp)
	ctx, d := newDelivery(ctx, a.subject, msg, meta, id, Step{AppID: event.AppID, Cause: preauth.CauseSpent}, a.log, a.trace)
	if err != nil {
		a.fail(ctx, d, preauth.ClassBadEvent, err)
		return
	}

	event.TraceParent = d.traceParent
	spent, err := a.spend(ctx, event)
	switch {
	case errors.Is(err, repo.ErrUnknownCode):
		a.fail(ctx, d, preauth.ClassUnknownCode, errUnknownCode)
		return
	case errors.Is(err, repo.ErrSecondAuthorizer):
		a.fail(ctx, d, preauth.ClassSecondAuthorizer, fmt.Errorf("%w: this one is %s", errSecondAuthorizer, event.AuthorizerAppID))
		return
	case err != nil:
		d.giveBack(err)
		return
	}

	for _, announcement := range spent.Announcements {
		a.commit.announce(ctx, announcement, time.Time{})
	}
	a.tell(d, event, spent)
	d.end(nil)
	if spent.IsDue {
		a.renewNow(ctx, event.AppID, spent.Revision)
	}
}

var (
	errUnknownCode      = errors.New("the component was given no such code, or that is too long ago")
	errSecondAuthorizer = errors.New("another account authorized with this code before")
)

// spend has the code marked as spent. It waits for as long as MySQL is away.
func (a *authorizations) spend(ctx context.Context, event preauth.AuthorizationEvent) (spent repo.Spent, err error) {
	var refused error // the event's fault, which says nothing of MySQL
	err = untilAvailable(ctx, a.health, "marking codes as spent", func(ctx context.Context) error {
		if err := a.owned(); err != nil {
			return fmt.Errorf("%w: %w", errNotOwned, err)
		}
		spent, err = a.db.Spend(ctx, repo.Authorization{
			AuthorizationEvent: event, At: a.now(), MinRevision: a.codes.LastStored(event.AppID).Revision,
		})
		if errors.Is(err, repo.ErrUnknownCode) || errors.Is(err, repo.ErrSecondAuthorizer) {
			refused, err = err, nil
		}
		return err
	})
	return spent, cmp.Or(err, refused)
}

// tell counts and logs what an authorization has changed.
func (a *authorizations) tell(d *delivery, event preauth.AuthorizationEvent, spent repo.Spent) {
	if spent.Status == repo.Superseded { // reported before
		a.metrics.authorized("repeated")
		d.tell(StepSuperseded)
		return
	}
	a.metrics.authorized("spent")
	d.tell(StepSpent)
	a.log.Info("code spent", "component", event.AppID, "sequence", d.position.Sequence, "authorizer", event.AuthorizerAppID,
		"current", spent.WasCurrent)
}

// fail has an event recorded as a failure, which changes nothing else.
func (a *authorizations) fail(ctx context.Context, d *delivery, class preauth.Class, cause error) {
	saved, _, err := d.commit(ctx, a.commit, d.failed(class, cause, a.now()))
	if err != nil {
		d.giveBack(err)
		return
	}
	a.metrics.authorized(string(class))
	d.end(saved.Failure)
}
