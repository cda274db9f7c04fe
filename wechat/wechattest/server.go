// Package wechattest provides a stand-in for WeChat's api_create_preauthcode. It is an HTTP server
// that issues codes, checks tokens and counts quotas as WeChat does, tells what is left of a quota,
// answers with WeChat's errors, and fails on demand in the ways in which WeChat and the network in
// front of it fail. It also has the pages on which codes are used.
//
// The tests of preauth and its sandbox use it, and you can use it for tests of programs that work
// with preauth. Start a [Server], point a client at [Server.URL], tell the server with
// [Server.SetToken] which tokens are valid, script faults with [Server.Next] and [Server.Every],
// and see with [Server.Calls] what arrived. No test needs to sleep: [Server.Wait] waits for the
// n-th call, a [Hold] stops a call at a chosen point until the test releases it, and [Options].Now
// is the clock.
//
// [Server.Register] makes a platform known, which then gets tokens at api_component_token with the
// tickets that [Server.PushTicket] pushes. [Server.Authorize] plays the visitor who authorizes with a
// code, which leads to a push as well.
//
// What WeChat does not document, such as the size of its quotas, is an option.
package wechattest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"preauth"
)

// Options configure a [Server]. The zero Options have WeChat's values and a free port of the
// loopback interface.
type Options struct {
	// Listen is the TCP address to listen on. Default: 127.0.0.1:0.
	Listen string
	// Path is the path of the call that creates a code. Default:
	// /cgi-bin/component/api_create_preauthcode.
	Path string
	// AnyToken accepts tokens that were never passed to SetToken, for any component, if a
	// [preauth.TokenEvent] may have them.
	AnyToken bool
	// TokenLife is the life of a token after SetToken. Default: 7,200 s.
	TokenLife time.Duration
	// Overlap is how long a token stays valid after SetToken was called with the next one. A
	// negative Overlap ends it at once. Default: 5 minutes.
	Overlap time.Duration
	// CodeLife is the life of a code, cut to whole seconds. Default: 1,800 s.
	CodeLife time.Duration
	// CodeLength is the length of a code in characters: 78 or 100, as WeChat's codes have. Default:
	// 100.
	CodeLength int
	// DailyQuota is the number of codes that a component gets in a day that begins at midnight
	// UTC+8. Further calls get errcode 45009. [Server.SetDailyQuota] sets that of one component.
	// Default: no limit.
	DailyQuota int
	// QuotaLag is how many of the day's codes WeChat has not counted yet at most when it is asked what
	// is left of the quota. Default: none.
	QuotaLag int
	// MinuteLimit is the number of codes that a component gets in a minute of the clock. Further
	// calls get errcode 45011. Default: no limit.
	MinuteLimit int
	// KeepCalls is how many calls [Server.Calls] remembers at least. Default: 65,536.
	KeepCalls int
	// Now is the clock for everything except delays. Default: time.Now.
	Now func() time.Time
}

// Server is a running stand-in for WeChat. It is safe for concurrent use.
type Server struct {
	options Options
	url     string
	http    *http.Server
	closing chan struct{}
	running sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	tokens     map[string]*token
	components map[string]*component
	queues     map[string][]Fault
	every      func(Call) Fault
	allowed    []netip.Prefix
	calls      []Call
	count      map[string]int
	questions  questions
	visits     []Visit
	platforms  map[string]*platform
	tokenFault Fault
	changed    chan struct{} // closed at the next call; nil if nobody waits

	authorizations authorizations
}

// token is what WeChat knows about a token that it issued.
type token struct {
	appid   string
	expires time.Time
	// superseded is when the next token ends this one. It is zero for the newest token.
	superseded time.Time
}

// component is what WeChat knows about a component.
type component struct {
	arrived         int
	newest          *token
	day, minute     time.Time
	ofDay, ofMinute int
	dailyQuota      int
}

// Start starts a server. Call [Server.Close] to stop it.
func Start(options Options) (*Server, error) {
	setDefault(&options.Listen, "127.0.0.1:0")
	setDefault(&options.Path, "/cgi-bin/component/api_create_preauthcode")
	setDefault(&options.TokenLife, 7200*time.Second)
	setDefault(&options.Overlap, 5*time.Minute)
	setDefault(&options.CodeLife, 1800*time.Second)
	setDefault(&options.CodeLength, 100)
	setDefault(&options.KeepCalls, 1<<16)
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.CodeLength != 78 && options.CodeLength != 100 {
		return nil, fmt.Errorf("wechattest: CodeLength is %d: WeChat's codes have 78 or 100 characters", options.CodeLength)
	}
	listener, err := net.Listen("tcp", options.Listen)
	if err != nil {
		return nil, fmt.Errorf("wechattest: %w", err)
	}
	s := &Server{
		options:    options,
		url:        "http://" + listener.Addr().String(),
		closing:    make(chan struct{}),
		tokens:     make(map[string]*token),
		components: make(map[string]*component),
		queues:     make(map[string][]Fault),
		count:      make(map[string]int),
		questions:  questions{count: make(map[string]int)},
		platforms:  make(map[string]*platform),
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // tests have clients that hang up
	}
	s.running.Go(func() { _ = s.http.Serve(listener) })
	return s, nil
}

