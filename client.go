package preauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
)

// requestTimeout bounds a request whose context has no deadline. The service answers within 4 s by
// default, or not at all.
const requestTimeout = 5 * time.Second

// repeatAfter is how long the client waits for an answer before it repeats a request that is safe to
// repeat. The service takes as long only if it waits for WeChat or its database.
const repeatAfter = 500 * time.Millisecond

// Client talks to the preauth service over a NATS connection. The caller owns the connection and
// closes it. A Client is safe for concurrent use.
type Client struct {
	nc          *nats.Conn
	js          jetstream.JetStream
	subjects    Subjects
	traceParent func(context.Context) string
}

// ClientOption configures a [Client].
type ClientOption func(*Client)

// WithSubjects makes the client use the given subjects instead of [DefaultSubjects]. They must be
// those of the service; [Subjects.WithPrefix] returns them for a service with a subject prefix.
func WithSubjects(s Subjects) ClientOption { return func(c *Client) { c.subjects = s } }

// WithTraceParent makes the client send the W3C trace context of the contexts that it is given, with
// requests and with events that have none of their own. of returns that of a context, or "". With
// OpenTelemetry, it is what propagation.TraceContext injects as "traceparent".
func WithTraceParent(of func(ctx context.Context) string) ClientOption {
	return func(c *Client) { c.traceParent = of }
}

// NewClient returns a client that uses nc.
func NewClient(nc *nats.Conn, options ...ClientOption) (*Client, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("preauth: client: %w", err)
	}
	c := &Client{nc: nc, js: js, subjects: DefaultSubjects(), traceParent: func(context.Context) string { return "" }}
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
func (c *Client) AnnounceAuthorization(ctx context.Context, e AuthorizationEvent) error {
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
	header := AddTraceParent(nats.Header{}, cmp.Or(traceParent, c.traceParent(ctx)))
	_, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
	return err
}

// Lookup returns the current code of a component. If ctx has no deadline, Lookup waits for at most
// 5 s; the service answers within 4 s by default. A look-up that has no answer after half a second is
// sent once more, because the replica that got it may have been killed; that costs no call to WeChat.
//
// The error is an [*Error] if the service answered with one, wraps [nats.ErrNoResponders] if no
// service is running, and wraps [ErrInvalid] if the request or the answer breaks the contract. Such
// a request is not sent.
func (c *Client) Lookup(ctx context.Context, r LookupRequest) (Lookup, error) {
	if err := r.check(); err != nil {
		return Lookup{}, fmt.Errorf("preauth: look-up: %w", err)
	}
	reply, err := c.requestAgain(ctx, SubjectFor(c.subjects.Lookup, r.AppID), r.Encode())
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
// a lost answer leaves a code behind that nobody uses. With it, Claim itself sends the request once
// more if it has no answer after half a second, and returns the code that comes first: a replica
// that is killed costs a visitor about a second. If both requests have a code made, the other one
// becomes a spare.
func (c *Client) Claim(ctx context.Context, r ClaimRequest) (Claim, error) {
	if err := r.check(); err != nil {
		return Claim{}, fmt.Errorf("preauth: claim: %w", err)
	}
	request := c.requestAgain
	if r.ClaimID == "" { // a second request would use up another code
		request = c.request
	}
	reply, err := request(ctx, SubjectFor(c.subjects.Claim, r.AppID), r.Encode())
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
// The error is an [*Error] with [StatusNotFound] if the code is neither. Deadline, other errors and
// the repeated request are those of [Client.Lookup].
func (c *Client) Resolve(ctx context.Context, code Secret) (Resolved, error) {
	request := ResolveRequest{code}
	if err := request.check(); err != nil {
		return Resolved{}, fmt.Errorf("preauth: resolve: %w", err)
	}
	reply, err := c.requestAgain(ctx, c.subjects.Resolve, request.Encode())
	if err != nil {
		return Resolved{}, fmt.Errorf("preauth: resolve: %w", err)
	}
	r, err := ParseResolved(reply.Data)
	if err != nil {
		return Resolved{}, fmt.Errorf("preauth: resolve: %w", err)
	}
	return r, nil
}

// Status returns how a component fares. Deadline and errors are those of [Client.Lookup].
func (c *Client) Status(ctx context.Context, appid string) (Status, error) {
	if err := CheckAppID(appid); err != nil {
		return Status{}, fmt.Errorf("preauth: status: %w", err)
	}
	return c.statusOf(ctx, "status", c.subjects.Status, appid)
}

// StatusPage returns a page of the components that a request without an AppID matches. Deadline and
// errors are those of [Client.Lookup].
func (c *Client) StatusPage(ctx context.Context, r StatusRequest) (StatusPage, error) {
	err := r.check()
	if err == nil && r.AppID != "" {
		err = invalid("a page is not about one component: use Client.Status")
	}
	if err != nil {
		return StatusPage{}, fmt.Errorf("preauth: status: %w", err)
	}
	reply, err := c.request(ctx, c.subjects.Status, r.Encode())
	if err != nil {
		return StatusPage{}, fmt.Errorf("preauth: status: %w", err)
	}
	p, err := ParseStatusPage(reply.Data)
	if err != nil {
		return StatusPage{}, fmt.Errorf("preauth: status: %w", err)
	}
	return p, nil
}

// Renew has the service work on a component now, whether its code is due or not, and returns how it
// fares with the new code. The error is an [*Error] if there is no new one: it says why. Deadline and
// other errors are those of [Client.Lookup]. Each call may cost one of WeChat's calls.
func (c *Client) Renew(ctx context.Context, appid string) (Status, error) {
	if err := CheckAppID(appid); err != nil {
		return Status{}, fmt.Errorf("preauth: renew: %w", err)
	}
	return c.statusOf(ctx, "renew", c.subjects.Renew, appid)
}

// statusOf sends a request whose answer is the status of a component.
func (c *Client) statusOf(ctx context.Context, operation, subject, appid string) (Status, error) {
	reply, err := c.request(ctx, SubjectFor(subject, appid), nil)
	if err != nil {
		return Status{}, fmt.Errorf("preauth: %s: %w", operation, err)
	}
	s, err := ParseStatus(reply.Data)
	if err != nil {
		return Status{}, fmt.Errorf("preauth: %s: %w", operation, err)
	}
	if s.AppID != appid {
		return Status{}, fmt.Errorf("preauth: %s: %w", operation, invalid("the answer is about another component"))
	}
	return s, nil
}

// replicasAnswer is how long [Client.Replicas] waits for another replica after each answer. The
// statistics come from memory.
const replicasAnswer = 300 * time.Millisecond

// Replicas returns how the replicas fare that answer, sorted by when they started. Nobody knows how
// many there are: it returns when none has answered for a third of a second. Replicas of services
// with other subjects are not among them. Without an answer, the deadline and errors are those of
// [Client.Lookup].
func (c *Client) Replicas(ctx context.Context) ([]Replica, error) {
	replicas, err := c.replicas(ctx)
	if err != nil {
		return nil, fmt.Errorf("preauth: replicas: %w", err)
	}
	slices.SortFunc(replicas, func(a, b Replica) int { return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID)) })
	return replicas, nil
}

