// Package consumer is the service itself: it turns token events into codes, answers look-ups and
// claims, and takes note of the authorizations that the codes were used for.
//
// A token event takes one way through the package. The intake pulls it from the stream. The worker
// (event.go) decides what to do with it, has the issuer ask WeChat for a code and the committer
// save it in one transaction, and acknowledges the event. What was committed goes to the view,
// which answers look-ups, and to the publisher, which announces it.
//
// An authorization (authorization.go) comes through an intake of its own. Its code is marked as spent
// in one transaction, which is announced in the same way, and the event is acknowledged. If the code
// was current, the renewer makes another one at once. Beside these ways
//
//   - followers read the streams into the views, and have published again what a stream has lost;
//   - the renewer works on components whose code nears its expiry or whose last attempt failed;
//   - spares are made ahead of claims;
//   - the responder answers look-ups, claims, resolves, and what operators ask.
//
// Replicas are equal and know nothing of one another. They share two durable consumers, one for each
// kind of event, row locks and the streams' sequences.
//
// The package never waits for WeChat or NATS inside a database transaction, never acknowledges an
// event before its outcome is committed, and never lets a token or code out anywhere but to WeChat,
// MySQL (codes only) and the contract's subjects.
package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/keylock"
	"preauth/internal/outage"
	"preauth/internal/pause"
	"preauth/internal/stream"
	"preauth/internal/view"
	"preauth/repo"
	"preauth/wechat"
)

// Service is one replica. Make it with [New] and run it once with [Service.Run].
type Service struct {
	cfg     Config
	nc      *nats.Conn
	db      *repo.Repo
	log     *slog.Logger
	health  *health
	metrics *metrics

	owner     *ownership
	issuer    *issuer
	roles     roles
	keeper    *stream.Keeper
	tokens    tokenFollower
	updates   *codeFollower
	bucket    *bucket
	sources   []source
	renewer   *renewer
	spares    *spares
	publisher *publisher
	committer *committer
	responder *responder
	statuses  *statuses
	endpoints []endpoint
	watches   []func(context.Context)
}

// source is a stream of events, with what takes them.
type source struct {
	label  string // in metrics
	role   stream.Role
	intake *stream.Intake
}

