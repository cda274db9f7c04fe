package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/internal/inflight"
	"preauth/internal/quota"
	"preauth/repo"
)

// responder answers requests as a NATS micro service. What memory can answer is answered at once, by
// NATS's own goroutine of the endpoint. The rest is handed to a bounded number of goroutines, since a
// handler that waits holds up all requests behind it.
type responder struct {
	cfg  Config
	nc   *nats.Conn
	log  *slog.Logger
	busy inflight.Slots
	// allowed returns nil if requests may be worked on that need the database.
	allowed func() error
	// describe says how this replica fares.
	describe func() preauth.Replica

	mu       sync.Mutex
	service  micro.Service   // nil before start
	identity preauth.Replica // its ID, Version and StartedAt alone
	stopping bool
	working  sync.WaitGroup
}

func newResponder(
	cfg Config, nc *nats.Conn, log *slog.Logger, allowed func() error, describe func() preauth.Replica,
) *responder {
	return &responder{cfg: cfg, nc: nc, log: log, allowed: allowed, describe: describe, busy: inflight.NewSlots(cfg.Requests)}
}

// endpoint is a subject that requests come on.
type endpoint struct {
	name    string
	subject string
	counter answers
	// handler returns what handles the requests of one subscription, one after the other.
	handler func() handler
}

// linkMembers are the members of requests that ask for links.
const linkMembers = "redirect_uri, auth_type, biz_appid, category_id_list"

// described is what the NATS tools show of the endpoints: what they are for, and the members of
// requests and answers. The tools cut a text that is longer than 80 characters.
var described = map[string]map[string]string{
	"lookup": {
		"description":  "the current code of a component",
		"request":      "component_appid, min_ttl, min_revision",
		"request-link": linkMembers,
		"answer":       "component_appid, pre_auth_code, issued_at, expires_at, revision, expires_in",
		"answer-link":  "links {pc, mobile, plugin}",
	},
	"claim": {
		"description":  "a code for one visitor, which nobody else gets",
		"request":      "component_appid, claim_id, reference, min_ttl",
		"request-link": linkMembers,
		"answer":       "component_appid, pre_auth_code, issued_at, expires_at, expires_in",
		"answer-claim": "claim_id, reference, claimed_at",
		"answer-link":  "links {pc, mobile, plugin}",
	},
	"resolve": {
		"description":       "what a code was used for",
		"request":           "pre_auth_code",
		"answer":            "component_appid, issued_at, expires_at",
		"answer-claimed":    "claim_id, reference, claimed_at",
		"answer-announced":  "revision",
		"answer-authorized": "authorizer_appid, authorized_at",
	},
	"status": {
		"description": "how all components fare, page by page; one, if it is named",
		"request":     "component_appid, state, prefix, after",
		"answer":      "summary, components, next",
	},
	"status-component": {
		"description": "how a component fares",
		"request":     "component_appid",
		"answer":      "component_appid, state, revision, cause, issued_at, expires_at, spent",
		"answer-more": "due_at, token_expires_at, spares, attempts, failure, advice, quota",
	},
	"renew": {
		"description": "works on a component now; the answer is its status",
		"request":     "component_appid",
		"answer":      "component_appid, state, revision, cause, issued_at, expires_at, spent",
		"answer-more": "due_at, token_expires_at, spares, attempts, failure, advice, quota",
	},
}

// metadata returns what the NATS tools show of the endpoint. Where its subject names the component,
// the request need not.
func (e endpoint) metadata() map[string]string {
	shown := maps.Clone(described[e.name])
	if shown == nil {
		shown = maps.Clone(described[strings.TrimSuffix(e.name, "-component")])
	}
	subject, below := strings.CutSuffix(e.subject, ".>")
	if below {
		subject = preauth.SubjectFor(subject, "<component_appid>")
		if shown["request"] == "component_appid" {
			delete(shown, "request")
		} else {
			shown["request"] = strings.TrimPrefix(shown["request"], "component_appid, ")
		}
	}
	shown["subject"] = subject
	return shown
}

// handler answers a request. If memory is enough, body is the answer to it, which is used before the
// next request. Otherwise it returns the work that finds the answer.
type handler func(subject string, data []byte) (body []byte, w work, err error)

// work finds the answer to a request that needs more than memory: its code, 200 or 201, and its body.
// ctx ends with the time in which the request is to be answered, workCtx when the service gives up.
type work func(ctx, workCtx context.Context) (code int, body []byte, err error)

