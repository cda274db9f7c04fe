package preauth

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// requestTimeout bounds a request whose context has no deadline. The service answers within 4 s by
// default, or not at all.
const requestTimeout = 5 * time.Second

// Client talks to the preauth service over a NATS connection. The caller owns the connection and
// closes it. A Client is safe for concurrent use.
type Client struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	subjects Subjects
}

// ClientOption configures a [Client].
type ClientOption func(*Client)

// WithSubjects makes the client use the given subjects instead of [DefaultSubjects]. They must be
// those of the service; [Subjects.WithPrefix] returns them for a service with a subject prefix.
func WithSubjects(s Subjects) ClientOption { return func(c *Client) { c.subjects = s } }

// NewClient returns a client that uses nc.
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

// Announce publishes a token event and returns once the stream has stored it. After an error,
// announce the same event again: a repetition costs no call to WeChat. Announce does not publish an
// event that the service would refuse; the error then wraps [ErrInvalid].
func (c *Client) Announce(ctx context.Context, e TokenEvent) error {
	if err := e.checkAt(time.Now()); err != nil {
		return fmt.Errorf("preauth: announce: %w", err)
	}
	if err := c.publish(ctx, SubjectFor(c.subjects.TokenUpdated, e.AppID), e.TraceParent, e.Encode()); err != nil {
		return fmt.Errorf("preauth: announce: %w", err)
	}
	return nil
}

// AnnounceAuthorization tells the service that an account authorized with a code, and returns once
// the stream has stored that. Answer WeChat's push with "success" only then: WeChat repeats the push
// otherwise, and a repeated event changes nothing. AnnounceAuthorization does not publish an event
// that the service would refuse; the error then wraps [ErrInvalid].
func (c *Client) AnnounceAuthorization(ctx context.Context, e AuthorizedEvent) error {
	if err := e.Check(); err != nil {
		return fmt.Errorf("preauth: announce authorization: %w", err)
	}
	if err := c.publish(ctx, SubjectFor(c.subjects.Authorization, e.AppID), e.TraceParent, e.Encode()); err != nil {
		return fmt.Errorf("preauth: announce authorization: %w", err)
	}
	return nil
}

// publish publishes an event and returns once a stream has stored it.
func (c *Client) publish(ctx context.Context, subject, traceParent string, body []byte) error {
	_, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Header: withTraceParent(nats.Header{}, traceParent), Data: body})
	return err
}

// Lookup returns the current code of a component. If ctx has no deadline, Lookup waits for at most
// 5 s; the service answers within 4 s by default.
//
// The error is an [*Error] if the service answered with one, wraps [nats.ErrNoResponders] if no
// service is running, and wraps [ErrInvalid] if the request or the answer breaks the contract. Such
// a request is not sent.
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

// Claim returns a code that nobody else gets. Deadline and errors are those of [Client.Lookup].
//
// Set [ClaimRequest.ClaimID], and after an error repeat the request with the same one. Without it,
// a lost answer leaves a code behind that nobody uses.
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

// Resolve returns the claim that a code was given to, or the revision with which it was announced.
// The error is an [*Error] with [StatusNotFound] if the code is neither. Deadline and other errors are those of [Client.Lookup].
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

// request returns the answer to a request. An answer that is an error becomes an [*Error].
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

// Subscribe calls updated for every code that is announced from now on, also when it is announced as
// spent, and failed for every message that is not an [Update]. It calls them one at a time. Neither
// may be nil. Keep the [Update] with the highest revision, and ask it whether it is still
// [Update.Usable].
//
// The subscription takes effect when the server has received it: flush the connection to wait for
// that. Delivery is at most once, so announcements are missed while the connection is down. Look up
// a component when its last update is about to expire, with [LookupRequest.MinRevision] set to the
// last revision seen.
//
// Unsubscribe or drain the returned subscription to stop.
func (c *Client) Subscribe(updated func(Update), failed func(error)) (*nats.Subscription, error) {
	return c.subscribe(c.subjects.Updated, func(msg *nats.Msg) error {
		u, err := ParseUpdate(msg.Data)
		if err != nil {
			return err
		}
		u.TraceParent = traceParent(msg.Header)
		updated(u)
		return nil
	}, failed)
}

// SubscribeAuthorized calls authorized for every code that is announced as spent from now on, and
// failed for every message that is not an [Authorized]. Otherwise it is like [Client.Subscribe]: an
// announcement is missed while the connection is down. All of the last week are in the stream
// PREAUTH_AUTHORIZED.
func (c *Client) SubscribeAuthorized(authorized func(Authorized), failed func(error)) (*nats.Subscription, error) {
	return c.subscribe(c.subjects.Authorized, func(msg *nats.Msg) error {
		a, err := ParseAuthorized(msg.Data)
		if err != nil {
			return err
		}
		a.TraceParent = traceParent(msg.Header)
		authorized(a)
		return nil
	}, failed)
}

// subscribe hands each message on a subject to handle, and to failed what handle does not take.
func (c *Client) subscribe(subject string, handle func(*nats.Msg) error, failed func(error)) (*nats.Subscription, error) {
	sub, err := c.nc.Subscribe(subject, func(msg *nats.Msg) {
		if err := handle(msg); err != nil {
			failed(fmt.Errorf("preauth: message on %s: %w", msg.Subject, err))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("preauth: subscribe: %w", err)
	}
	return sub, nil
}
