package consumer

import (
	"context"
	"time"

	"preauth"
	"preauth/internal/view"
	"preauth/repo"
	"preauth/wechat"
)

// lookups answers with the current code of a component.
type lookups struct {
	subject    string
	components components
	codes      *view.Codes
	tokens     *view.Tokens
	now        func() time.Time
	// renewNow begins to make the code that follows a revision; see [renewer.renewNow].
	renewNow func(workCtx context.Context, appid string, revision uint64) <-chan struct{}
}

// handler returns what handles look-ups. NATS copies an answer before it is sent, so all answers from
// memory are written in the same place.
func (l *lookups) handler() handler {
	var body []byte
	return func(subject string, data []byte) ([]byte, work, error) {
		request, err := preauth.ParseLookupRequest(preauth.AppIDFromSubject(l.subject, subject), data)
		if err != nil {
			return nil, nil, err
		}
		if code, ok := l.codes.Current(request.AppID); ok {
			if now := l.now(); serves(code, request, now) {
				body = lookupOf(code, request, now).Append(body[:0])
				return body, nil, nil
			}
		}
		return nil, func(ctx, workCtx context.Context) (int, []byte, error) {
			code, err := l.current(ctx, workCtx, request)
			if err != nil {
				return 0, nil, err
			}
			return 200, lookupOf(code, request, l.now()).Encode(), nil
		}, nil
	}
}

// serves reports whether a code is what the request asks for.
func serves(code preauth.Update, request preauth.LookupRequest, now time.Time) bool {
	left := code.ExpiresAt.Sub(now)
	return left > 0 && left >= request.MinTTL && code.Revision >= request.MinRevision
}

func lookupOf(code preauth.Update, request preauth.LookupRequest, now time.Time) preauth.Lookup {
	return preauth.Lookup{
		AppID: code.AppID, PreAuthCode: code.PreAuthCode, IssuedAt: code.IssuedAt, ExpiresAt: code.ExpiresAt,
		ExpiresIn: code.ExpiresAt.Sub(now), Revision: code.Revision,
		Links: links(code.AppID, code.PreAuthCode, request.LinkOptions),
	}
}

func links(appid string, code preauth.Secret, options preauth.LinkOptions) preauth.Links {
	if options.RedirectURI == "" {
		return preauth.Links{}
	}
	return wechat.AuthorizationLinks(appid, code, options)
}

// current returns a code that serves the request: the one in MySQL, or a new one, which is made once
// for all requests that wait, here or in another replica. The error says why there is none.
func (l *lookups) current(ctx, workCtx context.Context, request preauth.LookupRequest) (preauth.Update, error) {
	for {
		component, err := l.components.get(ctx, request.AppID)
		if err != nil {
			return preauth.Update{}, err
		}
		now := l.now()
		if current := component.Current; current != nil {
			code := updateOf(component.AppID, *current)
			l.codes.Add(code)
			if serves(code, request, now) {
				return code, nil
			}
			if err := checkMinTTL(request.MinTTL, current); err != nil {
				return preauth.Update{}, err
			}
			if current.Revision < request.MinRevision {
				return preauth.Update{}, errRevision
			}
		}
		if f := component.Failure; f != nil {
			if !retriesWithin(ctx, f, now) {
				return preauth.Update{}, unavailable{*f}
			}
		} else if _, alive := l.tokens.Newest(request.AppID, now); !alive && l.tokens.CaughtUp() {
			return preauth.Update{}, errNoToken
		}
		if err := l.awaitNew(ctx, workCtx, component); err != nil {
			return preauth.Update{}, err
		}
	}
}

// awaitNew returns when MySQL may have something new of a component.
func (l *lookups) awaitNew(ctx, workCtx context.Context, component repo.Component) error {
	timeUp := errRenewing
	if component.Failure != nil {
		timeUp = unavailable{*component.Failure}
	} else {
		select {
		case <-l.renewNow(workCtx, component.AppID, component.Revision):
		case <-ctx.Done():
			return timeUp
		}
	}
	if !pause(ctx, lookAgain) {
		return timeUp
	}
	return nil
}

// updateOf returns a component's current code in MySQL as it was announced.
func updateOf(appid string, current repo.CurrentCode) preauth.Update {
	return preauth.Update{
		AppID: appid, PreAuthCode: current.PreAuthCode, IssuedAt: current.IssuedAt, ExpiresAt: current.ExpiresAt,
		Revision: current.Revision, Cause: current.Cause,
	}
}
