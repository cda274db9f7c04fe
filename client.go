package preauth

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Client speaks the contract over a NATS connection, which stays the caller's. It is safe for
// concurrent use.
type Client struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	subjects Subjects
}

// ClientOption changes what [NewClient] returns.
type ClientOption func(*Client)

// WithSubjects has the client use other subjects than those of [DefaultSubjects]. The service must
// be set to the same ones.
func WithSubjects(s Subjects) ClientOption { return func(c *Client) { c.subjects = s } }

// NewClient returns a client for the subjects of [DefaultSubjects].
func NewClient(nc *nats.Conn, options ...ClientOption) (*Client, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("preauth: client: %w", err)
	}
	c := &Client{nc: nc, js: js, subjects: DefaultSubjects()}
	for _, option := range options {
		option(c)
	}
	return c, nil
}

// Announce publishes a token event and returns when the stream has stored it. Announcing the same
// token again costs nothing, so after an error announce it again. An event that the service would
// refuse is not published: the error wraps [ErrInvalid].
func (c *Client) Announce(ctx context.Context, e TokenEvent) error {
	if err := e.checkAt(time.Now()); err != nil {
		return fmt.Errorf("preauth: announce: %w", err)
	}
	if _, err := c.js.Publish(ctx, SubjectFor(c.subjects.TokenUpdated, e.AppID), e.Encode()); err != nil {
		return fmt.Errorf("preauth: announce: %w", err)
	}
	return nil
}

// requestTimeout is how long an answer is waited for where the caller's context sets no end: the service answers
// within 4 s, by its default setting, or not at all.
const requestTimeout = 5 * time.Second

// Lookup returns the current code of a component. Where ctx has no deadline it waits for 5 s: the service
// answers within 4 s or not at all. An error answer is an [*Error]; [nats.ErrNoResponders] means
// that no service runs. A request that breaks the contract gives an error that wraps [ErrInvalid],
// and is not sent.
func (c *Client) Lookup(ctx context.Context, r LookupRequest) (Lookup, error) {
	if err := r.check(); err != nil {
		return Lookup{}, fmt.Errorf("preauth: look-up: %w", err)
	}
	reply, err := c.request(ctx, SubjectFor(c.subjects.Lookup, r.AppID), r.Encode())
	if err != nil {
		return Lookup{}, fmt.Errorf("preauth: look-up: %w", err)
	}
	l, err := ParseLookup(reply.Data)
	if err != nil {
		return Lookup{}, fmt.Errorf("preauth: look-up: %w", err)
	}
	if l.AppID != r.AppID {
		return Lookup{}, fmt.Errorf("preauth: look-up: %w", invalid("the answer is about another component"))
	}
	return l, nil
}

// Claim returns a code of the caller's own. Everything said of [Client.Lookup] holds. Set a ClaimID,
// and repeat the request with it after an error: without one, an answer that got lost has used up a
// code.
func (c *Client) Claim(ctx context.Context, r ClaimRequest) (Claim, error) {
	if err := r.check(); err != nil {
		return Claim{}, fmt.Errorf("preauth: claim: %w", err)
	}
	reply, err := c.request(ctx, SubjectFor(c.subjects.Claim, r.AppID), r.Encode())
	if err != nil {
		return Claim{}, fmt.Errorf("preauth: claim: %w", err)
	}
	claim, err := ParseClaim(reply.Data)
	if err != nil {
		return Claim{}, fmt.Errorf("preauth: claim: %w", err)
	}
	if claim.AppID != r.AppID || r.ClaimID != "" && claim.ClaimID != r.ClaimID {
		return Claim{}, fmt.Errorf("preauth: claim: %w", invalid("the answer is about another claim"))
	}
	return claim, nil
}

// Resolve returns the claim that a code was given to; an [*Error] with [StatusNotFound] if it was given
// to none.
func (c *Client) Resolve(ctx context.Context, code Secret) (Resolved, error) {
	request := ResolveRequest{code}
	if err := request.check(); err != nil {
		return Resolved{}, fmt.Errorf("preauth: resolve: %w", err)
	}
	reply, err := c.request(ctx, c.subjects.Resolve, request.Encode())
	if err != nil {
		return Resolved{}, fmt.Errorf("preauth: resolve: %w", err)
	}
	r, err := ParseResolved(reply.Data)
	if err != nil {
		return Resolved{}, fmt.Errorf("preauth: resolve: %w", err)
	}
	return r, nil
}

// request returns the answer to a request; one that cannot be served is an [*Error].
func (c *Client) request(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	reply, err := c.nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, err
	}
	if err := ParseError(reply.Header.Get, reply.Data); err != nil {
		return nil, err
	}
	return reply, nil
}

// Subscribe calls updated for every code announced from now on, one after the other. It does not wait until the server
// knows of it, which flushing the connection does. Delivery is NATS's at-most-once: what is announced while the
// connection is down is missed, so look a component up when its last update nears its expiry, with
// [LookupRequest.MinRevision] set to the last revision seen. A message that is no update is left out and reported to failed. Neither function may be nil.
//
// Unsubscribe or drain the returned subscription to stop.
func (c *Client) Subscribe(updated func(Update), failed func(error)) (*nats.Subscription, error) {
	sub, err := c.nc.Subscribe(c.subjects.Updated, func(msg *nats.Msg) {
		u, err := ParseUpdate(msg.Data)
		if err != nil {
			failed(fmt.Errorf("preauth: message on %s: %w", msg.Subject, err))
			return
		}
		updated(u)
	})
	if err != nil {
		return nil, fmt.Errorf("preauth: subscribe: %w", err)
	}
	return sub, nil
}
