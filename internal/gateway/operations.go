package gateway

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// The names of the operations in a tokens file, in the log and in metrics.
const (
	opClaim      = "claim"
	opLookup     = "lookup"
	opResolve    = "resolve"
	opAnnounce   = "announce"
	opAuthorized = "authorized"
	opStatus     = "status"
)

// operation is what an address of the API does.
type operation struct {
	name, method, path string
	// role is the one of deploy/nats that may do it.
	role string
	do   func(*Gateway, context.Context, *request) (answer []byte, err error)
}

var operations = []operation{
	{opClaim, http.MethodPost, "/v1/components/{appid}/claims", "client", (*Gateway).claim},
	{opLookup, http.MethodGet, "/v1/components/{appid}/code", "client", (*Gateway).lookup},
	{opResolve, http.MethodPost, "/v1/resolutions", "client", (*Gateway).resolve},
	{opAnnounce, http.MethodPost, "/v1/components/{appid}/tokens", "tokens", (*Gateway).announce},
	{opAuthorized, http.MethodPost, "/v1/components/{appid}/authorizations", "tokens", (*Gateway).authorized},
	{opStatus, http.MethodGet, "/v1/components", "operator", (*Gateway).statuses},
	{opStatus, http.MethodGet, "/v1/components/{appid}", "operator", (*Gateway).status},
}

// request is a request whose bearer may make it.
type request struct {
	grant  *grant
	appid  string // of the address, "" if that has none
	header http.Header
	query  url.Values
	body   []byte
}

// claim answers with a code that nobody else gets.
func (g *Gateway) claim(ctx context.Context, r *request) ([]byte, error) {
	claim, err := preauth.ParseClaimRequest(r.appid, r.body)
	if err != nil {
		return nil, requestError(err)
	}
	key, err := idempotencyKey(r.header)
	switch {
	case err != nil:
		return nil, err
	case key != "" && claim.ClaimID != "" && key != claim.ClaimID:
		return nil, problemf(badRequest, "Idempotency-Key and claim_id differ: give one of them, or the same text as both")
	case key != "":
		claim.ClaimID = key
		if _, err := preauth.ParseClaimRequest(r.appid, claim.Encode()); err != nil {
			return nil, problemf(badRequest, "Idempotency-Key is taken for claim_id: %s", requestError(err).detail)
		}
	}
	return ask(ctx, g, preauth.SubjectFor(g.options.Subjects.Claim, r.appid), func(ctx context.Context) (preauth.Claim, error) {
		return g.options.Client.Claim(ctx, claim)
	})
}

// idempotencyKey returns what the header Idempotency-Key says, "" without one. It is a text as it
// stands or, as the draft of the IETF has it, a string in quotation marks.
func idempotencyKey(header http.Header) (string, error) {
	values := header.Values("Idempotency-Key")
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || values[0] == "":
		return "", problemf(badRequest, "Idempotency-Key must be there once, with a text, or not at all")
	}
	inside, quoted := strings.CutPrefix(values[0], `"`)
	if !quoted {
		return values[0], nil
	}
	inside, closed := strings.CutSuffix(inside, `"`)
	if !closed || inside == "" || strings.ContainsAny(inside, `"\`) {
		return "", problemf(badRequest, `Idempotency-Key begins with a quotation mark: it must end with one and have neither " nor \ between`)
	}
	return inside, nil
}

// lookup answers with the current code.
func (g *Gateway) lookup(ctx context.Context, r *request) ([]byte, error) {
	q := query{values: r.query}
	lookup := preauth.LookupRequest{
		AppID: r.appid, MinTTL: time.Duration(q.number("min_ttl", uint64(preauth.MaxTokenLife/time.Second))) * time.Second,
		MinRevision: q.number("min_revision", maxRevision),
		LinkOptions: preauth.LinkOptions{
			RedirectURI: q.text("redirect_uri"), AuthType: int(q.number("auth_type", 8)), BizAppID: q.text("biz_appid"),
			CategoryIDList: q.text("category_id_list"),
		},
	}
	if q.err != nil {
		return nil, q.err
	}
	if _, err := preauth.ParseLookupRequest(r.appid, lookup.Encode()); err != nil {
		return nil, requestError(err)
	}
	return ask(ctx, g, preauth.SubjectFor(g.options.Subjects.Lookup, r.appid), func(ctx context.Context) (preauth.Lookup, error) {
		return g.options.Client.Lookup(ctx, lookup)
	})
}

// maxRevision is the largest revision that the contract knows.
const maxRevision = 1<<53 - 1

