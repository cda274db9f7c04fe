package consumer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"preauth"
	"preauth/consumer"
	"preauth/internal/database"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/repo"
	"preauth/repo/repotest"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// mysql is the database server that all tests of the package share. Each test has its own database.
var mysql *mysqlserver.Server

func TestMain(m *testing.M) {
	if os.Getenv(envCrash) != "" {
		crashingReplica()
	}
	// The tests mostly wait, so many can run in parallel.
	err := flag.Set("test.parallel", "16")
	if err == nil {
		mysql, err = mysqlserver.Start(context.Background(), mysqlserver.TestOptions())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if err := mysql.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	if status == 0 {
		if err := leak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// patience is how long a test waits for an event before it fails: long enough for a slow machine.
const patience = 2 * time.Minute

// world is the service's environment: a real NATS, a real database, and a simulated WeChat.
type world struct {
	t        *testing.T
	nats     *natsserver.Server
	url      string // of NATS
	store    string // of NATS
	dsn      string
	database *sqlx.DB // for a test's own queries
	wechat   *wechattest.Server

	nc *nats.Conn
	js jetstream.JetStream

	log    lockedBuffer
	tokens []preauth.Secret
}

var databases atomic.Int64

func newWorld(t *testing.T, options wechattest.Options) *world {
	t.Helper()
	return newWorldOn(t, mysql, options)
}

func newWorldOn(t *testing.T, mysql *mysqlserver.Server, options wechattest.Options) *world {
	t.Helper()
	t.Parallel() // worlds are independent
	return newWorldAlone(t, mysql, options)
}

// newWorldAlone is newWorldOn for a test that must not run in parallel with others, because it
// measures the whole process.
func newWorldAlone(t *testing.T, mysql *mysqlserver.Server, options wechattest.Options) *world {
	t.Helper()
	return newWorldWith(t, mysql, natsserver.Options{}, options)
}

// newWorldConfigured has a nats-server with a configuration of its own.
func newWorldConfigured(t *testing.T, config string) *world {
	t.Helper()
	t.Parallel()
	return newWorldWith(t, mysql, natsserver.Options{Config: config}, wechattest.Options{})
}

func newWorldWith(t *testing.T, mysql *mysqlserver.Server, nats natsserver.Options, options wechattest.Options) *world {
	t.Helper()
	w := &world{t: t, store: t.TempDir()}
	nats.StoreDir = w.store
	server, err := natsserver.Start(nats)
	if err != nil {
		t.Fatal(err)
	}
	w.nats, w.url = server, server.URL()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	name := fmt.Sprintf("consumer_%d_%d", os.Getpid(), databases.Add(1))
	if err := mysql.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mysql.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	w.dsn = mysql.DSN(name)
	connector, err := database.Connector(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	w.database = sqlx.NewDb(sql.OpenDB(connector), "mysql")
	t.Cleanup(func() { w.database.Close() })
	db := w.openRepo()
	if err := db.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	options.AnyToken = true
	if w.wechat, err = wechattest.Start(options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.wechat.Close)
	w.nc = w.connect()
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	// Promise 8, checked in every test: no token and no code in the log.
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", w.log.String())
		}
		w.containsNoSecret("log", w.log.String())
		w.containsNoSecret("component table", w.dump("component"))
		w.containsNoToken("pre_auth_code table", w.dump("pre_auth_code"))
		w.containsNoSecret("outbox", w.dump("outbox"))
	})
	return w
}

func (w *world) openRepo() *repo.Repo {
	db, err := repo.Open(w.dsn, 4)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { db.Close() })
	return db
}

func (w *world) connect(options ...nats.Option) *nats.Conn {
	w.t.Helper()
	nc, err := nats.Connect(w.url, append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.RetryOnFailedConnect(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), nats.DrainTimeout(patience),
	}, options...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

// stopNATS stops the server and returns once the test's own connection has noticed: what the
// connection sends before that is lost.
func (w *world) stopNATS() {
	w.t.Helper()
	w.nats.Stop()
	w.eventually("disconnected", func() bool { return w.nc.Status() != nats.CONNECTED })
}

func (w *world) restartNATS() {
	w.t.Helper()
	if err := w.nats.Restart(); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("connected", func() bool { return w.nc.Status() == nats.CONNECTED })
}

// within returns a context that ends after patience or with the test.
func (w *world) within() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	return ctx
}

// eventually waits until the condition holds, and fails the test after patience.
func (w *world) eventually(what string, condition func() bool) {
	w.t.Helper()
	ctx := w.within()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("never came true: %s", what)
		}
	}
}

// replica is one running service.
type replica struct {
	*world
	service  *consumer.Service
	db       *repo.Repo
	registry *prometheus.Registry
	nc       *nats.Conn

	stopOnce sync.Once
	cancel   context.CancelFunc
	ended    chan error

	mu     sync.Mutex
	steps  []consumer.Step
	counts map[consumer.StepName]int
	more   chan struct{} // closed and replaced at each step
}