// New returns a service on the given connection, database and WeChat client, which stay the
// caller's. Neither NATS nor the database has to be there yet. The connection should reconnect for
// ever, also when a write takes more than seconds ([nats.FlusherTimeout],
// [nats.Options].ReconnectOnFlusherError): until then, a stalled connection holds up everything
// that uses it. New adds to its error handler: one that is set later has to call
// [nats.Conn.ErrorHandler]'s. Metrics are registered with registerer. An invalid cfg gives an error
// that wraps [ErrConfig].
func New(
	cfg Config, nc *nats.Conn, db *repo.Repo, api *wechat.Client, log *slog.Logger, registerer prometheus.Registerer,
) (*Service, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	js, err := newJetStream(nc, cfg.JetStreamDomain)
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	connected := func() bool { return nc.Status() == nats.CONNECTED }

	roles := newRoles(cfg)
	h := newHealth(outage.New(log, mysqlPart, cfg.Now),
		roles.tokens.Name, roles.authorizations.Name, roles.updates.Name, roles.failures.Name, roles.authorized.Name, mysqlPart)
	m := newMetrics(registerer)
	tokens, codes, locks := view.NewTokens(), view.NewCodes(), new(keylock.Locks)
	owner := newOwnership(cfg, nc, db, h)
	keeper := newKeeper(js, log, h, m)
	refusals := newRefusals(cfg, nc, h, m, log)
	publisher := newPublisher(cfg, js, db, codes, h, m, log)
	issuer := newIssuer(cfg, api, codes, m, log)
	spares := newSpares(cfg, db, tokens, codes, issuer, h, m, log)
	committer := newCommitter(cfg, db, codes, publisher, h, m, log, outage.New(log, "WeChat", cfg.Now), owner.check, spares.topUp)
	renewer := newRenewer(cfg, db, tokens, locks, issuer, committer, h, log, connected)
	worker := newWorker(cfg, db, tokens, locks, issuer, committer, h, m, log)
	authorizations := &authorizations{
		subject: cfg.Subjects.Authorization, db: db, codes: codes, commit: committer, health: h, metrics: m, log: log,
		trace: cfg.tracer, now: cfg.Now, owned: owner.check, renewNow: renewer.renewNow,
	}
	// Each has a durable of its own, because one stream may cover the subjects of both.
	taken := func(label, durable, description string, role stream.Role, work stream.Work) source {
		return source{label, role, stream.NewIntake(js, log, stream.IntakeOptions{
			Role: role, Durable: durable, Description: description, Limit: cfg.InFlight, AckWait: cfg.AckWait, Work: work,
		})}
	}
	tokenReader, codeReader := stream.NewReader(nc, log), stream.NewReader(nc, log)

	s := &Service{
		cfg: cfg, nc: nc, db: db, log: log, health: h, metrics: m, owner: owner, issuer: issuer, roles: roles, keeper: keeper, renewer: renewer,
		sources: []source{
			taken("tokens", cfg.Durable, "asks WeChat for the pre_auth_code that belongs to each token", roles.tokens, worker.work),
			taken("authorizations", cfg.Durable+"-authorized", "marks the pre_auth_codes that were used", roles.authorizations, authorizations.work),
		},
		spares: spares, publisher: publisher, committer: committer,
		tokens:  tokenFollower{cfg: cfg, role: roles.tokens, reader: tokenReader, tokens: tokens, codes: codes},
		updates: newCodeFollower(cfg, roles.updates, codeReader, db, codes, owner, h, m, log),
		bucket:  newBucket(cfg, roles.bucket, js, m, log, connected),
	}
	s.responder = newResponder(cfg, nc, log, owner.check, replica{
		ready: s.notReady, codes: codes, tokens: tokens, readers: []*stream.Reader{tokenReader, codeReader}, quota: issuer.quota,
	}.describe)
	components := components{db: db, tokens: tokens, now: cfg.Now}
	lookups := &lookups{
		subject: cfg.Subjects.Lookup, components: components, codes: codes, tokens: tokens, now: cfg.Now, renewNow: renewer.renewNow,
	}
	claims := &claims{subject: cfg.Subjects.Claim, components: components, db: db, spares: spares, now: cfg.Now}
	statuses := &statuses{
		status: cfg.Subjects.Status, renew: cfg.Subjects.Renew, components: components, db: db, tokens: tokens, quota: issuer.quota, now: cfg.Now,
		renewNow: renewer.renewNow,
	}
	s.statuses = statuses
	// Everything below a subject is taken, so that an impossible appid gets an answer.
	s.endpoints = []endpoint{
		{"lookup", cfg.Subjects.Lookup, m.lookups, lookups.handler},
		{"lookup-component", cfg.Subjects.Lookup + ".>", m.lookups, lookups.handler},
		{"claim", cfg.Subjects.Claim, m.claims, claims.handler},
		{"claim-component", cfg.Subjects.Claim + ".>", m.claims, claims.handler},
		{"resolve", cfg.Subjects.Resolve, m.resolves, claims.resolveHandler},
		{"status", cfg.Subjects.Status, m.statuses, statuses.handler},
		{"status-component", cfg.Subjects.Status + ".>", m.statuses, statuses.handler},
		{"renew", cfg.Subjects.Renew, m.renews, statuses.renewHandler},
		{"renew-component", cfg.Subjects.Renew + ".>", m.renews, statuses.renewHandler},
	}
	s.watch(registerer, js, tokens, codes)
	issuer.watch(registerer)
	s.watches = append(s.watches, refusals.Look)
	return s, nil
}

func newJetStream(nc *nats.Conn, domain string) (jetstream.JetStream, error) {
	if domain == "" {
		return jetstream.New(nc)
	}
	return jetstream.NewWithDomain(nc, domain)
}

