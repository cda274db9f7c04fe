package consumer

import (
	"context"
	"time"

	"preauth"
	"preauth/internal/pause"
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
		if code := l.codes.Current(request.AppID); code != nil {
			left := code.ExpiresAt.Sub(l.now())
			switch {
			case !serves(code.Update, request, left):
			case request.LinkOptions == (preauth.LinkOptions{}):
				body = code.Answer.Append(body[:0], left)
				return body, nil, nil
			default:
				return lookupOf(code.Update, request, left).Encode(), nil, nil
			}
		}
		return nil, func(ctx, workCtx context.Context) (int, []byte, error) {
			code, err := l.current(ctx, workCtx, request)
			if err != nil {
				return 0, nil, err
			}
			return 200, lookupOf(code, request, code.ExpiresAt.Sub(l.now())).Encode(), nil
		}, nil
	}
}

func lookupOf(code preauth.Update, request preauth.LookupRequest, left time.Duration) preauth.Lookup {
	return preauth.Lookup{
		AppID: code.AppID, PreAuthCode: code.PreAuthCode, IssuedAt: code.IssuedAt, ExpiresAt: code.ExpiresAt,
		ExpiresIn: left, Revision: code.Revision,
		Links: wechat.AuthorizationLinks(code.AppID, code.PreAuthCode, request.LinkOptions),
	}
}

// serves reports whether a code with so much life left is what the request asks for.
func serves(code preauth.Update, request preauth.LookupRequest, left time.Duration) bool {
	return !code.Spent && left > 0 && left >= request.MinTTL && code.Revision >= request.MinRevision
}

// current returns a code that serves the request: the one in MySQL, or a new one, which is made once
// for all requests that wait, here or in another replica. The error says why there is none.
func (l *lookups) current(ctx, workCtx context.Context, request preauth.LookupRequest) (preauth.Update, error) {
	for {
		seen := l.codes.Current(request.AppID)
		component, err := l.components.get(ctx, request.AppID)
		if err != nil {
			return preauth.Update{}, err
		}
		now := l.now()
		if current := component.Current; current != nil {
			code := current.Update(component.AppID)
			l.codes.Correct(request.AppID, seen, &code)
			if serves(code, request, code.ExpiresAt.Sub(now)) {
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
	if !pause.For(ctx, lookAgain) {
		return timeUp
	}
	return nil
}
