package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
)

// kind is a kind of problem. Its name is the end of the problem's type.
type kind struct {
	name   string
	status int
	title  string
}

// typePrefix begins the type of every problem.
const typePrefix = "urn:preauth:problem:"

var (
	badRequest       = kind{"bad-request", http.StatusBadRequest, "The request is wrong"}
	unauthorized     = kind{"unauthorized", http.StatusUnauthorized, "No valid token"}
	forbidden        = kind{"forbidden", http.StatusForbidden, "The token does not allow this"}
	noAddress        = kind{"no-such-address", http.StatusNotFound, "No such address"}
	notFound         = kind{"not-found", http.StatusNotFound, "Not found"}
	methodNotAllowed = kind{"method-not-allowed", http.StatusMethodNotAllowed, "Method not allowed"}
	slowBody         = kind{"slow-body", http.StatusRequestTimeout, "The body came too slowly"}
	conflict         = kind{"conflict", http.StatusConflict, "Conflict"}
	tooLarge         = kind{"too-large", http.StatusRequestEntityTooLarge, "The body is too large"}
	unsupportedMedia = kind{"unsupported-media-type", http.StatusUnsupportedMediaType, "The body is not JSON"}
	tooFast          = kind{"too-fast", http.StatusTooManyRequests, "Too many requests with this token"}
	busy             = kind{"busy", http.StatusTooManyRequests, "The service is busy"}
	failed           = kind{"failed", http.StatusInternalServerError, "The service failed"}
	notPermitted     = kind{"not-permitted", http.StatusNotImplemented, "This gateway may not do this"}
	badAnswer        = kind{"bad-answer", http.StatusBadGateway, "The answer cannot be understood"}
	unavailable      = kind{"unavailable", http.StatusServiceUnavailable, "No code now"}
	unreachable      = kind{"unreachable", http.StatusServiceUnavailable, "The service cannot be reached"}
	noAnswer         = kind{"no-answer", http.StatusGatewayTimeout, "The service did not answer in time"}
)

// kinds are all kinds.
var kinds = []kind{
	badRequest, unauthorized, forbidden, noAddress, notFound, methodNotAllowed, slowBody, conflict, tooLarge, unsupportedMedia, tooFast, busy,
	failed, notPermitted, badAnswer, unavailable, unreachable, noAnswer,
}

// serviceKinds are the kinds of the errors with which the service answers.
var serviceKinds = map[int]kind{
	preauth.StatusBadRequest:  badRequest,
	preauth.StatusNotFound:    notFound,
	preauth.StatusConflict:    conflict,
	preauth.StatusTooMany:     busy,
	preauth.StatusInternal:    failed,
	preauth.StatusUnavailable: unavailable,
}

// problem is why a request is not answered with success.
type problem struct {
	kind

	detail string
	// service is the error with which the service answered, nil if it did not.
	service *preauth.Error
	// retryAfter is when it makes sense to try again, 0 if that is not known.
	retryAfter time.Duration
}

func (p *problem) Error() string { return p.detail }

// problemf returns a problem with a detail, which must not repeat what the request had.
func problemf(k kind, format string, args ...any) *problem {
	return &problem{kind: k, detail: fmt.Sprintf(format, args...)}
}

// soon is when to try again what is a matter of moments.
const soon = time.Second

// problemOf returns the problem that an error is. role is the one of deploy/nats that may do what was
// asked for. The detail has nothing of an error that is not expected.
func problemOf(err error, role string, timeout time.Duration) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if answered, ok := errors.AsType[*preauth.Error](err); ok {
		return serviceProblem(answered)
	}
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return problemf(notPermitted, "%v; the role %s of deploy/nats may do what was asked for", refused, role)
	}
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok {
		p := problemf(unreachable, "the stream did not store it: %s", refused.Description)
		p.retryAfter = soon
		return p
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		p := problemf(unreachable, "no replica of preauth answers: is it running, on the gateway's NATS and with its subject prefix?")
		p.retryAfter = soon
		return p
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrReconnectBufExceeded),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, errNotConnected):
		p := problemf(unreachable, "the gateway is not connected to NATS")
		p.retryAfter = soon
		return p
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		p := problemf(noAnswer, "no answer within %v. It may have been done: repeat a claim with the same claim_id", timeout)
		p.retryAfter = soon
		return p
	default:
		return problemf(badAnswer, "the answer of the service, or of NATS, is none that the contract allows: the gateway's log says more")
	}
}

// errNotConnected is why a request is not sent.
var errNotConnected = errors.New("not connected to NATS")

// serviceProblem returns the problem that the service answered with.
func serviceProblem(answered *preauth.Error) *problem {
	k, ok := serviceKinds[answered.Code]
	if !ok {
		return problemf(badAnswer, "the service answered with the code %d, which the contract does not have", answered.Code)
	}
	p := &problem{kind: k, detail: answered.Message, service: answered}
	switch {
	case !answered.RetryAt.IsZero():
		p.retryAfter = max(time.Until(answered.RetryAt), soon)
	case k == busy, k == failed, k == unavailable && answered.Class == "":
		p.retryAfter = soon
	}
	return p
}

// requestError returns the problem that an error of the contract's parsers is.
func requestError(err error) *problem {
	return problemf(badRequest, "%s", strings.TrimPrefix(err.Error(), preauth.ErrInvalid.Error()+": "))
}

// document is a problem document (RFC 9457). The members after Detail are those of the contract's
// errors, except its message, which is the detail.
type document struct {
	Type      string        `json:"type"`
	Title     string        `json:"title"`
	Status    int           `json:"status"`
	Detail    string        `json:"detail"`
	Code      int           `json:"code,omitempty"`
	Class     preauth.Class `json:"class,omitempty"`
	ErrCode   int           `json:"errcode,omitempty"`
	ErrMsg    string        `json:"errmsg,omitempty"`
	RID       string        `json:"rid,omitempty"`
	RequestIP string        `json:"request_ip,omitempty"`
	RetryAt   string        `json:"retry_at,omitempty"`
}

// write writes the problem.
func (p *problem) write(w http.ResponseWriter) {
	service := cmp.Or(p.service, &preauth.Error{})
	d := document{
		Type: typePrefix + p.name, Title: p.title, Status: p.status, Detail: p.detail, Code: service.Code, Class: service.Class,
		ErrCode: service.ErrCode, ErrMsg: service.ErrMsg, RID: service.RID, RequestIP: service.RequestIP,
	}
	if !service.RetryAt.IsZero() {
		d.RetryAt = service.RetryAt.Format(time.RFC3339Nano)
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(d) //nolint:errchkjson // texts and numbers are always JSON
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.status)
	_, _ = w.Write(body.Bytes()) // who asked may be gone
}