// watch sets up what looks at MySQL, at the progress of events and at the readiness, and the
// gauges.
func (s *Service) watch(registerer prometheus.Registerer, js jetstream.JetStream, tokens *view.Tokens, codes *view.Codes) {
	database := &mysqlWatch{db: s.db, health: s.health, log: s.log, now: s.cfg.Now, every: s.cfg.intervals.census}
	readiness := &readinessWatch{log: s.log, ready: s.notReady, started: time.Now()}
	s.watches = []func(context.Context){s.owner.look, database.look, readiness.look}
	for _, from := range s.sources {
		events := newProgressWatch("progress of "+from.label, s.health, s.cfg.Now, s.cfg.Stall, from.intake.Progress)
		s.watches = append(s.watches, events.look)
		count := func(name, help string, read func() float64) {
			gauge(registerer, name, help, prometheus.Labels{"stream": from.label}, read)
		}
		count("events_in_flight", "Events that this replica works on.", func() float64 { return float64(from.intake.InFlight()) })
		count("consumer_pending_events", "Events that no replica has taken.", func() float64 { return float64(events.latest().Pending) })
		count("consumer_ack_pending_events", "Events that replicas work on.", func() float64 { return float64(events.latest().InFlight) })
	}

	show := func(name, help string, read func() float64) { gauge(registerer, name, help, nil, read) }
	show("view_codes", "Components whose code this replica has in memory.", func() float64 { return float64(codes.Len()) })
	show("view_tokens", "Components whose token this replica has in memory.", func() float64 { return float64(tokens.Len()) })
	for view, reader := range map[string]*stream.Reader{"tokens": s.tokens.reader, "codes": s.updates.reader} {
		gauge(registerer, "view_lag_messages", "Messages of the stream that this replica has yet to take into memory.",
			prometheus.Labels{"view": view}, func() float64 { return float64(reader.Lag()) })
	}
	show("ready", "1 if the service does all its work.", func() float64 {
		if s.Ready() != nil {
			return 0
		}
		return 1
	})
	show("kv_bucket", "1 if the KV bucket of the current codes is there; 0 if not, or if it is off.", s.bucket.gauge)
	show("outbox_rows", "Announcements that no stream has stored yet, of all replicas.", func() float64 {
		rows, _, _, _ := database.figures()
		return float64(rows)
	})
	show("outbox_oldest_age_seconds", "Age of the oldest of them.", func() float64 {
		_, oldest, _, _ := database.figures()
		if oldest.IsZero() {
			return 0
		}
		return max(0, s.cfg.Now().Sub(oldest).Seconds())
	})
	show("durability_warnings", "Settings with which MySQL can lose a commit that it acknowledged.", func() float64 {
		_, _, _, warnings := database.figures()
		return float64(warnings)
	})
	durability := &natsDurability{
		nc: s.nc, js: js, monitor: s.cfg.Monitor, roles: Roles(s.cfg), log: s.log, every: s.cfg.intervals.census,
		away: outage.New(s.log, "monitoring of NATS", s.cfg.Now),
	}
	if s.cfg.Monitor != nil {
		s.watches = append(s.watches, durability.look)
	}
	show("nats_durability_warnings", "Streams of which NATS can lose a message that it acknowledged; 0 where its monitoring is not asked.",
		durability.warnings)
	counted := func(read func(repo.Census) float64) func() float64 {
		return func() float64 {
			_, _, census, _ := database.figures()
			return read(census)
		}
	}
	for state, read := range map[string]func(repo.Census) float64{
		"valid":    func(c repo.Census) float64 { return float64(c.Valid) },
		"expiring": func(c repo.Census) float64 { return float64(c.Expiring) },
		"failing":  func(c repo.Census) float64 { return float64(c.Failing) },
		"no_token": func(c repo.Census) float64 { return float64(c.NoToken) },
	} {
		gauge(registerer, "components", "Components of all replicas, by state.", prometheus.Labels{"state": state}, counted(read))
	}
	show("components_overdue", "Components of all replicas with a living token whose code has less than a sixth of its life left, or that have none.",
		counted(func(c repo.Census) float64 { return float64(c.Overdue) }))
	show("spares", "Codes made ahead of claims that have not expired, of all replicas.",
		counted(func(c repo.Census) float64 { return float64(c.Spares) }))
	show("code_expiry_timestamp_seconds", "When the first current code expires, as a Unix time; 0 if there is none.",
		counted(func(c repo.Census) float64 { return unix(c.CodeExpiresAt) }))
	show("token_expiry_timestamp_seconds", "When the first living token expires, as a Unix time; 0 if there is none.",
		counted(func(c repo.Census) float64 { return unix(c.TokenExpiresAt) }))
}