func setDefault[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}

// Close aborts all calls, including held ones, closes all connections and waits for the server's
// goroutines to end.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	_ = s.http.Close()
	s.running.Wait()
}

// URL returns the base URL without a path. It takes the place of https://api.weixin.qq.com.
func (s *Server) URL() string { return s.url }

// SetToken issues a token to a component. The component's previous token stays valid for
// [Options].Overlap. Repeating the newest token renews its life.
func (s *Server) SetToken(appid string, text preauth.Secret) {
	now := s.options.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.component(appid)
	if known := s.tokens[text.Reveal()]; known != nil && known == c.newest {
		known.expires = now.Add(s.options.TokenLife)
		return
	}
	if c.newest != nil {
		c.newest.superseded = now.Add(max(s.options.Overlap, 0))
	}
	c.newest = &token{appid: appid, expires: now.Add(s.options.TokenLife)}
	s.tokens[text.Reveal()] = c.newest
}

// AllowAddresses sets the allow-list: callers from other networks get errcode 61004 with their
// address. Without arguments it allows all callers, as at the start.
func (s *Server) AllowAddresses(networks ...netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = networks
}

// Next queues faults for the next calls of a component, or of any component if appid is empty. Each
// call takes one fault: the oldest in the component's queue, or else the oldest in the queue for
// any component. The zero [Fault] leaves a call alone.
func (s *Server) Next(appid string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queues[appid] = append(s.queues[appid], faults...)
}

// Every makes decide choose the fault of each call for which Next has queued none. The [Call] has
// the fields that are known when a call arrives: N, Time, AppID, Token, Parameter, Remote and
// UserAgent. decide is called concurrently and must not call the server's methods. Every(nil) ends
// this.
func (s *Server) Every(decide func(Call) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.every = decide
}

// Call is a call that the server received.
type Call struct {
	// N numbers the component's calls in the order of arrival, from 1.
	N int
	// Time is when the call arrived.
	Time time.Time
	// AppID is the component_appid in the body, "" if the body has none.
	AppID string
	// Token is the token in the query.
	Token preauth.Secret
	// Parameter is the query parameter that had the token: component_access_token or access_token,
	// "" if neither did.
	Parameter string
	// Remote is the caller's address.
	Remote netip.Addr
	// UserAgent is the caller's User-Agent header.
	UserAgent string
	// Status is the HTTP status of the answer, 0 if the connection was reset instead.
	Status int
	// ErrCode is the errcode of the answer, 0 for a success.
	ErrCode int
	// Code is the code that was issued, even if the answer got lost. It is zero if none was issued.
	Code preauth.Secret
}

// Calls returns the decided calls of a component, or of all components if appid is empty, in the
// order in which they were decided. The server decides a call right before it answers. So a client
// that has an answer finds its call here, and a call that is held on arrival is not here yet.
func (s *Server) Calls(appid string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	if appid == "" {
		return slices.Clone(s.calls)
	}
	var calls []Call
	for _, call := range s.calls {
		if call.AppID == appid {
			calls = append(calls, call)
		}
	}
	return calls
}

// Count returns the number of decided calls of a component, or of all components if appid is empty.
// It includes calls that Calls no longer remembers.
func (s *Server) Count(appid string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[appid]
}

// Issued returns the codes in [Server.Calls], in order.
func (s *Server) Issued(appid string) []preauth.Secret {
	var codes []preauth.Secret
	for _, call := range s.Calls(appid) {
		if !call.Code.IsZero() {
			codes = append(codes, call.Code)
		}
	}
	return codes
}

// Wait waits until n calls of a component, or of all components if appid is empty, are decided. If
// ctx ends or the server is closed first, the error says how many there were.
func (s *Server) Wait(ctx context.Context, appid string, n int) error {
	for {
		s.mu.Lock()
		have := s.count[appid]
		if have >= n {
			s.mu.Unlock()
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-s.closing:
			return fmt.Errorf("wechattest: %d of %d calls when the server was closed", have, n)
		case <-ctx.Done():
			return fmt.Errorf("wechattest: %d of %d calls: %w", have, n, ctx.Err())
		}
	}
}