// start begins to answer. It works without a connection: NATS learns of the service when there is
// one. Work goes on under workCtx.
func (r *responder) start(workCtx context.Context, endpoints ...endpoint) error {
	service, err := micro.AddService(r.nc, micro.Config{
		Name:        preauth.ServiceName,
		Version:     r.cfg.Version,
		Description: "pre_auth_codes of WeChat third-party platforms: one for each visitor, and the current ones",
		Metadata: map[string]string{
			"contract": "docs/contract.md",
			"errors":   micro.ErrorCodeHeader + "; in the body, error {code, message, class, retry_at, …}",
		},
		StatsHandler: func(e *micro.Endpoint) any {
			if e.Subject != r.cfg.Subjects.Status {
				return nil
			}
			return json.RawMessage(r.describe().Encode())
		},
	})
	if err != nil {
		return fmt.Errorf("consumer: micro service: %w", err)
	}
	for _, e := range endpoints {
		err := service.AddEndpoint(e.name, r.serve(workCtx, e), micro.WithEndpointSubject(e.subject), micro.WithEndpointMetadata(e.metadata()))
		if err != nil {
			return fmt.Errorf("consumer: micro service: endpoint %s: %w", e.name, errors.Join(err, service.Stop()))
		}
	}
	stats := service.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.service = service
	r.identity = preauth.Replica{ID: stats.ID, Version: stats.Version, StartedAt: stats.Started}
	return nil
}

// replica returns how this replica fares, as the statistics of the micro service say it.
func (r *responder) replica() preauth.Replica {
	described := r.describe()
	r.mu.Lock()
	defer r.mu.Unlock()
	described.ID, described.Version, described.StartedAt = r.identity.ID, r.identity.Version, r.identity.StartedAt
	return described
}

// lastRequests bounds how long a replica that stops waits for NATS, and for the requests that NATS
// has sent it.
const lastRequests = 5 * time.Second

// stop takes no more requests, answers those that NATS has sent to this replica, and waits for the
// work on them.
func (r *responder) stop(workCtx context.Context) {
	ctx, cancel := context.WithTimeout(workCtx, lastRequests)
	defer cancel()
	r.awaitNATS(ctx)
	if err := r.service.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		r.log.Warn("micro service not stopped", "error", err)
	}
	r.takeLast(ctx)
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	r.working.Wait()
}

// awaitNATS returns when the replica is connected, or ctx ends. While nats.go reconnects, it does not
// tell the server that an endpoint stops: it subscribes again, and the server sends requests that
// nobody reads until the connection closes.
func (r *responder) awaitNATS(ctx context.Context) {
	changed := r.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer r.nc.RemoveStatusListener(changed)
	for !r.nc.IsConnected() && !r.nc.IsClosed() {
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// takeLast returns when the endpoints have handled all that NATS sent them before it knew that they
// are gone.
func (r *responder) takeLast(ctx context.Context) {
	if r.nc.FlushWithContext(ctx) != nil {
		return // the connection broke, or was not there in time: nothing more comes
	}
	handled := make(chan struct{})
	if r.nc.Barrier(func() { close(handled) }) != nil {
		return
	}
	select {
	case <-handled:
	case <-ctx.Done():
	}
}

// serve returns the handler of an endpoint.
func (r *responder) serve(workCtx context.Context, e endpoint) micro.HandlerFunc {
	handle := e.handler()
	subject := strings.TrimSuffix(e.subject, ".>")
	return func(req micro.Request) {
		// The micro.Request must not be used once its handler has returned, and the reply subject may.
		reply := req.Reply()
		if !r.answerable(reply) {
			return
		}
		ctx := r.cfg.tracer.request(workCtx, subject, req)
		body, w, err := handle(req.Subject(), req.Data())
		switch {
		case err != nil:
			r.refuse(ctx, reply, e, err)
		case w == nil:
			r.answer(ctx, reply, e, 200, body)
		default:
			if err := r.begin(ctx, reply, e, w); err != nil {
				r.refuse(ctx, reply, e, err)
			}
		}
	}
}

// begin has a goroutine answer a request, or says why it cannot.
func (r *responder) begin(workCtx context.Context, reply string, e endpoint, w work) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return errStopping
	}
	if err := r.allowed(); err != nil {
		return fmt.Errorf("%w: %w", errNotAllowed, err)
	}
	if !r.busy.TryAcquire() {
		return errTooMany
	}
	r.working.Go(func() {
		ctx, cancel := context.WithTimeout(workCtx, r.cfg.RequestTimeout)
		defer cancel()
		code, body, err := w(ctx, workCtx)
		r.busy.Release(1) // before the answer: the requester may ask again at once
		if err != nil {
			r.refuse(ctx, reply, e, err)
			return
		}
		r.answer(ctx, reply, e, code, body)
	})
	return nil
}

func (r *responder) answer(ctx context.Context, reply string, e endpoint, code int, body []byte) {
	e.counter.count(code)
	answered(ctx, code, "")
	r.send(&nats.Msg{Subject: reply, Data: body})
}

func (r *responder) refuse(ctx context.Context, reply string, e endpoint, err error) {
	wire := wireError(err)
	if wire.Code == preauth.StatusInternal {
		r.log.Log(ctx, levelOf(err), "request not answered", "endpoint", e.name, "error", err)
	}
	e.counter.count(wire.Code)
	answered(ctx, wire.Code, wire.Class)
	r.send(&nats.Msg{
		Subject: reply,
		Header:  nats.Header{micro.ErrorCodeHeader: {strconv.Itoa(wire.Code)}, micro.ErrorHeader: {wire.Message}},
		Data:    wire.Encode(),
	})
}

func (r *responder) send(msg *nats.Msg) {
	if err := r.nc.PublishMsg(msg); err != nil {
		r.log.Debug("request not answered", "error", err)
	}
}