// setup holds what a test may change about a replica.
type setup struct {
	cfg    consumer.Config
	db     *repo.Repo
	nc     *nats.Conn
	api    *wechat.Client
	onStep func(consumer.Step)
	onNew  func(*consumer.Service) // before it runs
}

// quick has delays short enough for a test.
var quick = consumer.Delays{
	Transient: 5 * time.Millisecond, TransientMax: 50 * time.Millisecond, Throttled: 50 * time.Millisecond,
	Quota: 50 * time.Millisecond, Operator: 50 * time.Millisecond, Once: 5 * time.Millisecond,
}

// deliveredOnce keeps NATS from redelivering an event that is in flight for long.
func deliveredOnce(s *setup) { s.cfg.AckWait = time.Hour }

// redelivered makes NATS redeliver an event soon after it was lost.
func redelivered(s *setup) { s.cfg.AckWait = 2 * time.Second }

// waitsBriefly makes requests that wait for a code time out soon.
func waitsBriefly(s *setup) { s.cfg.RequestTimeout = time.Second }

// start runs a replica until the test ends or stops it.
func (w *world) start(change ...func(*setup)) *replica {
	w.t.Helper()
	r := w.prepare(change...)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.ended <- r.service.Run(ctx) }()
	w.t.Cleanup(func() {
		r.stop()
		w.containsNoSecret("metrics", r.metrics())
	})
	return r
}

// prepare returns a replica that does not run, for tests of a part of it.
func (w *world) prepare(change ...func(*setup)) *replica {
	w.t.Helper()
	// The limits are so generous that a slow machine does not reach them. A test of a limit sets it.
	s := setup{cfg: consumer.Config{
		Delays: quick, AckWait: 10 * time.Second, RequestTimeout: patience, Shutdown: patience / 2, Spares: -1,
	}}
	consumer.ShortenIntervals(&s.cfg, 50*time.Millisecond, 500*time.Millisecond, time.Second, time.Second)
	for _, c := range change {
		c(&s)
	}
	if s.db == nil {
		s.db = w.openRepo()
	}
	if s.nc == nil {
		s.nc = w.connect()
	}
	if s.api == nil {
		s.api = w.client()
	}
	r := &replica{
		world: w, db: s.db, nc: s.nc, registry: prometheus.NewRegistry(), ended: make(chan error, 1),
		more: make(chan struct{}), counts: map[consumer.StepName]int{},
	}
	s.cfg.Trace = func(step consumer.Step) {
		if s.onStep != nil {
			s.onStep(step)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.steps = append(r.steps, step)
		r.counts[step.Name]++
		close(r.more)
		r.more = make(chan struct{})
	}
	log := slog.New(slog.NewJSONHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if r.service, err = consumer.New(s.cfg, s.nc, s.db, s.api, log, r.registry); err != nil {
		w.t.Fatal(err)
	}
	if s.onNew != nil {
		s.onNew(r.service)
	}
	return r
}

func (w *world) client() *wechat.Client {
	// The time-out is longer than a test holds WeChat's answer.
	api, err := wechat.New(wechat.Config{BaseURLs: []string{w.wechat.URL()}, Timeout: 2 * patience, MaxConnections: 64})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(api.Close)
	return api
}

// stop shuts the replica down and waits until Run has returned.
func (r *replica) stop() {
	r.t.Helper()
	r.stopOnce.Do(func() {
		r.cancel()
		select {
		case err := <-r.ended:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			r.t.Error("Run did not end")
		}
	})
}

// await waits for the n-th step with the given name and returns it. It counts the steps of one
// component, or of all if appid is "".
func (r *replica) await(name consumer.StepName, appid string, n int) consumer.Step {
	r.t.Helper()
	ctx := r.within()
	for {
		r.mu.Lock()
		more, count := r.more, 0
		for _, step := range r.steps {
			if step.Name == name && (appid == "" || step.AppID == appid) {
				if count++; count == n {
					r.mu.Unlock()
					return step
				}
			}
		}
		r.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			r.t.Fatalf("saw %d of %d steps %q of %q", count, n, name, appid)
		}
	}
}

// ready waits until the replica is ready.
func (r *replica) ready() *replica {
	r.t.Helper()
	ctx := r.within()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for r.service.Ready() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("never ready: %v", r.service.Ready())
		}
	}
	return r
}

// holdHealth blocks the replica's periodic check of MySQL until it is released or the test ends.
// The check's reads have the same names as an event's, so a scripted fault could hit them instead.
func (r *replica) holdHealth(faults *repotest.Faults) (release func()) {
	r.t.Helper()
	held, released := make(chan struct{}), make(chan struct{})
	release = sync.OnceFunc(func() { close(released) })
	r.t.Cleanup(release)
	faults.Script("check", repotest.Fault{Before: func() { close(held); <-released }})
	next(r.world, held)
	return release
}

