// Package page serves a page for people: how the components and the replicas fare, what fails and
// what to do about it, and what is announced as it happens. The page only shows. Nobody has to log
// in to see it, so it has no token, no code, no claim, and no account that authorized.
//
// It is plain HTML that works by itself. Where the browser runs its script, an open page hears of
// changes as server-sent events, fetches itself again and takes over what differs.
package page

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// Source is where the page gets what it shows. It is asked only while somebody looks.
type Source struct {
	// Summary counts all components.
	Summary func(context.Context) (preauth.Summary, error)
	// Statuses returns at most limit of the components that a request without an AppID matches, sorted
	// by AppID.
	Statuses func(ctx context.Context, request preauth.StatusRequest, limit int) ([]preauth.Status, error)
	// Status returns false if no valid token event ever named the component.
	Status func(ctx context.Context, appid string) (preauth.Status, bool, error)
	// Replica says how this replica fares. Its ID is "" until it has one.
	Replica func() preauth.Replica
	// Subjects are those of the service.
	Subjects preauth.Subjects
}

// Page is the page. Make it with [New], and [Page.Close] it in the end.
type Page struct {
	source   Source
	log      *slog.Logger
	loopback bool // only this machine reaches the page

	reads    *reads
	replicas *replicas
	events   *events
	viewers  chan struct{} // holds an item for each page that is open
}

// New returns a page that is served on the given address. It hears on the connection, which stays the
// caller's, what is announced from now on. What it may not hear, it says. New adds to the
// connection's error handler: one that is set later has to call [nats.Conn.ErrorHandler]'s.
func New(source Source, nc *nats.Conn, served net.Addr, log *slog.Logger) (*Page, error) {
	client, err := preauth.NewClient(nc, preauth.WithSubjects(source.Subjects))
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	events, err := newEvents(nc, source.Subjects)
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	address, ok := served.(*net.TCPAddr)
	return &Page{
		source: source, log: log, loopback: ok && address.IP.IsLoopback(),
		reads: newReads(), replicas: newReplicas(nc, client), events: events, viewers: make(chan struct{}, maxViewers),
	}, nil
}

// Close stops hearing what is announced, and waits for what goes on in the background.
func (p *Page) Close() {
	p.events.close()
	p.replicas.close()
}

//go:embed page.css page.js icon.svg
var files embed.FS

// Handler serves the page at /, what it is made of, and a page for each component.
func (p *Page) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.serveOverview)
	mux.HandleFunc("GET /components/{appid}", p.serveComponent)
	mux.HandleFunc("GET /events", p.serveEvents)
	for _, file := range []string{"page.css", "page.js", "icon.svg"} {
		mux.HandleFunc("GET /"+file, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, file) })
	}
	return p.guarded(mux)
}

// policy lets the page use its own files, ask its own address, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// guarded sets what protects the page in a browser. On a loopback address it answers only those who
// name this machine by its address or as localhost. Otherwise a site could have its own name point
// here (DNS rebinding), and read the page in the browser of somebody who visits it.
func (p *Page) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if p.loopback && !isLocal(r.Host) {
			http.Error(w, "This page is for its own machine only. Open it as localhost, or by the IP address, with the same port.",
				http.StatusMisdirectedRequest)
			return
		}
		// The server's time limit for reading would end the request's context, also while MySQL is asked.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		next.ServeHTTP(w, r)
	})
}

// isLocal reports whether a Host is an IP address or localhost, which no site can have as its name.
// Browsers always send one.
func isLocal(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost")
}

func (p *Page) serveOverview(w http.ResponseWriter, r *http.Request) {
	form := r.URL.Query()
	request := preauth.StatusRequest{State: preauth.State(form.Get("state")), Prefix: form.Get("prefix"), After: form.Get("after")}
	// Who asks over NATS may ask the same, and is told the same if it makes no sense.
	if _, err := preauth.ParseStatusRequest("", request.Encode()); err != nil {
		said := strings.TrimPrefix(err.Error(), preauth.ErrInvalid.Error()+": ")
		p.write(w, r, http.StatusBadRequest, "refusal", func(f *frame) { f.Title, f.Refusal = f.text("refused"), said })
		return
	}
	p.write(w, r, http.StatusOK, "overview", func(f *frame) { p.overview(r.Context(), f, request) })
}

func (p *Page) serveComponent(w http.ResponseWriter, r *http.Request) {
	appid := r.PathValue("appid")
	var (
		found component
		at    time.Time
		err   error
	)
	if preauth.CheckAppID(appid) == nil {
		found, at, err = read(r.Context(), p.reads, "component "+appid, func(ctx context.Context) (component, error) {
			status, known, err := p.source.Status(ctx, appid)
			return component{status, known}, err
		})
	}
	if err == nil && !found.known {
		p.write(w, r, http.StatusNotFound, "refusal", func(f *frame) { f.Title, f.Refusal = f.text("unknown"), f.text("unknown.said") })
		return
	}
	p.write(w, r, http.StatusOK, "component", func(f *frame) {
		f.Title, f.AsOf, f.Away = appid, at, err
		f.Replica = p.source.Replica()
		f.AppID, f.Component = appid, found
		f.Events, f.Unheard = p.events.latest(appid)
	})
}

// component is what was read of a component.
type component struct {
	preauth.Status
	known bool
}

// write writes a page in the language of the request.
func (p *Page) write(w http.ResponseWriter, r *http.Request, status int, template string, fill func(*frame)) {
	f := newFrame(r, time.Now())
	fill(f)
	var body bytes.Buffer
	if err := f.templates.ExecuteTemplate(&body, template, f); err != nil {
		p.log.Error("page not written", "error", err)
		http.Error(w, "the page cannot be written: the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Language", f.Lang)
	w.Header().Set("Vary", "Accept-Language")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // who asked may be gone
}

const (
	// maxViewers bounds the pages that hear of changes at the same time. Others hear of none, and ask
	// from time to time.
	maxViewers = 100
	// lookEvery is how often it is looked for changes for those who hear of them.
	lookEvery = time.Second
	// renewEvery is after how long a page that heard of no change fetches itself again: not all that it
	// shows counts as a change.
	renewEvery = 10 * time.Second
)

// serveEvents tells an open page whenever it should fetch itself again.
func (p *Page) serveEvents(w http.ResponseWriter, r *http.Request) {
	select {
	case p.viewers <- struct{}{}:
		defer func() { <-p.viewers }()
	default:
		w.Header().Set("Retry-After", "60")
		http.Error(w, "too many pages are open at once", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var told string
	for at := time.Now(); ; {
		if now := p.news(r.Context()); now != told || time.Since(at) >= renewEvery {
			_ = control.SetWriteDeadline(time.Now().Add(renewEvery))
			if _, err := fmt.Fprint(w, "event: change\ndata: 1\n\n"); err != nil {
				return
			}
			if err := control.Flush(); err != nil {
				return
			}
			told, at = now, time.Now()
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// news returns a text that differs whenever something has changed that people wait for.
func (p *Page) news(ctx context.Context) string {
	summary, _, away := p.summary(ctx)
	replica := p.source.Replica()
	others, unknown := p.replicas.latest()
	seen := []any{summary, away != nil, p.events.count(), replica.Reasons, unknown}
	for _, other := range others {
		seen = append(seen, other.ID, other.Reasons)
	}
	return fmt.Sprint(seen...)
}

func (p *Page) summary(ctx context.Context) (preauth.Summary, time.Time, error) {
	return read(ctx, p.reads, "summary", p.source.Summary)
}
