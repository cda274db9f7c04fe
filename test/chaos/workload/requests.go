package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/test/chaos/history"
)

// MaxMinTTL is the largest min_ttl that a client asks for.
const MaxMinTTL = 10 * time.Second

// Request sends a request once. Go's client repeats it, which would hide that a request got no
// answer.
func Request[T any](ctx context.Context, nc *nats.Conn, subject string, body []byte, parse func([]byte) (T, error)) (answer T, err error) {
	reply, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return answer, err
	}
	if failed := preauth.ParseError(reply.Header.Get, reply.Data); failed != nil {
		return answer, failed
	}
	return parse(reply.Data)
}

// lookUp is a client that looks up one component after the other.
func (w *Workload) lookUp(ctx context.Context, name string, rng *rand.Rand) {
	for about(ctx, rng, 80*time.Millisecond) {
		c := w.components[rng.IntN(len(w.components))]
		request := preauth.LookupRequest{AppID: c.appid}
		switch rng.IntN(4) {
		case 0:
			request.MinTTL = time.Duration(1+rng.IntN(int(MaxMinTTL/time.Second))) * time.Second
		case 1, 2:
			request.MinRevision = c.seen(0)
		}
		if rng.IntN(10) == 0 {
			request.LinkOptions = preauth.LinkOptions{RedirectURI: "https://example.com/authorized", AuthType: 3}
		}
		e, code := w.Lookup(ctx, name, request)
		if e.Status == history.OK && rng.IntN(50) == 0 {
			w.resolve(ctx, name, c, code)
		}
		if e.Status == history.OK && rng.IntN(150) == 0 {
			w.authorize(ctx, rng, c, code)
		}
	}
}

// seen notes a revision and returns the highest seen so far.
func (c *component) seen(revision uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision = max(c.revision, revision)
	return c.revision
}

// Lookup looks up once.
func (w *Workload) Lookup(ctx context.Context, name string, request preauth.LookupRequest) (history.Event, preauth.Secret) {
	e := history.Event{
		Op: history.Lookup, Client: name, AppID: request.AppID, MinTTL: request.MinTTL, MinRevision: request.MinRevision,
		Begin: w.opts.Recorder.Now(),
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found, err := Request(ctx, w.opts.Conn, preauth.SubjectFor("preauth.lookup", request.AppID), request.Encode(), preauth.ParseLookup)
	if err == nil && found.AppID != request.AppID {
		err = fmt.Errorf("%w: another component", preauth.ErrInvalid)
	}
	e.Status, e.Class = statusOf(err)
	if err == nil {
		e.Code, e.Revision, e.ExpiresAt = history.HashOf(found.PreAuthCode), found.Revision, w.opts.Recorder.At(found.ExpiresAt)
		w.component(request.AppID).seen(found.Revision)
	}
	return w.opts.Recorder.Add(e), found.PreAuthCode
}

// claim is a claim that was answered with a code.
type claim struct {
	component *component
	request   preauth.ClaimRequest
}

// claimCodes is a client that claims codes for its visitors.
func (w *Workload) claimCodes(ctx context.Context, name string, rng *rand.Rand) {
	for n := 1; about(ctx, rng, 700*time.Millisecond); n++ {
		if rng.IntN(4) == 0 && w.claimAgain(ctx, name, rng) {
			continue
		}
		c := w.components[rng.IntN(len(w.components))]
		request := preauth.ClaimRequest{
			AppID: c.appid, ClaimID: fmt.Sprintf("%s visitor %d", name, n), Reference: fmt.Sprintf("order %d", rng.Uint32()),
			MinTTL: time.Duration(rng.IntN(3)) * MaxMinTTL / 2,
		}
		if rng.IntN(5) == 0 { // two requests at once
			var twin sync.WaitGroup
			twin.Go(func() { w.claim(ctx, name+" twin", c, request) })
			w.claim(ctx, name, c, request)
			twin.Wait()
			continue
		}
		// Like a real program, it asks until it is answered.
		for range 8 {
			e, code := w.claim(ctx, name, c, request)
			if e.Status == history.OK {
				w.mu.Lock()
				w.claims = append(w.claims, claim{c, request})
				w.mu.Unlock()
				if rng.IntN(3) == 0 {
					w.authorize(ctx, rng, c, code)
				}
				if rng.IntN(3) == 0 {
					w.resolve(ctx, name, c, code)
				}
			}
			if e.Status == history.OK || e.Status == preauth.StatusNotFound || !about(ctx, rng, 300*time.Millisecond) {
				break
			}
		}
	}
}

// claimAgain repeats a claim that was answered before, sometimes in a way that the service has to
// refuse.
func (w *Workload) claimAgain(ctx context.Context, name string, rng *rand.Rand) bool {
	w.mu.Lock()
	if len(w.claims) == 0 {
		w.mu.Unlock()
		return false
	}
	old := w.claims[len(w.claims)-1-rng.IntN(min(len(w.claims), 200))]
	w.mu.Unlock()
	if rng.IntN(5) == 0 {
		old.request.Reference += " of somebody else"
	}
	w.claim(ctx, name, old.component, old.request)
	return true
}

// Claim claims a code for a new visitor.
func (w *Workload) Claim(ctx context.Context, name, appid string) history.Event {
	e, _ := w.claim(ctx, name, w.component(appid), preauth.ClaimRequest{AppID: appid, ClaimID: fmt.Sprintf("%s at %v", name, w.opts.Recorder.Now())})
	return e
}

func (w *Workload) claim(ctx context.Context, name string, c *component, request preauth.ClaimRequest) (history.Event, preauth.Secret) {
	e := history.Event{
		Op: history.Claim, Client: name, AppID: c.appid, MinTTL: request.MinTTL, ClaimID: request.ClaimID, Reference: request.Reference,
		Begin: w.opts.Recorder.Now(),
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	claimed, err := Request(ctx, w.opts.Conn, preauth.SubjectFor("preauth.claim", request.AppID), request.Encode(), preauth.ParseClaim)
	if err == nil && (claimed.AppID != request.AppID || claimed.ClaimID != request.ClaimID) {
		err = fmt.Errorf("%w: another claim", preauth.ErrInvalid)
	}
	e.Status, e.Class = statusOf(err)
	if err == nil {
		e.Code, e.ExpiresAt = history.HashOf(claimed.PreAuthCode), w.opts.Recorder.At(claimed.ExpiresAt)
		if claimed.Reference != request.Reference {
			e.Detail = "another reference: " + claimed.Reference
		}
	}
	return w.opts.Recorder.Add(e), claimed.PreAuthCode
}

func (w *Workload) resolve(ctx context.Context, name string, c *component, code preauth.Secret) {
	e := history.Event{Op: history.Resolve, Client: name, AppID: c.appid, Code: history.HashOf(code), Begin: w.opts.Recorder.Now()}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resolved, err := Request(ctx, w.opts.Conn, "preauth.resolve", preauth.ResolveRequest{PreAuthCode: code}.Encode(), preauth.ParseResolved)
	e.Status, e.Class = statusOf(err)
	if err == nil {
		e.AppID, e.ClaimID, e.Reference, e.Revision = resolved.AppID, resolved.ClaimID, resolved.Reference, resolved.Revision
		e.Authorizer = resolved.AuthorizerAppID
	}
	w.opts.Recorder.Add(e)
}
