package consumer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/repo"
	"preauth/wechat"
)

// responder answers look-ups, claims and resolves as a NATS micro service. What memory can answer is
// answered at once, by NATS's own goroutine of the endpoint; the rest is handed to a bounded number
// of goroutines, since a handler that waits holds up all requests behind it.
type responder struct {
	*Service
	service micro.Service
	places  chan struct{}

	mu       sync.Mutex
	stopping bool
	slow     sync.WaitGroup
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
	endpoint := func(name, subject string, handle micro.HandlerFunc) error {
		return service.AddEndpoint(name, handle, micro.WithEndpointSubject(subject))
	}
	// Everything below a subject is taken, so that an impossible appid gets an answer.
	err = errors.Join(
		endpoint("lookup", r.cfg.Subjects.Lookup, r.lookup()),
		endpoint("lookup-component", r.cfg.Subjects.Lookup+".>", r.lookup()),
		endpoint("claim", r.cfg.Subjects.Claim, r.claim),
		endpoint("claim-component", r.cfg.Subjects.Claim+".>", r.claim),
		endpoint("resolve", r.cfg.Subjects.Resolve, r.resolve),
	)
	if err != nil {
		return fmt.Errorf("consumer: micro service: %w", errors.Join(err, service.Stop()))
	}
	r.service = service
	return nil
}

// stop takes no more requests and waits for those that need more than memory. NATS may have some left
// for the endpoints, which are answered, or sent away, until its connection is drained.
func (r *responder) stop() {
	if err := r.service.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		r.log.Warn("micro service not stopped", "error", err)
	}
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	r.slow.Wait()
}

// lookup returns a handler, for one endpoint, which answers with the current code of a component. An endpoint's
// requests come one after the other and NATS copies an answer before it is sent, so all that memory can give
// are written in the same place.
func (r *responder) lookup() micro.HandlerFunc {
	var body []byte
	return func(req micro.Request) {
		request, err := preauth.ParseLookupRequest(preauth.AppIDFromSubject(r.cfg.Subjects.Lookup, req.Subject()), req.Data())
		if err != nil {
			r.refuse(req.Reply(), r.metrics.lookups, badRequest(err))
			return
		}
		if r.fromMemory(&body, request) {
			r.answer(req.Reply(), r.metrics.lookups, 200, body)
			return
		}
		r.handOver(req.Reply(), r.metrics.lookups, func(ctx context.Context) (int, []byte, *preauth.Error) {
			code, e := r.current(ctx, request)
			if e != nil {
				return 0, nil, e
			}
			return 200, lookupOf(code, request, r.cfg.Now()).Encode(), nil
		})
	}
}

// fromMemory writes the answer to a look-up that the view can give into body, and reports whether it can. It
// allocates nothing once the body has its size.
func (r *responder) fromMemory(body *[]byte, request preauth.LookupRequest) bool {
	code, ok := r.codes.code(request.AppID)
	now := r.cfg.Now()
	if !ok || !serves(code, request, now) {
		return false
	}
	*body = lookupOf(code, request, now).Append((*body)[:0])
	return true
}

// serves reports whether a code is what the request asks for.
func serves(code preauth.Update, request preauth.LookupRequest, now time.Time) bool {
	left := code.ExpiresAt.Sub(now)
	return left > 0 && left >= request.MinTTL && code.Revision >= request.MinRevision
}

func lookupOf(code preauth.Update, request preauth.LookupRequest, now time.Time) preauth.Lookup {
	return preauth.Lookup{
		AppID: code.AppID, PreAuthCode: code.PreAuthCode, IssuedAt: code.IssuedAt, ExpiresAt: code.ExpiresAt,
		ExpiresIn: code.ExpiresAt.Sub(now), Revision: code.Revision,
		Links: links(code.AppID, code.PreAuthCode, request.LinkOptions),
	}
}

func links(appid string, code preauth.Secret, options preauth.LinkOptions) preauth.Links {
	if options.RedirectURI == "" {
		return preauth.Links{}
	}
	return wechat.AuthorizationLinks(appid, code, options)
}

// anotherLook is how often a look-up that waits for another replica's work looks at MySQL.
const anotherLook = 100 * time.Millisecond

