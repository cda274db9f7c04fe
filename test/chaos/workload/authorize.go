package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"preauth"
	"preauth/test/chaos/history"
)

const authorizationTopic = "component.authorized"

// authorize reports that somebody authorized with a code, in one of the ways in which the receiver
// of WeChat's pushes may do so.
func (w *Workload) authorize(ctx context.Context, rng *rand.Rand, c *component, code preauth.Secret) {
	a := preauth.AuthorizationEvent{AppID: c.appid, PreAuthCode: code, AuthorizerAppID: newAuthorizer(rng)}
	if rng.IntN(2) == 0 {
		a.InfoType, a.AuthorizedAt = preauth.InfoAuthorized, time.Now().Add(-time.Second)
	}
	switch n := rng.IntN(100); {
	case n < 5: // a code that the service never had
		a.PreAuthCode = preauth.NewSecret("preauthcode@@@" + newToken(rng).Reveal()[len(TokenMark):])
	case n < 10:
		a.AuthorizerAppID = "not an appid"
	case n < 25: // WeChat pushes again
		w.report(ctx, rng, a)
	case n < 35: // which WeChat does not let happen
		w.report(ctx, rng, a)
		a.AuthorizerAppID = newAuthorizer(rng)
	}
	w.report(ctx, rng, a)
}

func newAuthorizer(rng *rand.Rand) string { return fmt.Sprintf("wxvisitor%08x", rng.Uint32()) }

// report publishes an authorization until the stream acknowledges it, for a while.
func (w *Workload) report(ctx context.Context, rng *rand.Rand, a preauth.AuthorizationEvent) {
	for range 5 {
		if w.reportOnce(ctx, a).Status == history.OK || !about(ctx, rng, 200*time.Millisecond) {
			return
		}
	}
}

// SpendCurrent has somebody authorize with the current code of a component, if there is one.
func (w *Workload) SpendCurrent(ctx context.Context, appid string) {
	found, code := w.Lookup(ctx, "spender", preauth.LookupRequest{AppID: appid})
	if found.Status == history.OK {
		w.reportOnce(ctx, preauth.AuthorizationEvent{AppID: appid, PreAuthCode: code, AuthorizerAppID: "wxspender"})
	}
}

// reportOnce publishes an authorization once.
func (w *Workload) reportOnce(ctx context.Context, a preauth.AuthorizationEvent) history.Event {
	e := history.Event{
		Op: history.Authorize, Client: "receiver of pushes", AppID: a.AppID, Begin: w.opts.Recorder.Now(), ID: newID(),
		Bad: a.Check() != nil, Code: history.HashOf(a.PreAuthCode), Authorizer: a.AuthorizerAppID,
	}
	return w.store(ctx, e, preauth.SubjectFor(authorizationTopic, a.AppID), a.Encode(), true)
}