func (r *replica) count(name consumer.StepName) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[name]
}

func (r *replica) metrics() string {
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Error(err)
	}
	var text strings.Builder
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			r.t.Error(err)
		}
	}
	return text.String()
}

// token returns a new token. The test fails if the token appears in a log, a metric or a table.
func (w *world) token(name string) preauth.Secret {
	token := preauth.NewSecret(fmt.Sprintf("token_%s_%d_%s", name, len(w.tokens), strings.Repeat("x", 100)))
	w.tokens = append(w.tokens, token)
	return token
}

// announce publishes a token event, waits until the stream has stored it and returns its sequence.
func (w *world) announce(appid string, token preauth.Secret) uint64 {
	w.t.Helper()
	return w.publish(preauth.SubjectFor("component.token.updated", appid), preauth.TokenEvent{AppID: appid, Token: token}.Encode())
}

// publish sends the message until the stream confirms it: after a restart of the server, the first
// one may go to a dead connection that the client has not noticed yet.
func (w *world) publish(subject string, body []byte) (sequence uint64) {
	w.t.Helper()
	id := rand.Text()
	w.eventually("message stored", func() bool {
		ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
		defer cancel()
		ack, err := w.js.Publish(ctx, subject, body, jetstream.WithMsgID(id))
		if err == nil {
			sequence = ack.Sequence
		}
		return err == nil
	})
	return sequence
}

// once sends a request once. Go's client repeats one whose answer takes its time, as on a slow
// machine, and tests count requests and what they cost.
func once[T any](ctx context.Context, nc *nats.Conn, subject string, body []byte, parse func([]byte) (T, error)) (answer T, err error) {
	reply, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return answer, err
	}
	if failed := preauth.ParseError(reply.Header.Get, reply.Data); failed != nil {
		return answer, failed
	}
	return parse(reply.Data)
}

func (w *world) lookup(r preauth.LookupRequest) (preauth.Lookup, error) {
	w.t.Helper()
	return once(w.within(), w.nc, preauth.SubjectFor("preauth.lookup", r.AppID), r.Encode(), preauth.ParseLookup)
}

// stored returns the last announcement that the stream holds for a component.
func (w *world) stored(appid string) (preauth.Update, bool) {
	w.t.Helper()
	stream, err := w.js.Stream(w.within(), "PREAUTH")
	if err != nil {
		return preauth.Update{}, false
	}
	msg, err := stream.GetLastMsgForSubject(w.within(), preauth.SubjectFor("preauth.updated", appid))
	if err != nil {
		return preauth.Update{}, false
	}
	update, err := preauth.ParseUpdate(msg.Data)
	if err != nil {
		w.t.Fatal(err)
	}
	return update, true
}

// dump returns the whole content of a table as text.
func (w *world) dump(table string) string {
	rows, err := w.database.Queryx("SELECT * FROM " + table)
	if err != nil {
		w.t.Error(err)
		return ""
	}
	defer rows.Close()
	var text strings.Builder
	for rows.Next() {
		values, err := rows.SliceScan()
		if err != nil {
			w.t.Error(err)
		}
		for _, value := range values {
			if raw, ok := value.([]byte); ok {
				fmt.Fprintf(&text, "%s\t", raw)
			} else {
				fmt.Fprintf(&text, "%v\t", value)
			}
		}
		text.WriteByte('\n')
	}
	return text.String()
}

// current returns a component's current code in MySQL, or the zero Secret if it has none. It fails
// the test if there are several.
func (w *world) current(appid string) preauth.Secret {
	w.t.Helper()
	var codes []string
	err := w.database.Select(&codes, "SELECT code FROM pre_auth_code WHERE appid = ? AND slot = 0", appid)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(codes) > 1 {
		w.t.Fatalf("%d current codes of %s", len(codes), appid)
	}
	if len(codes) == 0 {
		return preauth.Secret{}
	}
	return preauth.NewSecret(codes[0])
}

// settled waits until every event is acknowledged and every announcement published. It then checks
// promises 2 and 4 for the component: one current code, which the stream's last message announces.
func (w *world) settled(r *replica, appid string) preauth.Update {
	w.t.Helper()
	w.acknowledged()
	w.eventually("outbox empty", func() bool {
		rows, _, err := r.db.OutboxDepth(w.within())
		return err == nil && rows == 0
	})
	var update preauth.Update
	w.eventually("something announced for "+appid, func() (ok bool) {
		update, ok = w.stored(appid)
		return ok
	})
	if current := w.current(appid); !current.Equal(update.PreAuthCode) {
		w.t.Fatalf("the code announced last, revision %d, is not the current code", update.Revision)
	}
	var lookup preauth.Lookup
	var err error
	w.eventually("look-ups are answered", func() bool {
		// With several replicas, the one that answers may not have read the announcement yet.
		lookup, err = w.lookup(preauth.LookupRequest{AppID: appid, MinRevision: update.Revision})
		return !errors.Is(err, nats.ErrNoResponders)
	})
	if err != nil || !lookup.PreAuthCode.Equal(update.PreAuthCode) || lookup.Revision != update.Revision {
		w.t.Fatalf("the look-up returned revision %d, but %d was announced: %v", lookup.Revision, update.Revision, err)
	}
	return update
}