// resolve answers with what a code was used for.
func (g *Gateway) resolve(ctx context.Context, r *request) ([]byte, error) {
	parsed, err := preauth.ParseResolveRequest(r.body)
	if err != nil {
		return nil, requestError(err)
	}
	return ask(ctx, g, g.options.Subjects.Resolve, func(ctx context.Context) (preauth.Resolved, error) {
		resolved, err := g.options.Client.Resolve(ctx, parsed.PreAuthCode)
		if err == nil && !r.grant.mayFor(resolved.AppID) {
			err = preauth.UnknownCode()
		}
		return resolved, err
	})
}

// plain has an event's body read as the event itself. Without it, a body with a member specversion
// would be one around it.
var plain = nats.Header{"ce-specversion": {"1.0"}}

// announce announces a token.
func (g *Gateway) announce(ctx context.Context, r *request) ([]byte, error) {
	event, err := preauth.ParseTokenEvent(r.appid, plain, r.body, time.Now())
	if err != nil {
		return nil, requestError(err)
	}
	return nil, g.ask(ctx, preauth.SubjectFor(g.options.Subjects.TokenUpdated, r.appid), func(ctx context.Context) error {
		return g.options.Client.Announce(ctx, event)
	})
}

// authorized reports that an account authorized with a code.
func (g *Gateway) authorized(ctx context.Context, r *request) ([]byte, error) {
	event, err := preauth.ParseAuthorizationEvent(r.appid, plain, r.body, time.Now())
	if err != nil {
		return nil, requestError(err)
	}
	return nil, g.ask(ctx, preauth.SubjectFor(g.options.Subjects.Authorization, r.appid), func(ctx context.Context) error {
		return g.options.Client.AnnounceAuthorization(ctx, event)
	})
}

// status answers how a component fares.
func (g *Gateway) status(ctx context.Context, r *request) ([]byte, error) {
	if err := preauth.CheckAppID(r.appid); err != nil {
		return nil, requestError(err)
	}
	return ask(ctx, g, preauth.SubjectFor(g.options.Subjects.Status, r.appid), func(ctx context.Context) (preauth.Status, error) {
		return g.options.Client.Status(ctx, r.appid)
	})
}

// statuses answers with a page of the components, and how all of them fare.
func (g *Gateway) statuses(ctx context.Context, r *request) ([]byte, error) {
	if !r.grant.mayForAll() {
		return nil, problemf(forbidden, "this token is for some components: ask for the status of one of them")
	}
	q := query{values: r.query}
	asked := preauth.StatusRequest{State: preauth.State(q.text("state")), Prefix: q.text("prefix"), After: q.text("after")}
	if q.err != nil {
		return nil, q.err
	}
	if _, err := preauth.ParseStatusRequest("", asked.Encode()); err != nil {
		return nil, requestError(err)
	}
	return ask(ctx, g, g.options.Subjects.Status, func(ctx context.Context) (preauth.StatusPage, error) {
		return g.options.Client.StatusPage(ctx, asked)
	})
}

// ask has a request made, and returns the body of the answer.
func ask[A interface{ Encode() []byte }](
	ctx context.Context, g *Gateway, subject string, request func(context.Context) (A, error),
) (body []byte, err error) {
	err = g.ask(ctx, subject, func(ctx context.Context) error {
		answer, err := request(ctx)
		if err == nil {
			body = answer.Encode()
		}
		return err
	})
	return body, err
}

// ask has a request made if NATS is there. subject is where its message goes.
func (g *Gateway) ask(ctx context.Context, subject string, request func(context.Context) error) error {
	if !g.options.NATS.IsConnected() { // the client would keep the message, and send it when nobody waits any more
		return errNotConnected
	}
	return g.refusals.ask(ctx, subject, request)
}

// query reads the parameters of an address. It keeps the first error.
type query struct {
	values url.Values
	err    error
}

// text returns a parameter, "" if it is not there.
func (q *query) text(name string) string {
	values := q.values[name]
	if len(values) > 1 && q.err == nil {
		q.err = problemf(badRequest, "%s appears twice: remove one", name)
	}
	return strings.Join(values, ",")
}

// number returns a parameter that is a whole number of at most limit, 0 if it is not there.
func (q *query) number(name string, limit uint64) uint64 {
	text := q.text(name)
	if !q.values.Has(name) {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 53)
	if (err != nil || n > limit) && q.err == nil {
		q.err = problemf(badRequest, "%s must be a whole number from 0 to %d", name, limit)
	}
	return n
}
