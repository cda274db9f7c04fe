package preauth

import (
	"context"
	"fmt"

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

// NewClient returns a client for the default subjects.
func NewClient(nc *nats.Conn) (*Client, error) { return NewClientWith(nc, DefaultSubjects()) }

// NewClientWith returns a client for other subjects.
func NewClientWith(nc *nats.Conn, subjects Subjects) (*Client, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("preauth: client: %w", err)
	}
	return &Client{nc: nc, js: js, subjects: subjects}, nil
}

// Announce publishes a token event and returns when the stream has stored it. Announcing the same
// token again costs nothing, so after an error announce it again. An event that the service would
// refuse is not published: the error wraps [ErrInvalid].
func (c *Client) Announce(ctx context.Context, e TokenEvent) error {
	if err := e.Check(); err != nil {
		return fmt.Errorf("preauth: announce: %w", err)
	}
	if _, err := c.js.Publish(ctx, Of(c.subjects.TokenUpdated, e.AppID), e.Encode()); err != nil {
		return fmt.Errorf("preauth: announce: %w", err)
	}
	return nil
}

// Lookup returns the current code of a component. Give ctx a deadline of about 5 s: the service
// answers within 4 s or not at all. An error answer is an [*Error]; [nats.ErrNoResponders] means
// that no service runs. A request that breaks the contract gives an error that wraps [ErrInvalid],
// and is not sent.
func (c *Client) Lookup(ctx context.Context, r LookupRequest) (Lookup, error) {
	body := r.Encode()
	if _, err := ParseLookupRequest("", body); err != nil {
		return Lookup{}, fmt.Errorf("preauth: look-up: %w", err)
	}
	reply, err := c.nc.RequestWithContext(ctx, Of(c.subjects.Lookup, r.AppID), body)
	if err != nil {
		return Lookup{}, fmt.Errorf("preauth: look-up: %w", err)
	}
	if err := ParseError(reply.Header.Get, reply.Data); err != nil {
		return Lookup{}, err
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

// Subscribe calls updated for every code announced from now on, one after the other. Delivery is
// NATS's at-most-once: what is announced while the connection is down is missed, so look a component
// up when its last update nears its expiry, with [LookupRequest.MinRevision] set to the last revision
// seen. A message that is no update is left out and reported to failed. Neither function may be nil.
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