// record adds a decided call.
func (s *Server) record(call Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) >= 2*s.options.KeepCalls {
		s.calls = slices.Clone(s.calls[len(s.calls)-s.options.KeepCalls:])
	}
	s.calls = append(s.calls, call)
	s.count[""]++
	if call.AppID != "" {
		s.count[call.AppID]++
	}
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// component returns a component, which it creates if needed. The caller holds mu.
func (s *Server) component(appid string) *component {
	c := s.components[appid]
	if c == nil {
		c = &component{dailyQuota: s.options.DailyQuota}
		s.components[appid] = c
	}
	return c
}

// enter registers a running call. It returns false if the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

// serve handles a call from its arrival to the last byte of its answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.running.Done()
	switch r.URL.Path {
	case s.options.Path:
		s.serveCode(w, r)
	case quotaPath:
		s.serveQuota(w, r)
	case componentTokenPath:
		s.serveToken(w, r)
	case pcPage:
		s.servePage(w, r, nil)
	case mobilePage:
		s.servePage(w, r, url.Values{"action": {"bindcomponent"}, "no_scan": {"1"}})
	default:
		http.NotFound(w, r)
	}
}

// bodyOf reads the body of a request.
func bodyOf(w http.ResponseWriter, r *http.Request) []byte {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return body
}

// serveCode handles a call for a code.
func (s *Server) serveCode(w http.ResponseWriter, r *http.Request) {
	body := bodyOf(w, r)
	call, fault := s.arrive(r, body)
	s.pause(fault.Delay)
	s.park(fault.Hold)
	if fault.Reset == ResetBefore {
		s.record(call)
		reset(w)
		return
	}
	answer := decide(&call, fault,
		func() int { return s.check(call, r.Method, body) },
		func() []byte { return s.issue(&call, fault) })
	if fault.Reset == ResetAfter {
		call.Status = 0
	}
	s.record(call)
	s.park(fault.HoldAnswer)
	if fault.Reset == ResetAfter {
		reset(w)
		return
	}
	s.send(w, fault, call.Status, answer)
}

// callerOf returns what a request says of its caller.
func (s *Server) callerOf(r *http.Request) Call {
	call := Call{Time: s.options.Now(), UserAgent: r.UserAgent()}
	query := r.URL.Query()
	for _, name := range []string{"component_access_token", "access_token"} {
		if value := query.Get(name); value != "" {
			call.Parameter, call.Token = name, preauth.NewSecret(value)
			break
		}
	}
	if remote, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		call.Remote = remote.Addr().Unmap()
	}
	return call
}

// arrive returns what is known about a call on arrival, and its fault.
func (s *Server) arrive(r *http.Request, body []byte) (Call, Fault) {
	call := s.callerOf(r)
	call.AppID, _ = readAppID(body)

	s.mu.Lock()
	c := s.component(call.AppID)
	c.arrived++
	call.N = c.arrived
	for _, appid := range []string{call.AppID, ""} {
		if queue := s.queues[appid]; len(queue) > 0 {
			s.queues[appid] = queue[1:]
			s.mu.Unlock()
			return call, queue[0]
		}
	}
	every := s.every
	s.mu.Unlock()
	if every == nil {
		return call, Fault{}
	}
	return call, every(call)
}

func readAppID(body []byte) (string, error) {
	var request struct {
		AppID string `json:"component_appid"`
	}
	err := json.Unmarshal(body, &request)
	return request.AppID, err
}

// decide sets the outcome of the call and returns the body of the answer. check returns the errcode
// with which WeChat refuses the call, and succeed the body of a success.
func decide(call *Call, fault Fault, check func() int, succeed func() []byte) []byte {
	if fault.ErrCode == 0 && (fault.Status != 0 || fault.Body != "") {
		call.Status = fault.Status
		setDefault(&call.Status, http.StatusOK)
		if fault.Body == "" {
			return []byte(http.StatusText(call.Status))
		}
		return []byte(fault.Body)
	}
	call.ErrCode = fault.ErrCode
	if call.ErrCode == 0 {
		call.ErrCode = check()
	}
	call.Status = http.StatusOK
	if call.ErrCode != 0 {
		setDefault(&fault.ErrMsg, message(call.ErrCode, call.Remote))
		if fault.Status != 0 {
			call.Status = fault.Status
		}
		return encode(struct {
			ErrCode int    `json:"errcode"`
			ErrMsg  string `json:"errmsg"`
		}{call.ErrCode, fault.ErrMsg + " rid: " + newRID(call.Time)})
	}
	return succeed()
}