// current returns a code that serves the request: the one in MySQL, or a new one, which is made once
// for all who wait, here or in another replica. The error says why there is none.
func (r *responder) current(ctx context.Context, request preauth.LookupRequest) (preauth.Update, *preauth.Error) {
	for {
		component, e := r.component(ctx, request.AppID)
		if e != nil {
			return preauth.Update{}, e
		}
		now := r.cfg.Now()
		if current := component.Current; current != nil {
			code := updateOf(component.AppID, *current)
			r.codes.add(standing{Update: code})
			if serves(code, request, now) {
				return code, nil
			}
			if e := beyondLife(request.MinTTL, current); e != nil {
				return preauth.Update{}, e
			}
			if current.Revision < request.MinRevision {
				return preauth.Update{}, &preauth.Error{
					Code: preauth.StatusUnavailable, Message: "the revision asked for is not committed yet",
				}
			}
		}
		if f := component.Failure; f != nil && !retriesWithin(ctx, f, now) {
			return preauth.Update{}, because(f)
		}
		if component.Failure == nil {
			if _, alive := r.tokens.view.token(request.AppID, now); !alive && r.tokens.ready.Load() {
				return preauth.Update{}, tokenExpired()
			}
		}
		if e := r.awaitNew(ctx, component); e != nil {
			return preauth.Update{}, e
		}
	}
}

// awaitNew returns when MySQL may have something new of a component.
func (r *responder) awaitNew(ctx context.Context, component repo.Component) *preauth.Error {
	timeUp := func() *preauth.Error {
		if component.Failure != nil {
			return because(component.Failure)
		}
		return &preauth.Error{Code: preauth.StatusUnavailable, Message: "a new code is being made: try again in a moment"}
	}
	if component.Failure == nil {
		select {
		case <-r.keeper.demand(component.AppID, component.Revision):
		case <-ctx.Done():
			return timeUp()
		}
	}
	if !pause(ctx, anotherLook) {
		return timeUp()
	}
	return nil
}

// retriesWithin reports whether the service tries again, after a failure, while the request waits.
func retriesWithin(ctx context.Context, f *preauth.Failure, now time.Time) bool {
	deadline, ok := ctx.Deadline()
	return ok && !f.RetryAt.IsZero() && f.RetryAt.Sub(now) < time.Until(deadline)
}

// component returns what MySQL knows of a component. Of one whose first token is worked on it knows nothing yet, which
// is waited for.
func (r *responder) component(ctx context.Context, appid string) (repo.Component, *preauth.Error) {
	for announced := false; ; {
		known, err := r.db.Components(ctx, []string{appid})
		component, ok := known[appid]
		switch {
		case ok:
			return component, nil
		case err != nil && !announced:
			return repo.Component{}, r.noDatabase(err)
		case err == nil:
			_, announced = r.tokens.view.token(appid, r.cfg.Now())
		}
		if !announced {
			return repo.Component{}, &preauth.Error{
				Code: preauth.StatusNotFound, Message: "no token event ever named this component",
			}
		}
		if !pause(ctx, anotherLook) {
			return repo.Component{}, &preauth.Error{
				Code: preauth.StatusUnavailable, Message: "the component's first code is being made: try again in a moment",
			}
		}
	}
}

// claim answers with a code of the caller's own.
func (r *responder) claim(req micro.Request) {
	request, err := preauth.ParseClaimRequest(preauth.AppIDFromSubject(r.cfg.Subjects.Claim, req.Subject()), req.Data())
	if err != nil {
		r.refuse(req.Reply(), r.metrics.claims, badRequest(err))
		return
	}
	if request.ClaimID == "" {
		request.ClaimID = rand.Text()
	}
	r.handOver(req.Reply(), r.metrics.claims, func(ctx context.Context) (int, []byte, *preauth.Error) {
		code := 200
		claimed, err := r.db.Claim(ctx, r.claimOf(request))
		for err == nil && claimed.ExpiresAt.Sub(r.cfg.Now()) <= request.MinTTL {
			claimed, err = r.db.Claim(ctx, r.claimOf(request)) // it died while MySQL took its time
		}
		if errors.Is(err, repo.ErrNoSpare) {
			code = 201
			claimed, err = r.claimNew(ctx, request)
		}
		switch e, refused := errors.AsType[*preauth.Error](err); {
		case refused:
			return 0, nil, e
		case errors.Is(err, repo.ErrReference):
			return 0, nil, &preauth.Error{
				Code: preauth.StatusConflict, Message: "this claim_id was used with another reference: choose another claim_id",
			}
		case err != nil:
			return 0, nil, r.noDatabase(err)
		}
		r.keeper.topUp(request.AppID)
		return code, preauth.Claim{
			AppID: claimed.AppID, PreAuthCode: claimed.PreAuthCode, IssuedAt: claimed.IssuedAt, ExpiresAt: claimed.ExpiresAt,
			ExpiresIn: claimed.ExpiresAt.Sub(r.cfg.Now()), ClaimID: claimed.ClaimID, Reference: claimed.Reference,
			ClaimedAt: claimed.ClaimedAt, Links: links(claimed.AppID, claimed.PreAuthCode, request.LinkOptions),
		}.Encode(), nil
	})
}

