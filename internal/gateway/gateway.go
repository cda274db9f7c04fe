// Package gateway puts HTTP and JSON in front of the contract, for programs that do not speak NATS.
// It is a NATS client and keeps nothing: any number of gateways may run, and each request may go to
// another one.
//
// Who may do what is in a tokens file. Everything that goes wrong is answered with a problem document
// (RFC 9457). The file openapi.json is the API's description, which is also served.
package gateway

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"preauth"
	"preauth/internal/outage"
)

// Options are what a gateway needs.
type Options struct {
	// Client talks to the service over NATS, which stays the caller's. Make it with [TraceParent], so
	// that it passes on the traces of requests.
	Client *preauth.Client
	NATS   *nats.Conn
	// Subjects are those of the client.
	Subjects preauth.Subjects
	// Tokens returns who may do what now. If it is nil, the gateway has no operations, and serves the
	// entry page alone.
	Tokens func() Tokens
	// Rate is how many requests a token may make in a second, and at once.
	Rate int
	// Timeout is how long a request waits for the service.
	Timeout time.Duration
	// Origins are the origins of other sites whose scripts may call the gateway, such as
	// https://app.example.com. Usually there are none.
	Origins []string
	// Registry takes the metrics.
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Gateway is a gateway. Make it with [New].
type Gateway struct {
	options  Options
	mux      *http.ServeMux
	refusals *refusals
	metrics  *metrics
	defects  *outage.Defects

	mu     sync.Mutex
	limits map[string]*rate.Limiter // by the name of the token
}

// New returns a gateway. It adds to the connection's error handler: one that is set later has to call
// [nats.Conn.ErrorHandler]'s.
func New(o Options) *Gateway {
	g := &Gateway{
		options: o, mux: http.NewServeMux(), refusals: newRefusals(o.NATS),
		defects: outage.NewDefects(o.Log, time.Now), limits: map[string]*rate.Limiter{},
	}
	g.metrics = newMetrics(o.Registry, g.Ready)
	if o.Tokens != nil {
		for _, op := range operations {
			g.mux.HandleFunc(op.path, func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, op) })
		}
		g.mux.HandleFunc("/openapi.json", serveDescription)
	}
	for _, nothing := range []string{"/", "/authorize"} { // from which the mux would redirect
		g.mux.HandleFunc(nothing, func(w http.ResponseWriter, _ *http.Request) { g.serveNothing(w) })
	}
	return g
}

