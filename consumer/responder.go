package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/repo"
	"preauth/wechat"
)

// responder answers look-ups as a NATS micro service. What memory can answer is answered at once,
// by NATS's own goroutine of the endpoint; the rest is handed to a bounded number of goroutines,
// since a handler that waits holds up all requests behind it.
type responder struct {
	*Service
	service micro.Service
	slow    sync.WaitGroup
	places  chan struct{}
}

func newResponder(s *Service) *responder {
	return &responder{Service: s, places: make(chan struct{}, s.cfg.Requests)}
}

// start begins to answer. It works without a connection: NATS learns of the service when there is
// one.
func (r *responder) start() error {
	service, err := micro.AddService(r.nc, micro.Config{
		Name:        "preauth",
		Version:     r.cfg.Version,
		Description: "pre_auth_codes of WeChat third-party platforms",
	})
	if err != nil {
		return fmt.Errorf("consumer: micro service: %w", err)
	}
	lookup := micro.HandlerFunc(r.lookup)
	// Everything below the subject is taken, so that an impossible appid gets an answer.
	err = errors.Join(
		service.AddEndpoint("lookup", lookup, micro.WithEndpointSubject(r.cfg.Subjects.Lookup)),
		service.AddEndpoint("lookup-component", lookup, micro.WithEndpointSubject(r.cfg.Subjects.Lookup+".>")),
	)
	if err != nil {
		return fmt.Errorf("consumer: micro service: %w", errors.Join(err, service.Stop()))
	}
	r.service = service
	return nil
}

// stop takes no more requests and waits for those that were taken to be answered.
func (r *responder) stop() {
	if err := r.service.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		r.log.Warn("micro service not stopped", "error", err)
	}
	r.slow.Wait()
}

func (r *responder) lookup(req micro.Request) {
	started := r.cfg.Now()
	request, err := preauth.ParseLookupRequest(preauth.AppIDIn(r.cfg.Subjects.Lookup, req.Subject()), req.Data())
	if err != nil {
		r.refuse(req.Reply(), &preauth.Error{Code: preauth.CodeBadRequest, Message: err.Error()})
		return
	}
	if code, ok := r.codes.code(request.AppID); ok && serves(code, request, started) {
		r.answer(req.Reply(), code, request)
		return
	}
	select {
	case r.places <- struct{}{}:
	default:
		r.refuse(req.Reply(), &preauth.Error{
			Code: preauth.CodeTooMany, Message: "too many look-ups at once: try again in a moment",
		})
		return
	}
	reply := req.Reply()
	r.slow.Go(func() {
		defer func() { <-r.places }()
		ctx, cancel := context.WithTimeout(r.lasting, r.cfg.RequestTimeout)
		defer cancel()
		code, err := r.fromMySQL(ctx, request)
		if err != nil {
			r.refuse(reply, err)
			return
		}
		r.answer(reply, code, request)
	})
}

// serves reports whether a code is what the request asks for.
func serves(code preauth.Update, request preauth.LookupRequest, now time.Time) bool {
	left := code.ExpiresAt.Sub(now)
	return left > 0 && left >= request.MinTTL && code.Revision >= request.MinRevision
}

// fromMySQL returns a code that serves the request, or says why there is none.
func (r *responder) fromMySQL(ctx context.Context, request preauth.LookupRequest) (preauth.Update, *preauth.Error) {
	known, err := r.db.Components(ctx, []string{request.AppID})
	if err != nil {
		r.log.Warn("look-up without MySQL", "component", request.AppID, "error", err)
		return preauth.Update{}, &preauth.Error{Code: preauth.CodeInternal, Message: "the database does not answer: try again"}
	}
	component, ok := known[request.AppID]
	if !ok {
		return preauth.Update{}, &preauth.Error{
			Code: preauth.CodeNotFound, Message: "no token event ever named this component",
		}
	}
	if current := component.Current; current != nil {
		code := updateOf(component.AppID, *current)
		r.codes.add(code)
		if serves(code, request, r.cfg.Now()) {
			return code, nil
		}
		if life := current.ExpiresAt.Sub(current.IssuedAt); request.MinTTL >= life {
			return preauth.Update{}, &preauth.Error{
				Code:    preauth.CodeBadRequest,
				Message: fmt.Sprintf("min_ttl must be less than the %d s for which a new code lives", life/time.Second),
			}
		}
	}
	return preauth.Update{}, unavailable(component, request)
}

// unavailable says why there is no code that serves the request.
func unavailable(component repo.Component, request preauth.LookupRequest) *preauth.Error {
	e := &preauth.Error{Code: preauth.CodeUnavailable, Message: "there is no valid code now", RetryAt: component.DueAt}
	if current := component.Current; current != nil && current.Revision < request.MinRevision {
		e.Message = "the revision asked for is not committed yet"
	}
	if f := component.Failure; f != nil {
		e.Class, e.ErrCode, e.ErrMsg, e.RID, e.RequestIP, e.RetryAt = f.Class, f.ErrCode, f.ErrMsg, f.RID, f.RequestIP, f.RetryAt
	}
	return e
}

func (r *responder) answer(reply string, code preauth.Update, request preauth.LookupRequest) {
	lookup := preauth.Lookup{
		AppID: code.AppID, PreAuthCode: code.PreAuthCode, IssuedAt: code.IssuedAt, ExpiresAt: code.ExpiresAt,
		ExpiresIn: code.ExpiresAt.Sub(r.cfg.Now()), Revision: code.Revision,
	}
	if request.RedirectURI != "" {
		lookup.Links = wechat.AuthorizationLinks(code.AppID, code.PreAuthCode, request.LinkOptions)
	}
	r.metrics.lookedUp(0)
	r.send(&nats.Msg{Subject: reply, Data: lookup.Encode()})
}

func (r *responder) refuse(reply string, e *preauth.Error) {
	r.metrics.lookedUp(e.Code)
	r.send(&nats.Msg{
		Subject: reply,
		Header:  nats.Header{micro.ErrorCodeHeader: {strconv.Itoa(e.Code)}, micro.ErrorHeader: {e.Message}},
		Data:    e.Encode(),
	})
}

// send answers without the micro.Request, which must not be used after its handler has returned.
func (r *responder) send(msg *nats.Msg) {
	if msg.Subject == "" {
		return // published, not requested
	}
	if err := r.nc.PublishMsg(msg); err != nil {
		r.log.Debug("look-up not answered", "error", err)
	}
}