func (c *Client) replicas(ctx context.Context) (replicas []Replica, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sub.Unsubscribe()) }()
	subject, err := micro.ControlSubject(micro.StatsVerb, ServiceName, "")
	if err != nil {
		return nil, err
	}
	if err := c.nc.PublishRequest(subject, inbox, nil); err != nil {
		return nil, err
	}
	msg, err := sub.NextMsgWithContext(ctx)
	for ; err == nil && ctx.Err() == nil; msg, err = sub.NextMsg(replicasAnswer) {
		replica, ok, err := replicaOf(msg.Data, c.subjects.Status)
		if err != nil {
			return nil, err
		}
		if ok {
			replicas = append(replicas, replica)
		}
	}
	if errors.Is(err, nats.ErrTimeout) { // of NextMsg: the context's error is another
		err = nil
	}
	return replicas, err
}

// replicaOf returns the replica that statistics of the micro service are about. ok is false if it has
// other subjects, or does not say how it fares.
func replicaOf(body []byte, statusSubject string) (replica Replica, ok bool, err error) {
	var stats micro.Stats
	if err := json.Unmarshal(body, &stats); err != nil {
		return Replica{}, false, invalid("the statistics of a replica are not JSON as of a NATS micro service")
	}
	for _, endpoint := range stats.Endpoints {
		if endpoint == nil || endpoint.Subject != statusSubject || !isPresent(endpoint.Data) {
			continue
		}
		if replica, err = ParseReplica(endpoint.Data); err != nil {
			return Replica{}, false, err
		}
		replica.ID, replica.Version, replica.StartedAt = stats.ID, stats.Version, microseconds(stats.Started)
		return replica, true, nil
	}
	return Replica{}, false, nil
}

// bounded returns a context that has a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// requestAgain is request for what is safe to repeat. It sends the request once more if there is no
// answer for a while. The first answer that is not an error counts, whichever request it is to.
func (c *Client) requestAgain(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	type answer struct {
		reply *nats.Msg
		err   error
	}
	answers := make(chan answer, 2)
	send := func() {
		reply, err := c.request(ctx, subject, body)
		answers <- answer{reply, err}
	}
	go send()
	again := time.NewTimer(repeatAfter)
	defer again.Stop()
	var failed error // what went wrong first: the end of ctx comes last
	for waiting := 1; waiting > 0; {
		select {
		case <-again.C:
			waiting++
			go send()
		case got := <-answers:
			if got.err == nil {
				return got.reply, nil
			}
			waiting--
			if failed == nil {
				failed = got.err
			}
		}
	}
	return nil, failed
}

// request returns the answer to a request. An answer that is an error becomes an [*Error].
func (c *Client) request(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	header := AddTraceParent(nats.Header{}, c.traceParent(ctx))
	reply, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
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
		u.TraceParent = TraceParent(msg.Header)
		updated(u)
		return nil
	}, failed)
}

// SubscribeAuthorized calls authorized for every code that is announced as spent from now on, and
// failed for every message that is not an [Authorized]. Otherwise it is like [Client.Subscribe]: an
// announcement is missed while the connection is down. The stream PREAUTH_AUTHORIZED has those of
// the last week, 64 MiB of them at most.
func (c *Client) SubscribeAuthorized(authorized func(Authorized), failed func(error)) (*nats.Subscription, error) {
	return c.subscribe(c.subjects.Authorized, func(msg *nats.Msg) error {
		a, err := ParseAuthorized(msg.Data)
		if err != nil {
			return err
		}
		a.TraceParent = TraceParent(msg.Header)
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