// ServeEntry has the gateway serve /authorize/ and what is below with a page, without a token. The
// page is given what every handler here is: headers that forbid caching, the time that a request has,
// and a line in the log without the query.
func (g *Gateway) ServeEntry(page http.Handler) {
	g.mux.HandleFunc(preauth.EntryPath, func(w http.ResponseWriter, r *http.Request) {
		l := loggedOf(r)
		l.operation = opEntry
		if r.Method == http.MethodPost { // so many that nobody would see a failed visit among them
			l.operation = opEntryPoll
		}
		if appid := strings.TrimPrefix(r.URL.Path, preauth.EntryPath); preauth.CheckAppID(appid) == nil {
			l.component = appid
		}
		ctx, cancel := context.WithTimeout(r.Context(), g.options.Timeout)
		defer cancel()
		page.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Claim claims a code for the entry page. It says so if the gateway's NATS user may not.
func (g *Gateway) Claim(ctx context.Context, r preauth.ClaimRequest) (claim preauth.Claim, err error) {
	err = g.ask(ctx, preauth.SubjectFor(g.options.Subjects.Claim, r.AppID), func(ctx context.Context) error {
		claim, err = g.options.Client.Claim(ctx, r)
		return err
	})
	return claim, err
}

// Resolve resolves a code for the entry page, as [Gateway.Claim] claims.
func (g *Gateway) Resolve(ctx context.Context, code preauth.Secret) (found preauth.Resolved, err error) {
	err = g.ask(ctx, g.options.Subjects.Resolve, func(ctx context.Context) error {
		found, err = g.options.Client.Resolve(ctx, code)
		return err
	})
	return found, err
}

// Ready returns an error unless the gateway can reach NATS and hear replies.
func (g *Gateway) Ready() error {
	if !g.options.NATS.IsConnected() {
		return errNotConnected
	}
	return g.refusals.standing()
}

// traceParentKey is the key of the W3C trace context of a request.
type traceParentKey struct{}

// TraceParent returns the W3C trace context of a program's request, from the request's context. A
// visitor of the entry page has none: anybody could have everything traced. It is for
// [preauth.WithTraceParent].
func TraceParent(ctx context.Context) string {
	text, _ := ctx.Value(traceParentKey{}).(string)
	return text
}

// ServeHTTP answers a request and logs it.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	l := &loggedResponse{ResponseWriter: w, operation: opOther}
	ctx := context.WithValue(r.Context(), loggedKey{}, l)
	header := w.Header()
	header.Set("Cache-Control", "no-store") // answers have codes
	header.Set("X-Content-Type-Options", "nosniff")
	switch {
	case g.allowOrigin(header, r):
		l.WriteHeader(http.StatusNoContent)
	case !isPlain(r.URL.EscapedPath()):
		g.serveNothing(l) // the mux would redirect, or take %2F for a part of an appid
	default:
		g.mux.ServeHTTP(l, r.WithContext(ctx))
	}
	g.metrics.count(l.operation, l.status, time.Since(began))
	l.write(g.options.Log, r, time.Since(began))
}

// isPlain reports whether an address has no empty part, no dots for other parts and no escaped slash.
func isPlain(escaped string) bool {
	return escaped == "/" || path.Clean(escaped) == strings.TrimSuffix(escaped, "/") && !strings.Contains(strings.ToUpper(escaped), "%2F")
}

// allowOrigin allows the scripts of another site to read the answer, if the site may. It reports
// whether the request only asked for that.
func (g *Gateway) allowOrigin(header http.Header, r *http.Request) (asked bool) {
	if len(g.options.Origins) == 0 || strings.HasPrefix(r.URL.Path, preauth.EntryPath) { // a page is for visitors
		return false
	}
	header.Set("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(g.options.Origins, origin) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Expose-Headers", "Retry-After")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	header.Set("Access-Control-Allow-Methods", "GET, POST")
	header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, Traceparent")
	header.Set("Access-Control-Max-Age", "600")
	return true
}

//go:embed openapi.json
var description []byte

func serveDescription(w http.ResponseWriter, r *http.Request) {
	loggedOf(r).operation = opDescription
	if r.Method != http.MethodGet {
		serveMethod(w, http.MethodGet)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(description)
}

func (g *Gateway) serveNothing(w http.ResponseWriter) {
	what := "/openapi.json lists the operations"
	if g.options.Tokens == nil {
		what = "this gateway has no tokens file, and serves the entry page alone"
	}
	problemf(noAddress, "there is nothing at this address: %s", what).write(w)
}

func serveMethod(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	problemf(methodNotAllowed, "use %s", allowed).write(w)
}

// serve answers a request at the address of an operation.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, op operation) {
	loggedOf(r).operation = op.name
	if r.Method != op.method {
		serveMethod(w, op.method)
		return
	}
	answer, err := g.answer(w, r, op)
	switch {
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil: // nobody waits for the answer
	case err != nil:
		p := problemOf(err, op.role, g.options.Timeout)
		switch p.kind {
		case unauthorized:
			challenge := "Bearer"
			if r.Header.Get("Authorization") != "" {
				challenge += ` error="invalid_token"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
		case forbidden:
			w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		case notPermitted, badAnswer:
			g.defects.Log(r.Context(), slog.LevelWarn, op.name+" failed", err)
		}
		p.write(w)
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer) //nolint:gosec // no browser takes JSON for a page
	}
}

// answer returns the body that answers a request, nil if there is none.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, op operation) ([]byte, error) {
	grant, err := g.authenticate(r)
	if err != nil {
		return nil, err
	}
	loggedOf(r).token = grant.name
	asked := &request{grant: grant, appid: r.PathValue("appid"), header: r.Header}
	if preauth.CheckAppID(asked.appid) == nil {
		loggedOf(r).component = asked.appid
	}
	if !grant.may(op.name) {
		return nil, problemf(forbidden, "this token may not do this: its line in the gateway's tokens file does not have the operation %s", op.name)
	}
	if asked.appid != "" && !grant.mayFor(asked.appid) {
		return nil, problemf(forbidden, "this token is not for this component: its line in the gateway's tokens file does not have it")
	}
	if wait := g.limit(grant.name); wait > 0 {
		p := problemf(tooFast, "this token may make %d requests in a second", g.options.Rate)
		p.retryAfter = wait
		return nil, p
	}
	if asked.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, problemf(badRequest, "the query is malformed: escape what is in it")
	}
	if op.method == http.MethodPost {
		if asked.body, err = readBody(w, r); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.options.Timeout)
	defer cancel()
	ctx = context.WithValue(ctx, traceParentKey{}, preauth.TraceParent(nats.Header(r.Header)))
	return op.do(g, ctx, asked)
}

// authenticate returns what the bearer of the request's token may do.
func (g *Gateway) authenticate(r *http.Request) (*grant, error) {
	const how = "send the header Authorization: Bearer TOKEN, with a token that preauth gateway token made"
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return nil, problemf(unauthorized, "%s", how)
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, problemf(unauthorized, "%s", how)
	}
	found := g.options.Tokens().find(strings.TrimSpace(token))
	if found == nil {
		return nil, problemf(unauthorized, "the gateway does not know this token: %s", how)
	}
	return found, nil
}

// limit counts a request of a token, and returns how long that has to wait, 0 if it need not.
func (g *Gateway) limit(token string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	limiter := g.limits[token]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(g.options.Rate), g.options.Rate)
		g.limits[token] = limiter
	}
	reservation := limiter.Reserve()
	wait := reservation.Delay()
	if wait > 0 {
		reservation.Cancel()
	}
	return wait
}

// readBody reads a body, which must be JSON unless it is empty.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	large := problemf(tooLarge, "the body has more than %d bytes", preauth.MaxBody)
	if r.ContentLength > preauth.MaxBody {
		return nil, large
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" {
		return nil, problemf(unsupportedMedia, "send the body as it is, without a Content-Encoding")
	}
	if typed := r.Header.Values("Content-Type"); len(typed) > 0 || r.ContentLength != 0 {
		media, parameters, err := mime.ParseMediaType(strings.Join(typed, ","))
		charset := parameters["charset"]
		if err != nil || media != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
			return nil, problemf(unsupportedMedia, "send JSON in UTF-8, with the header Content-Type: application/json")
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, preauth.MaxBody))
	if err == nil {
		return body, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, large
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, problemf(slowBody, "the body did not arrive within %v", readTime)
	}
	return nil, problemf(badRequest, "the body ends before its end")
}

const (
	// readTime is how long a request may take to arrive.
	readTime = 10 * time.Second
	// writeTime is how long an answer may take to leave.
	writeTime = 10 * time.Second
	// idleTime is how long a connection may wait for its next request.
	idleTime = 2 * time.Minute
)

// Serve answers on the listener until ctx ends, and then finishes what is in flight. certificate
// returns the certificate for TLS; nil serves plain HTTP.
func (g *Gateway) Serve(ctx context.Context, listener net.Listener, certificate func() *tls.Certificate) error {
	server := &http.Server{
		Handler: g, ReadHeaderTimeout: readTime, ReadTimeout: readTime, WriteTimeout: readTime + g.options.Timeout + writeTime,
		IdleTimeout: idleTime, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(g.options.Log.Handler(), slog.LevelDebug),
	}
	serve := server.Serve
	if certificate != nil {
		server.TLSConfig = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(), nil },
		}
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving HTTP: %w", err)
	case <-ctx.Done():
	}
	// No request takes longer.
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), server.WriteTimeout)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		g.options.Log.Warn("requests not finished", "error", err)
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP: %w", err)
	}
	return nil
}

// The operations that are no operations of the API.
const (
	opDescription = "openapi"
	opEntry       = "entry"
	opEntryPoll   = "entry_poll" // an open page asks whether somebody has authorized
	opOther       = "other"
)

// loggedResponse writes the answer to a request, and then its line in the log. The line has no
// header, no query and no part of an address but the component: any of them may have a secret.
type loggedResponse struct {
	http.ResponseWriter

	operation, token, component string
	status                      int
}

// loggedKey is the key of a request's loggedResponse in its context.
type loggedKey struct{}

func loggedOf(r *http.Request) *loggedResponse {
	l, _ := r.Context().Value(loggedKey{}).(*loggedResponse)
	return l
}

// WriteHeader notes the status.
func (l *loggedResponse) WriteHeader(status int) {
	if l.status == 0 {
		l.status = status
	}
	l.ResponseWriter.WriteHeader(status)
}

// Write notes the status if nobody has set one.
func (l *loggedResponse) Write(body []byte) (int, error) {
	if l.status == 0 {
		l.status = http.StatusOK
	}
	return l.ResponseWriter.Write(body)
}

// Unwrap is for [http.ResponseController].
func (l *loggedResponse) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func (l *loggedResponse) write(log *slog.Logger, r *http.Request, took time.Duration) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	attrs := []slog.Attr{
		slog.String("operation", l.operation), slog.Int("status", l.status), slog.Duration("took", took.Round(time.Microsecond)), slog.String("from", host),
	}
	if l.token != "" {
		attrs = append(attrs, slog.String("token", l.token))
	}
	if l.component != "" {
		attrs = append(attrs, slog.String("component", l.component))
	}
	log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// metrics are what Prometheus is told of requests. No label has a value that comes from outside.
type metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer, ready func() error) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "preauth", Subsystem: "gateway", Name: "requests_total",
			Help: "Requests over HTTP answered, by operation and status; 0 if the client left.",
		}, []string{"operation", "status"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "preauth", Subsystem: "gateway", Name: "request_duration_seconds", Help: "Time of a request over HTTP, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"operation"}),
	}
	registry.MustRegister(m.requests, m.durations, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "preauth", Subsystem: "gateway", Name: "ready", Help: "1 if the gateway can reach NATS and hear replies.",
	}, func() float64 { return oneIf(ready() == nil) }))
	// Every value of a label exists from the start: an alert on an increase does not see a counter that
	// is born at 1.
	for _, operation := range append(Operations(), opDescription, opEntry, opEntryPoll, opOther) {
		m.durations.WithLabelValues(operation)
		m.requests.WithLabelValues(operation, "200")
		m.requests.WithLabelValues(operation, "204")
		for _, k := range kinds {
			m.requests.WithLabelValues(operation, strconv.Itoa(k.status))
		}
	}
	for _, operation := range []string{opEntry, opEntryPoll} {
		m.requests.WithLabelValues(operation, strconv.Itoa(http.StatusGone)) // a link that expired
	}
	return m
}

// oneIf returns 1 for true and 0 for false.
func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) count(operation string, status int, took time.Duration) {
	m.requests.WithLabelValues(operation, strconv.Itoa(status)).Inc()
	m.durations.WithLabelValues(operation).Observe(took.Seconds())
}