func (r *responder) claimOf(request preauth.ClaimRequest) repo.ClaimRequest {
	return repo.ClaimRequest{
		AppID: request.AppID, ClaimID: request.ClaimID, Reference: request.Reference, At: r.cfg.Now(),
		MinTTL: request.MinTTL, SpareTTL: r.spareTTL(request.AppID),
	}
}

// visit is the time that a visitor should have at least to open WeChat's page with a code.
const visit = time.Minute

// spareTTL is the life that a spare must have left for whoever does not say: a minute, and less where codes
// live for less than ten.
func (r *responder) spareTTL(appid string) time.Duration {
	current, ok := r.codes.code(appid)
	if !ok {
		return 0
	}
	return min(visit, current.ExpiresAt.Sub(current.IssuedAt)/10)
}

// claimNew makes a code for a claim that found no spare.
func (r *responder) claimNew(ctx context.Context, request preauth.ClaimRequest) (repo.Claim, error) {
	component, e := r.component(ctx, request.AppID)
	if e != nil {
		return repo.Claim{}, e
	}
	if current := component.Current; current != nil {
		if e := beyondLife(request.MinTTL, current); e != nil {
			return repo.Claim{}, e
		}
	}
	if f := component.Failure; f != nil && !retriesWithin(ctx, f, r.cfg.Now()) {
		return repo.Claim{}, because(f)
	}
	minted, err := r.keeper.mintAside(ctx, request.AppID, priorityClaim)
	for errors.Is(err, errUnread) && pause(ctx, anotherLook) {
		minted, err = r.keeper.mintAside(ctx, request.AppID, priorityClaim)
	}
	switch failed, refused := errors.AsType[*mintError](err); {
	case refused:
		return repo.Claim{}, because(&failed.failure)
	case errors.Is(err, errLimit):
		return repo.Claim{}, &preauth.Error{Code: preauth.StatusUnavailable, Message: errLimit.Error(), Class: preauth.ClassThrottled}
	case errors.Is(err, errNoToken):
		return repo.Claim{}, tokenExpired()
	case errors.Is(err, errUnread):
		return repo.Claim{}, &preauth.Error{Code: preauth.StatusUnavailable, Message: errUnread.Error()}
	case err != nil:
		return repo.Claim{}, &preauth.Error{Code: preauth.StatusUnavailable, Message: "WeChat did not answer in time: try again"}
	}
	return r.db.InsertClaim(ctx, r.claimOf(request), repo.NewCode{Code: *minted.Code, Fingerprint: minted.Token.Fingerprint})
}

// resolve answers with the claim that a code was given to.
func (r *responder) resolve(req micro.Request) {
	request, err := preauth.ParseResolveRequest(req.Data())
	if err != nil {
		r.refuse(req.Reply(), r.metrics.resolves, badRequest(err))
		return
	}
	r.handOver(req.Reply(), r.metrics.resolves, func(ctx context.Context) (int, []byte, *preauth.Error) {
		claimed, err := r.db.Resolve(ctx, request.PreAuthCode)
		switch {
		case errors.Is(err, repo.ErrNotClaimed):
			return 0, nil, &preauth.Error{Code: preauth.StatusNotFound, Message: "no claim was given this code, or that is too long ago"}
		case err != nil:
			return 0, nil, r.noDatabase(err)
		}
		return 200, preauth.Resolved{
			AppID: claimed.AppID, ClaimID: claimed.ClaimID, Reference: claimed.Reference,
			ClaimedAt: claimed.ClaimedAt, IssuedAt: claimed.IssuedAt, ExpiresAt: claimed.ExpiresAt,
		}.Encode(), nil
	})
}