// acknowledged waits until every event is acknowledged.
func (w *world) acknowledged() {
	w.t.Helper()
	w.eventually("all events acknowledged", func() bool {
		for name, durable := range map[string]string{"COMPONENT_TOKENS": "preauth", "COMPONENT_AUTHORIZED": "preauth-authorized"} {
			stream, err := w.js.Stream(w.within(), name)
			if errors.Is(err, jetstream.ErrStreamNotFound) && name == "COMPONENT_AUTHORIZED" {
				continue // no replica was started yet, or another stream takes authorizations too
			}
			if err != nil {
				return false
			}
			cons, err := stream.Consumer(w.within(), fmt.Sprintf("%s-%d", durable, stream.CachedInfo().Created.UnixMicro()))
			if err != nil || cons.CachedInfo().NumPending+uint64(cons.CachedInfo().NumAckPending) > 0 {
				return false
			}
		}
		return true
	})
}

// announcements returns how many messages the update stream has stored since its creation.
func (w *world) announcements() uint64 {
	w.t.Helper()
	stream, err := w.js.Stream(w.within(), "PREAUTH")
	if err != nil {
		w.t.Fatal(err)
	}
	info := stream.CachedInfo()
	return info.State.LastSeq - info.Config.FirstSeq + 1
}

func (w *world) containsNoSecret(where, text string) {
	w.t.Helper()
	w.containsNoToken(where, text)
	// A simulated day has too many codes to search for each one.
	const prefix = "preauthcode@@@"
	issued := map[string]bool{}
	for _, code := range w.wechat.Issued("") {
		issued[code.Reveal()[:len(prefix)+20]] = true
	}
	for found := strings.Index(text, prefix); found >= 0; found = strings.Index(text, prefix) {
		text = text[found:]
		if issued[text[:min(len(prefix)+20, len(text))]] {
			w.t.Errorf("%s contains a code", where)
			return
		}
		text = text[len(prefix):]
	}
}

func (w *world) containsNoToken(where, text string) {
	w.t.Helper()
	for _, token := range w.tokens {
		if strings.Contains(text, token.Reveal()) {
			w.t.Errorf("%s contains a token", where)
			return
		}
	}
}

// updates subscribes to announcements and returns them as they arrive.
func (w *world) updates() <-chan preauth.Update {
	w.t.Helper()
	updates := make(chan preauth.Update, 1000)
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		w.t.Fatal(err)
	}
	sub, err := client.Subscribe(func(u preauth.Update) { updates <- u }, func(err error) { w.t.Error(err) })
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := w.nc.FlushWithContext(w.within()); err != nil {
		w.t.Fatal(err)
	}
	return updates
}

// failures subscribes to failures and returns them as they arrive.
func (w *world) failures() <-chan preauth.Failure {
	w.t.Helper()
	failures := make(chan preauth.Failure, 1000)
	sub, err := w.nc.Subscribe("preauth.failed", func(msg *nats.Msg) {
		w.containsNoSecret("failure", string(msg.Data))
		failure, err := preauth.ParseFailure(msg.Data)
		if err != nil {
			w.t.Error(err)
		}
		failures <- failure
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := w.nc.FlushWithContext(w.within()); err != nil {
		w.t.Fatal(err)
	}
	return failures
}

// next receives the next item of a channel, and fails the test after patience.
func next[T any](w *world, items <-chan T) T {
	w.t.Helper()
	select {
	case item := <-items:
		return item
	case <-w.within().Done():
		w.t.Fatalf("no %T arrived", *new(T))
		panic("unreachable")
	}
}

// faulty opens the database so that the test can make its operations fail.
func (w *world) faulty() (*repo.Repo, *repotest.Faults) {
	w.t.Helper()
	db, faults, err := repotest.Open(w.dsn, 4)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { db.Close() })
	return db, faults
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// createTokenStream creates the token stream as the service would.
func (w *world) createTokenStream() {
	w.t.Helper()
	_, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{
		Name: "COMPONENT_TOKENS", Subjects: []string{"component.token.updated", "component.token.updated.>"},
		MaxAge: 2 * time.Hour, Duplicates: 2 * time.Minute,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
