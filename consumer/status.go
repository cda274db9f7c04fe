package consumer

import (
	"context"
	"fmt"
	"time"

	"preauth"
	"preauth/internal/pause"
	"preauth/internal/quota"
	"preauth/internal/stream"
	"preauth/internal/view"
	"preauth/repo"
)

// statuses answers how components fare, and works on one when an operator asks for that.
type statuses struct {
	status, renew string // the subjects
	components    components
	db            *repo.Repo
	tokens        *view.Tokens
	quota         *quota.Quota
	now           func() time.Time
	// renewNow begins to make the code that follows a revision; see [renewer.renewNow].
	renewNow func(workCtx context.Context, appid string, revision uint64) <-chan struct{}
}

// handler returns what handles requests for how components fare.
func (s *statuses) handler() handler {
	return func(subject string, data []byte) ([]byte, work, error) {
		request, err := preauth.ParseStatusRequest(preauth.AppIDFromSubject(s.status, subject), data)
		if err != nil {
			return nil, nil, err
		}
		return nil, func(ctx, _ context.Context) (int, []byte, error) {
			if request.AppID != "" {
				return s.answer(ctx, request.AppID)
			}
			page, err := s.page(ctx, request)
			if err != nil {
				return 0, nil, err
			}
			return 200, page.Encode(), nil
		}, nil
	}
}

// answer returns how one component fares.
func (s *statuses) answer(ctx context.Context, appid string) (int, []byte, error) {
	status, ok, err := s.one(ctx, appid)
	switch {
	case err != nil:
		return 0, nil, err
	case !ok:
		return 0, nil, errNeverNamed
	}
	return 200, status.Encode(), nil
}

// one returns how a component fares. It returns false if no valid token event ever named it.
func (s *statuses) one(ctx context.Context, appid string) (preauth.Status, bool, error) {
	status, ok, err := s.db.Status(ctx, appid, s.now())
	return s.complete(status), ok, err
}

// some returns at most limit of the components that a request matches.
func (s *statuses) some(ctx context.Context, request preauth.StatusRequest, limit int) ([]preauth.Status, error) {
	found, err := s.db.Statuses(ctx, request, s.now(), limit)
	for i, status := range found {
		found[i] = s.complete(status)
	}
	return found, err
}

// complete adds what MySQL does not know.
func (s *statuses) complete(status preauth.Status) preauth.Status {
	if status.Failure != nil {
		status.Advice = status.Failure.Class.Advice()
	}
	if answer, ok := s.quota.Of(status.AppID); ok {
		status.Quota = &preauth.Quota{Limit: answer.Limit, Remaining: answer.Remaining}
	}
	return status
}

const (
	// statusesPerPage bounds the components of a page.
	statusesPerPage = 100
	// roomOfPage is what a page has for its components. The rest of a body is for the summary.
	roomOfPage = preauth.MaxBody - 4<<10
)

// page returns the components that a request matches, as many as a body has room for, and with the
// first ones the summary of all.
func (s *statuses) page(ctx context.Context, request preauth.StatusRequest) (page preauth.StatusPage, err error) {
	if request.After == "" {
		if page.Summary, err = s.summary(ctx); err != nil {
			return preauth.StatusPage{}, err
		}
	}
	found, err := s.some(ctx, request, statusesPerPage)
	if err != nil {
		return preauth.StatusPage{}, err
	}
	room := roomOfPage
	for i, status := range found {
		if room -= len(status.Encode()) + len(","); room < 0 && i > 0 {
			page.Next = found[i-1].AppID
			return page, nil
		}
		page.Components = append(page.Components, status)
	}
	if len(found) == statusesPerPage {
		page.Next = found[len(found)-1].AppID
	}
	return page, nil
}

func (s *statuses) summary(ctx context.Context) (*preauth.Summary, error) {
	census, err := s.db.Census(ctx, s.now())
	if err != nil {
		return nil, err
	}
	outbox, since, err := s.db.OutboxDepth(ctx)
	if err != nil {
		return nil, err
	}
	return &preauth.Summary{
		Components: census.Valid + census.Expiring + census.Failing + census.NoToken,
		Valid:      census.Valid, Expiring: census.Expiring, Failing: census.Failing, NoToken: census.NoToken,
		Spares: census.Spares, CodeExpiresAt: census.CodeExpiresAt, TokenExpiresAt: census.TokenExpiresAt,
		Outbox: outbox, OutboxSince: since,
	}, nil
}

// renewHandler returns what handles requests to work on a component now.
func (s *statuses) renewHandler() handler {
	return func(subject string, data []byte) ([]byte, work, error) {
		request, err := preauth.ParseRenewRequest(preauth.AppIDFromSubject(s.renew, subject), data)
		if err != nil {
			return nil, nil, err
		}
		return nil, func(ctx, workCtx context.Context) (int, []byte, error) {
			if err := s.renewComponent(ctx, workCtx, request.AppID); err != nil {
				return 0, nil, err
			}
			return s.answer(ctx, request.AppID)
		}, nil
	}
}

// renewComponent returns nil once the component has a newer code than at first, made here or in
// another replica. The error says why there is none.
func (s *statuses) renewComponent(ctx, workCtx context.Context, appid string) error {
	before, err := s.components.get(ctx, appid)
	if err != nil {
		return err
	}
	if f := before.Failure; f != nil && f.RetryAt.IsZero() && endsWithToken(f.Class) {
		return unavailable{*f}
	}
	if !s.tokens.CaughtUp() {
		return errUnread
	}
	for {
		select {
		case <-s.renewNow(workCtx, appid, before.Revision):
		case <-ctx.Done():
			return errRenewing
		}
		after, err := s.components.get(ctx, appid)
		switch {
		case err != nil:
			return err
		case after.Revision > before.Revision:
			return nil
		case after.Failure != nil && (before.Failure == nil || after.Failure.OccurredAt.After(before.Failure.OccurredAt)):
			return unavailable{*after.Failure}
		}
		if !pause.For(ctx, lookAgain) { // another replica is at it, or the newer token's event is
			return errRenewing
		}
	}
}

// endsWithToken reports whether nothing but a newer token ends a failure that the service has given
// up.
func endsWithToken(class preauth.Class) bool {
	return class == preauth.ClassTokenRejected || class == preauth.ClassTokenExpired
}

// replica says how this replica fares.
type replica struct {
	ready   func() []reason
	codes   *view.Codes
	tokens  *view.Tokens
	readers []*stream.Reader
	quota   *quota.Quota
}

func (r replica) describe() preauth.Replica {
	described := preauth.Replica{Codes: r.codes.Len(), Tokens: r.tokens.Len()}
	for _, reason := range r.ready() {
		described.Reasons = append(described.Reasons, fmt.Sprintf("%s: %v", reason.part, reason.err))
	}
	described.Ready = described.Reasons == nil
	for _, reader := range r.readers {
		described.Lag += reader.Lag()
	}
	if known := r.quota.Known(); known.Keys > 0 {
		described.Quota = &preauth.Quota{Limit: known.Least.Limit, Remaining: known.Least.Remaining}
	}
	return described
}