// unix returns a time as Prometheus has it, 0 for the zero time.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Ready returns nil if the service does all its work, and otherwise why not, part by part. A
// service that is not ready still does what it can: without MySQL, for example, it answers look-ups
// from memory.
func (s *Service) Ready() error { return joined(s.notReady()) }

func (s *Service) notReady() []reason {
	reasons := s.health.notReady()
	if status := s.nc.Status(); status != nats.CONNECTED {
		reasons = append([]reason{{"NATS", fmt.Errorf("the connection is %s", status)}}, reasons...)
	}
	return reasons
}

// Subjects returns the subjects of the contract that the service uses.
func (s *Service) Subjects() preauth.Subjects { return s.cfg.Subjects }

// Replica returns how this replica fares. ID, Version and StartedAt are zero before [Service.Run].
func (s *Service) Replica() preauth.Replica { return s.responder.replica() }

// Summary returns what a [preauth.StatusPage] says of all components. Like the other questions to
// MySQL here, it needs no NATS, takes as long as ctx allows, and fails while the database belongs to
// other streams.
func (s *Service) Summary(ctx context.Context) (preauth.Summary, error) {
	if err := s.owner.check(); err != nil {
		return preauth.Summary{}, err
	}
	summary, err := s.statuses.summary(ctx)
	if err != nil {
		return preauth.Summary{}, err
	}
	return *summary, nil
}

// Statuses returns how at most limit of the components fare that a request without an AppID matches,
// sorted by AppID.
func (s *Service) Statuses(ctx context.Context, request preauth.StatusRequest, limit int) ([]preauth.Status, error) {
	if err := s.owner.check(); err != nil {
		return nil, err
	}
	return s.statuses.some(ctx, request, limit)
}

// Status returns how a component fares. It returns false if no valid token event ever named it.
func (s *Service) Status(ctx context.Context, appid string) (preauth.Status, bool, error) {
	if err := s.owner.check(); err != nil {
		return preauth.Status{}, false, err
	}
	return s.statuses.one(ctx, appid)
}

// firstLook is how long a replica waits for the database before it takes requests. Without the
// database it can still answer from memory.
const firstLook = accountTimeout + time.Second