// answerable reports whether an answer may go to a reply subject. The requester chooses it, and the
// service publishes with rights that the requester may not have: an answer on preauth.updated.wx1
// would be stored as an announcement, and one on $JS.API.STREAM.PURGE.PREAUTH be taken for a request.
// A request without an answer is not worked on either: its claim would spend a code that nobody gets.
func (r *responder) answerable(reply string) bool {
	if reply == "" { // published, not requested
		return false
	}
	s := r.cfg.Subjects
	own := func(subject string) bool {
		rest, ok := strings.CutPrefix(reply, subject)
		return ok && (rest == "" || rest[0] == '.')
	}
	if reply[0] == '$' || own(s.TokenUpdated) || own(s.Authorization) || own(s.Updated) || own(s.Failed) || own(s.Authorized) ||
		own(s.Lookup) || own(s.Claim) || own(s.Resolve) || own(s.Status) || own(s.Renew) {
		r.log.Debug("request not answered: its reply subject is not one for answers", "subject", reply)
		return false
	}
	return true
}

var (
	errNotAllowed = errors.New("this replica may not use its database: try again")
	errStopping   = errors.New("this replica is stopping: try again")
	errTooMany    = errors.New("too many requests at once: try again in a moment")
	errRenewing   = errors.New("a new code is being made: try again in a moment")
	errFirstCode  = errors.New("the component's first code is being made: try again in a moment")
	errRevision   = errors.New("the revision asked for is not committed yet")
	errNeverNamed = errors.New("no token event ever named this component")
	errWeChatSlow = errors.New("WeChat did not answer in time: try again")
	errDied       = errors.New("the new code expired before it was saved: try again")
)

// unavailable is the failure because of which a component has no valid code.
type unavailable struct{ preauth.Failure }

// Error says the same of each failure: its members follow in the answer.
func (unavailable) Error() string { return "there is no valid code now" }

// minTTLError refuses a min_ttl that a new code cannot have.
type minTTLError struct{ most, life int64 } // seconds

func (e minTTLError) Error() string {
	return fmt.Sprintf("min_ttl must be at most %d s: a new code lives for %d s, and it takes time to get one", e.most, e.life)
}

// wireError returns an error as requesters see it. Nothing else knows the codes on the wire.
func wireError(err error) *preauth.Error {
	if failed, ok := errors.AsType[unavailable](err); ok {
		return failureError(failed, failed.Failure)
	}
	if failed, ok := errors.AsType[*issueError](err); ok {
		return failureError(unavailable{failed.Failure}, failed.Failure)
	}
	if e, ok := errors.AsType[minTTLError](err); ok {
		return &preauth.Error{Code: preauth.StatusBadRequest, Message: e.Error()}
	}
	for _, known := range []struct {
		err  error
		wire preauth.Error
	}{
		{preauth.ErrInvalid, preauth.Error{Code: preauth.StatusBadRequest, Message: strings.TrimPrefix(err.Error(), preauth.ErrInvalid.Error()+": ")}},
		{errNeverNamed, preauth.Error{Code: preauth.StatusNotFound}},
		{repo.ErrNotClaimed, *preauth.UnknownCode()},
		{repo.ErrReference, preauth.Error{
			Code: preauth.StatusConflict, Message: "this claim_id was used with another reference: choose another claim_id",
		}},
		{repo.ErrKnownCode, preauth.Error{
			Code: preauth.StatusUnavailable, Message: "WeChat gave a code that it gave before: try again", Class: preauth.ClassBadReply,
		}},
		{errTooMany, preauth.Error{Code: preauth.StatusTooMany}},
		{errNotAllowed, preauth.Error{Code: preauth.StatusUnavailable}},
		{errStopping, preauth.Error{Code: preauth.StatusUnavailable}},
		{errRenewing, preauth.Error{Code: preauth.StatusUnavailable}},
		{errFirstCode, preauth.Error{Code: preauth.StatusUnavailable}},
		{errRevision, preauth.Error{Code: preauth.StatusUnavailable}},
		{errUnread, preauth.Error{Code: preauth.StatusUnavailable}},
		{errNoToken, preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassTokenExpired}},
		{quota.ErrSpent, preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassQuota}},
		{quota.ErrExceeded, preauth.Error{Code: preauth.StatusUnavailable, Class: preauth.ClassThrottled}},
		{errWeChatSlow, preauth.Error{Code: preauth.StatusUnavailable}},
		{errDied, preauth.Error{Code: preauth.StatusUnavailable}},
	} {
		if errors.Is(err, known.err) {
			wire := known.wire
			if wire.Message == "" {
				wire.Message = known.err.Error()
			}
			return &wire
		}
	}
	return &preauth.Error{Code: preauth.StatusInternal, Message: "the database does not answer: try again"}
}

func failureError(err error, f preauth.Failure) *preauth.Error {
	return &preauth.Error{
		Code: preauth.StatusUnavailable, Message: err.Error(),
		Class: f.Class, ErrCode: f.ErrCode, ErrMsg: f.ErrMsg, RID: f.RID, RequestIP: f.RequestIP, RetryAt: f.RetryAt,
	}
}