// handOver lets a request be answered by a goroutine of its own, if there is room for one more.
func (r *responder) handOver(
	reply string, counter answers, work func(context.Context) (code int, body []byte, e *preauth.Error),
) {
	e := r.begin(func() {
		ctx, cancel := context.WithTimeout(r.lasting, r.cfg.RequestTimeout)
		defer cancel()
		code, body, e := work(ctx)
		<-r.places // before the answer: whoever has it may ask again at once
		if e != nil {
			r.refuse(reply, counter, e)
			return
		}
		r.answer(reply, counter, code, body)
	})
	if e != nil { // said without mu: it waits while the line to NATS is stalled
		r.refuse(reply, counter, e)
	}
}

// begin starts work, which gives its place back, or says why it cannot.
func (r *responder) begin(work func()) *preauth.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return &preauth.Error{Code: preauth.StatusUnavailable, Message: "this replica is stopping: try again"}
	}
	select {
	case r.places <- struct{}{}:
		r.slow.Go(work)
		return nil
	default:
		return &preauth.Error{Code: preauth.StatusTooMany, Message: "too many requests at once: try again in a moment"}
	}
}

func (r *responder) answer(reply string, counter answers, code int, body []byte) {
	counter.count(code)
	r.send(&nats.Msg{Subject: reply, Data: body})
}

func (r *responder) refuse(reply string, counter answers, e *preauth.Error) {
	counter.count(e.Code)
	r.send(&nats.Msg{
		Subject: reply,
		Header:  nats.Header{micro.ErrorCodeHeader: {strconv.Itoa(e.Code)}, micro.ErrorHeader: {e.Message}},
		Data:    e.Encode(),
	})
}

// send answers without the micro.Request, which must not be used after its handler has returned.
func (r *responder) send(msg *nats.Msg) {
	switch {
	case msg.Subject == "": // published, not requested
		return
	case !r.answerable(msg.Subject):
		r.log.Debug("request not answered: its reply subject is not one for answers", "subject", msg.Subject)
		return
	}
	if err := r.nc.PublishMsg(msg); err != nil {
		r.log.Debug("request not answered", "error", err)
	}
}

// answerable reports whether answers may go to a subject. Whoever asks chooses it, and the service publishes
// with rights that they may not have: an answer on preauth.updated.wx1 would be stored as an announcement,
// and one on $JS.API.STREAM.PURGE.PREAUTH be taken for a request.
func (r *responder) answerable(subject string) bool {
	s := r.cfg.Subjects
	for _, own := range []string{s.TokenUpdated, s.Updated, s.Failed, s.Lookup, s.Claim, s.Resolve} {
		if rest, ok := strings.CutPrefix(subject, own); ok && (rest == "" || rest[0] == '.') {
			return false
		}
	}
	return !strings.HasPrefix(subject, "$")
}

func badRequest(err error) *preauth.Error {
	return &preauth.Error{
		Code: preauth.StatusBadRequest, Message: strings.TrimPrefix(err.Error(), preauth.ErrInvalid.Error()+": "),
	}
}

func (r *responder) noDatabase(err error) *preauth.Error {
	r.log.Warn("request not answered from MySQL", "error", err)
	return &preauth.Error{Code: preauth.StatusInternal, Message: "the database does not answer: try again"}
}

// ageWhenGiven is how old a new code may be when it is given out, as long as clients usually wait. Codes that live for
// less than fifty seconds are given out younger.
const ageWhenGiven = 5 * time.Second

// beyondLife returns the error for a min_ttl that a new code need not have any more when it is given out, judged by
// the current one, and otherwise nil. Without the difference each such request would cost calls for codes that are too
// old when they come.
func beyondLife(minTTL time.Duration, current *repo.CurrentCode) *preauth.Error {
	life := current.ExpiresAt.Sub(current.IssuedAt)
	most := (life - min(ageWhenGiven, life/10)).Truncate(time.Second)
	if minTTL <= most {
		return nil
	}
	return &preauth.Error{
		Code: preauth.StatusBadRequest,
		Message: fmt.Sprintf("min_ttl must be at most %d s: a new code lives for %d s, and it takes time to get one",
			most/time.Second, life/time.Second),
	}
}

func tokenExpired() *preauth.Error {
	return &preauth.Error{Code: preauth.StatusUnavailable, Message: errNoToken.Error(), Class: preauth.ClassTokenExpired}
}

// because says that there is no code because of a failure.
func because(f *preauth.Failure) *preauth.Error {
	return &preauth.Error{
		Code: preauth.StatusUnavailable, Message: "there is no valid code now",
		Class: f.Class, ErrCode: f.ErrCode, ErrMsg: f.ErrMsg, RID: f.RID, RequestIP: f.RequestIP, RetryAt: f.RetryAt,
	}
}