// Run works until ctx ends, then finishes what is in flight and returns nil. If NATS, MySQL or
// WeChat is away, it waits and goes on by itself; an error is a defect.
func (s *Service) Run(ctx context.Context) error {
	// Work that was begun is finished, acknowledged and announced, until the time for that is over.
	workCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()

	// Before it knows the database, a replica refuses what the others would answer.
	lookCtx, cancel := context.WithTimeout(ctx, firstLook)
	s.owner.look(lookCtx)
	cancel()
	if err := s.responder.start(workCtx, s.endpoints...); err != nil {
		return err
	}
	tokens := s.tokens
	tokenSource, authorizationSource := s.sources[0], s.sources[1]
	tokens.take = s.takes(workCtx, tokenSource)
	var publishing, watching, taking sync.WaitGroup
	publishCtx, stopPublishing := context.WithCancel(workCtx)
	defer stopPublishing()
	watchCtx, stopWatching := context.WithCancel(workCtx)
	defer stopWatching()
	publishing.Go(func() {
		s.owner.hold(publishCtx, func(ctx context.Context) { s.publisher.run(ctx, workCtx) })
	})
	for _, look := range s.watches {
		watching.Go(func() { watch(watchCtx, look) })
	}
	s.updates.announce = func(a repo.Announcement) bool { return s.committer.announce(workCtx, a, time.Time{}) }
	watching.Go(func() {
		s.keeper.Keep(watchCtx, s.roles.updates, stream.Follower{
			Follow: s.followUpdates, Subjects: func() int { return s.updates.codes.StoredLen(s.cfg.Now()) },
		})
	})
	for _, role := range []stream.Role{s.roles.failures, s.roles.authorized} {
		watching.Go(func() { s.keeper.Keep(watchCtx, role, exists(func() { s.health.set(role.Name, nil) })) })
	}
	if s.cfg.Bucket != "" {
		watching.Go(func() {
			// The service's own streams come first, where the account has room for a few.
			for s.Ready() != nil {
				if !pause.For(watchCtx, readyPoll) {
					return
				}
			}
			s.bucket.keep(watchCtx)
		})
	}
	watching.Go(func() { s.owner.hold(watchCtx, s.purge) })
	taking.Go(func() { s.keeper.Keep(ctx, s.roles.tokens, stream.Follower{Follow: tokens.follow}) })
	taking.Go(func() {
		s.keeper.Keep(ctx, authorizationSource.role, stream.Follower{Follow: s.takes(workCtx, authorizationSource)})
	})
	taking.Go(func() { s.owner.hold(ctx, func(ctx context.Context) { s.renewer.run(ctx, workCtx) }) })
	taking.Go(func() { s.owner.hold(ctx, func(ctx context.Context) { s.spares.run(ctx, workCtx) }) })

	<-ctx.Done()
	s.log.Info("stopping", "in_flight", tokenSource.intake.InFlight()+authorizationSource.intake.InFlight(), "limit", s.cfg.Shutdown)
	late := time.AfterFunc(s.cfg.Shutdown, func() {
		s.log.Warn("out of time: giving up what is in flight")
		giveUp()
	})
	defer late.Stop()

	taking.Wait()
	for _, from := range s.sources {
		from.intake.Wait()
	}
	s.responder.stop(workCtx)
	s.renewer.waitForDemands() // begun by look-ups and authorizations
	stopWatching()
	watching.Wait()
	stopPublishing() // last: all the others announce
	publishing.Wait()
	s.issuer.quota.WaitForAnswers()
	s.log.Info("stopped")
	return nil
}

// readyPoll is how often the service looks whether it is ready, before it creates what it can do
// without.
const readyPoll = 100 * time.Millisecond

// followUpdates follows a stream of updates, which the publisher publishes to from now on.
func (s *Service) followUpdates(ctx context.Context, updates jetstream.Stream, id stream.Identity) error {
	s.publisher.follow(updates)
	return s.updates.follow(ctx, updates, id)
}

// takes returns what takes the events of a source, while the database belongs to this service,
// until ctx ends or they cannot be taken any more. The work on events that were taken goes on under
// workCtx.
func (s *Service) takes(
	workCtx context.Context, from source,
) func(ctx context.Context, events jetstream.Stream, id stream.Identity) error {
	return func(ctx context.Context, events jetstream.Stream, id stream.Identity) (err error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s.owner.hold(ctx, func(ctx context.Context) {
			if err = from.intake.Take(ctx, workCtx, events, id, func() { s.health.set(from.role.Name, nil) }); err != nil {
				cancel()
			}
		})
		return err
	}
}

// purgeBatch bounds the rows that one statement deletes.
const purgeBatch = 500

// purge deletes codes that expired longer ago than they are to be kept, until ctx ends. Any number
// of replicas may do so.
func (s *Service) purge(ctx context.Context) {
	for pause.For(ctx, pause.Jittered(s.cfg.intervals.purge)) {
		for deleted := purgeBatch; deleted == purgeBatch && ctx.Err() == nil; {
			var err error
			deleted, err = s.db.Purge(ctx, s.cfg.Now().Add(-s.cfg.Retention), purgeBatch)
			if err != nil {
				s.log.Log(ctx, levelOf(err), "expired codes not purged", "error", err)
				break
			}
			s.metrics.purged.Add(float64(deleted))
		}
	}
}