// issue issues a code for the call and returns the body of the answer.
func (s *Server) issue(call *Call, fault Fault) []byte {
	code := newCode(s.options.CodeLength)
	call.Code = preauth.NewSecret(code)
	life := int(s.options.CodeLife / time.Second)
	if fault.Reply == nil {
		return encode(struct {
			PreAuthCode string `json:"pre_auth_code"`
			ExpiresIn   int    `json:"expires_in"`
		}{code, life})
	}
	members := map[string]any{"pre_auth_code": code, "expires_in": life}
	for name, value := range fault.Reply {
		if value == nil {
			delete(members, name)
		} else {
			members[name] = value
		}
	}
	return encode(members)
}

// check returns the errcode with which WeChat refuses a call, and 0 if the call gets a code.
func (s *Server) check(call Call, method string, body []byte) int {
	now := s.options.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if errCode := s.checkCaller(call, method, body, now); errCode != 0 {
		return errCode
	}
	known := s.tokens[call.Token.Reveal()]
	switch appid, err := readAppID(body); {
	case err != nil:
		return 47001
	case appid == "":
		return 41002
	case known != nil && known.appid != appid:
		return 40013
	}
	return s.component(call.AppID).use(now, s.options.MinuteLimit)
}

// checkCaller returns the errcode with which WeChat refuses a call whatever it asks for, and 0 if it
// does not. The caller holds mu.
func (s *Server) checkCaller(call Call, method string, body []byte, now time.Time) int {
	if method != http.MethodPost {
		return 43002
	}
	if call.Token.IsZero() {
		return 41001
	}
	known := s.tokens[call.Token.Reveal()]
	switch {
	case known == nil && !(s.options.AnyToken && wellFormed(call.Token)):
		return 40001
	case known != nil && !now.Before(known.expires):
		return 42001
	case known != nil && !known.superseded.IsZero() && !now.Before(known.superseded):
		return 40001
	}
	if !s.allows(call.Remote) {
		return 61004
	}
	if len(body) == 0 {
		return 44002
	}
	return 0
}

// allows reports whether a caller may call from its address. The caller of allows holds mu.
func (s *Server) allows(remote netip.Addr) bool {
	return len(s.allowed) == 0 || slices.ContainsFunc(s.allowed, func(p netip.Prefix) bool { return p.Contains(remote) })
}

// china is where WeChat's day begins.
var china = time.FixedZone("UTC+8", 8*60*60)

// use counts one code against the quotas. If one is used up, it returns the errcode of that quota.
func (c *component) use(now time.Time, minuteLimit int) int {
	c.advance(now)
	switch {
	case c.dailyQuota > 0 && c.ofDay >= c.dailyQuota:
		return 45009
	case minuteLimit > 0 && c.ofMinute >= minuteLimit:
		return 45011
	}
	c.ofDay++
	c.ofMinute++
	return 0
}

// advance begins to count anew if another day or minute has begun.
func (c *component) advance(now time.Time) {
	now = now.In(china)
	year, month, day := now.Date()
	if today := time.Date(year, month, day, 0, 0, 0, 0, china); !today.Equal(c.day) {
		c.day, c.ofDay = today, 0
	}
	if minute := now.Truncate(time.Minute); !minute.Equal(c.minute) {
		c.minute, c.ofMinute = minute, 0
	}
}

// wellFormed reports whether the contract of preauth allows a token.
func wellFormed(token preauth.Secret) bool {
	return preauth.TokenEvent{AppID: "wx", Token: token}.Check() == nil
}

// send writes the answer.
func (s *Server) send(w http.ResponseWriter, fault Fault, status int, body []byte) {
	header := w.Header()
	header.Set("Content-Type", "application/json; encoding=utf-8") // WeChat's own wording
	maps.Copy(header, fault.Header)
	if status != http.StatusNoContent && status != http.StatusNotModified {
		header.Set("Content-Length", fmt.Sprint(len(body)))
	}
	w.WriteHeader(status)
	half := len(body) / 2
	if fault.CutBody || fault.HoldBody != nil {
		_, _ = w.Write(body[:half])
		_ = http.NewResponseController(w).Flush()
		body = body[half:]
	}
	s.park(fault.HoldBody)
	if fault.CutBody {
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(body)
}

// pause waits for a fault's delay. It aborts the call if the server is closed.
func (s *Server) pause(delay time.Duration) {
	if delay <= 0 {
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.closing:
		panic(http.ErrAbortHandler)
	}
}

// park waits at a fault's hold. It aborts the call if the server is closed.
func (s *Server) park(hold *Hold) {
	if hold == nil {
		return
	}
	hold.arrive()
	select {
	case <-hold.released:
	case <-s.closing:
		panic(http.ErrAbortHandler)
	}
}

// reset ends the connection with a TCP reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var tcp *net.TCPConn
	if tcp, _ = conn.(*net.TCPConn); tcp == nil {
		panic(errors.New("wechattest: not a TCP connection"))
	}
	_ = tcp.SetLinger(0)
	_ = tcp.Close()
}
