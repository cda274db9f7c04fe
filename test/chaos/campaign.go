package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/mysqlserver"
	"preauth/test/chaos/check"
	"preauth/test/chaos/history"
	"preauth/test/chaos/model"
	"preauth/test/chaos/nemesis"
	"preauth/test/chaos/system"
	"preauth/test/chaos/workload"
)

// campaign is one run: a system, clients, faults and a verdict.
type campaign struct {
	seed     uint64
	duration time.Duration // of the faults
	// powerCuts is how often the power is cut. If it is not 0, no other faults come, and duration is
	// at most how long.
	powerCuts int
	// syncInterval is that of NATS. Empty: always.
	syncInterval string
	// databaseArguments are passed to mariadbd or mysqld.
	databaseArguments []string
	replicas          int
	natsServers       int
	components        int
	engine            mysqlserver.Engine
	maxSkew           time.Duration
	// partitions leaves out all faults but failovers and partitions of the NATS cluster: see
	// [nemesis.Options].
	partitions string
	// failover adds failovers of the database, which has to be MariaDB.
	failover bool
	// settleTime is how long the system may take to settle.
	settleTime time.Duration
	// overlay replaces source files of the service: see [system.Build].
	overlay map[string]string
	// before is a commit. If it is set, the campaign begins with the service as it was then, and
	// replaces it instead of breaking things.
	before string
	// dir is an empty directory for the run's files.
	dir string
	log func(format string, args ...any)
}

// outcome is the result of a campaign.
type outcome struct {
	campaign

	check.Result
	evidence *check.Evidence
	faults   map[string]int
	settling time.Duration
	// used is how long the clients used the system, and oldStarts when an old replica was starting.
	used      time.Duration
	oldStarts []span
}

const (
	historyName = "history.jsonl"
	// usualSettleTime is how long a system that is left alone may take to finish everything on a busy
	// machine: two leases, one after the other, and the longest waits between tries. A clock that was
	// fast may have put work off by as much more.
	usualSettleTime = 2*system.Lease + 4*system.LongestDelay + 30*time.Second
)

// run runs the campaign. The error is about the harness; broken promises are in the outcome.
func (c campaign) run(ctx context.Context) (_ *outcome, err error) {
	if c.powerCuts > 0 && c.engine == mysqlserver.TiDB {
		return nil, errors.New("power cuts: the storage of test/devdb syncs nothing: choose mariadb or mysql")
	}
	if c.powerCuts > 0 {
		// Pages are written at once, so that cuts tear them.
		c.databaseArguments = append(c.databaseArguments, "--innodb-max-dirty-pages-pct=0")
	}
	if c.powerCuts > 0 && c.engine == mysqlserver.MySQL {
		// With O_DIRECT, the default, MySQL does not sync its doublewrite buffer. Then a torn page may have
		// no copy, and MySQL does not start again.
		c.databaseArguments = append(c.databaseArguments, "--innodb-flush-method=fsync")
	}
	programs, err := system.Build(ctx, c.dir, c.overlay)
	if err != nil {
		return nil, err
	}
	if c.before != "" {
		if programs.Before, err = system.BuildCommit(ctx, c.before); err != nil {
			return nil, err
		}
	}
	sys, err := system.Start(ctx, system.Options{
		Dir: c.dir, Programs: programs, Replicas: c.replicas, NATSServers: c.natsServers, Engine: c.engine, Failover: c.failover,
		Forgetful: c.powerCuts > 0, SyncInterval: cmp.Or(c.syncInterval, "always"), DatabaseArguments: c.databaseArguments, Log: c.log,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	rec, err := history.NewRecorder(filepath.Join(c.dir, historyName))
	if err != nil {
		return nil, err
	}
	nc, err := sys.NATS.Connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	if err := keepTokens(ctx, js); err != nil {
		return nil, err
	}
	clients, err := workload.New(workload.Options{Seed: c.seed, Components: c.components, Conn: nc, Issuer: sys.WeChat, Recorder: rec})
	if err != nil {
		return nil, err
	}
	if err := clients.Subscribe(); err != nil {
		return nil, err
	}
	g := &gatherer{system: sys, js: js, rec: rec}
	secrets := new(searcher)

	var watching sync.WaitGroup
	watchCtx, stopWatching := context.WithCancel(ctx)
	defer watching.Wait()
	defer stopWatching()
	watching.Go(func() { g.watchRows(watchCtx) })
	watching.Go(func() { secrets.scraping(watchCtx, sys) })
	watching.Go(func() { c.tell(watchCtx, rec) })

	breaker := nemesis.New(nemesis.Options{Seed: c.seed, System: sys, Conn: nc, Recorder: rec, MaxSkew: c.maxSkew, Partitions: c.partitions, Log: c.log})
	inUse, stop := context.WithCancel(ctx)
	defer stop()
	began := time.Now()
	var using sync.WaitGroup
	using.Go(func() { clients.Run(inUse) })
	var oldStarts []span
	switch {
	case c.before != "":
		oldStarts, err = c.upgrade(ctx, sys, programs, rec)
	case c.powerCuts > 0:
		err = breaker.Cut(inUse, c.powerCuts)
		c.duration = time.Since(began).Round(time.Second)
	default:
		faulty, end := context.WithTimeout(ctx, c.duration)
		err = breaker.Run(faulty)
		end()
	}
	used := rec.Now()
	stop()
	using.Wait()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.log("no more faults: waiting until the system has settled")
	out := &outcome{campaign: c, faults: breaker.Counts(), used: used, oldStarts: oldStarts}
	if out.evidence, out.settling, err = c.settle(ctx, g, clients); err != nil {
		return nil, err
	}
	stopWatching()
	watching.Wait()
	if err := c.complete(ctx, out.evidence, g, secrets); err != nil {
		return nil, err
	}
	out.Result = check.Check(out.evidence)
	words, noPaths := model.Replay(out.evidence)
	out.Checks[model.Promise] += words
	out.Violations = append(out.Violations, noPaths...)
	return out, rec.Close()
}

// keepTokens has the stream of tokens keep all events. As the service creates it, it keeps them for
// two hours, and the evidence of a longer run would lack the first ones.
func keepTokens(ctx context.Context, js jetstream.JetStream) error {
	stream, err := js.Stream(ctx, "COMPONENT_TOKENS")
	if err != nil {
		return err
	}
	config := stream.CachedInfo().Config
	config.MaxAge = 0
	_, err = js.UpdateStream(ctx, config)
	return err
}

// tell logs the progress from time to time.
func (c campaign) tell(ctx context.Context, rec *history.Recorder) {
	for system.Wait(ctx, 30*time.Second) {
		counts := map[history.Op]int{}
		for _, e := range rec.Events() {
			counts[e.Op]++
		}
		c.log("%4.0f s: %d published, %d look-ups, %d claims, %d announced, %d faults", rec.Now().Seconds(),
			counts[history.Publish], counts[history.Lookup], counts[history.Claim], counts[history.Update], counts[history.Fault])
	}
}

// lease is how long a component is left to the replica that renews its code.
const lease = 20 * time.Second

// settle announces a last good token for every other component. It waits until the system has
// nothing left to do and look-ups agree, or the time for that is over, and returns how long that
// took. Then it leaves the system alone for the life of a code, except for look-ups and a few
// authorizations, and checks again.
func (c campaign) settle(ctx context.Context, g *gatherer, clients *workload.Workload) (*check.Evidence, time.Duration, error) {
	begin := g.rec.Now()
	for i, appid := range clients.AppIDs() {
		if i%2 == 0 {
			if err := clients.PublishGood(ctx, appid); err != nil {
				return nil, 0, err
			}
		}
	}
	e := &check.Evidence{Seed: c.seed, Limits: check.Limits{
		CodeLife: system.CodeLife, RequestTimeout: system.RequestTimeout, MaxMinTTL: workload.MaxMinTTL, Spares: system.Spares,
	}}
	err := c.await(ctx, g, clients, e, c.settleTime+c.maxSkew)
	settling := g.rec.Now() - begin
	// A replica that died may hold the lease of a component for longer than its code lives. Only after
	// the lease no code may expire.
	if err == nil && len(e.Undone) == 0 && system.Wait(ctx, begin+lease-g.rec.Now()) {
		err = c.await(ctx, g, clients, e, c.settleTime)
	}
	if err != nil || len(e.Undone) > 0 {
		return e, settling, err
	}
	c.log("settled: leaving the system alone for the life of a code")
	for i, appid := range clients.AppIDs() {
		if i%3 == 0 { // without faults, no look-up may be late to know it
			clients.SpendCurrent(ctx, appid)
		}
	}
	for quiet := g.rec.Now() + system.CodeLife; g.rec.Now() < quiet; {
		for _, appid := range clients.AppIDs() {
			clients.Lookup(ctx, check.Prober, preauth.LookupRequest{AppID: appid})
		}
		if !system.Wait(ctx, time.Second) {
			return nil, 0, ctx.Err()
		}
	}
	for _, appid := range clients.AppIDs() {
		clients.Lookup(ctx, check.Prober, preauth.LookupRequest{AppID: appid, MinTTL: workload.MaxMinTTL})
		clients.Claim(ctx, check.Prober, appid)
	}
	return e, settling, c.await(ctx, g, clients, e, c.settleTime)
}

// await updates the evidence until nothing is left undone, or the time for that is over.
func (c campaign) await(ctx context.Context, g *gatherer, clients *workload.Workload, e *check.Evidence, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		err := c.look(ctx, g, e)
		if err != nil {
			e.Undone = []string{err.Error()}
		} else if e.Undone = check.Unsettled(e); len(e.Undone) == 0 {
			e.Undone = c.probe(ctx, clients, e.State)
		}
		switch {
		case len(e.Undone) == 0:
			return nil
		case time.Now().After(deadline):
			c.log("not settled: %q", e.Undone)
			return nil
		case !system.Wait(ctx, 500*time.Millisecond):
			return ctx.Err()
		}
	}
}

// look updates the part of the evidence that tells whether the system has settled.
func (c campaign) look(ctx context.Context, g *gatherer, e *check.Evidence) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tokens, err := g.events(ctx, tokenStream)
	if err != nil {
		return err
	}
	authorizations, err := g.events(ctx, authorizationStream)
	if err != nil {
		return err
	}
	for _, r := range g.system.Replicas {
		if err := r.Ready(ctx); err != nil {
			return err
		}
	}
	if e.State, err = g.state(ctx, false); err != nil {
		return err
	}
	e.State.Tokens, e.State.Authorizations = tokens, authorizations
	e.Events, e.Calls = g.rec.Events(), g.calls()
	return nil
}

// probe looks up each component so often that every replica is likely to answer. It says which
// answers do not match the state.
func (c campaign) probe(ctx context.Context, clients *workload.Workload, state check.State) (undone []string) {
	for _, appid := range clients.AppIDs() {
		component, ok := state.Components[appid]
		if !ok || component.Failure != nil {
			continue
		}
		for range 2 * c.replicas {
			found, _ := clients.Lookup(ctx, "probe", preauth.LookupRequest{AppID: appid})
			if found.Status != history.OK || found.Revision < component.Revision {
				return append(undone, fmt.Sprintf("%s: a look-up gets status %d and revision %d, and %d is current", appid, found.Status, found.Revision, component.Revision))
			}
		}
	}
	return nil
}

// complete stops the replicas in an orderly way, so that nothing changes any more. Then it collects
// the rest of the evidence: all rows, the failures, the secrets found.
func (c campaign) complete(ctx context.Context, e *check.Evidence, g *gatherer, secrets *searcher) error {
	var ending sync.WaitGroup
	for _, r := range g.system.Replicas {
		ending.Go(func() { _ = r.Terminate() }) // the replica records what goes wrong
	}
	ending.Wait()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tokens, err := g.events(ctx, tokenStream)
	if err != nil {
		return err
	}
	authorizations, err := g.events(ctx, authorizationStream)
	if err != nil {
		return err
	}
	if e.State, err = g.state(ctx, true); err != nil {
		return fmt.Errorf("read the final state: %w", err)
	}
	e.State.Tokens, e.State.Authorizations = tokens, authorizations
	if e.State.Failures, err = g.failures(ctx); err != nil {
		return err
	}
	if e.State.Authorized, err = g.authorized(ctx); err != nil {
		return err
	}
	e.Events, e.Calls = g.rec.Events(), g.calls()
	if err := secrets.tables(ctx, g.system.MySQL.Root); err != nil {
		return err
	}
	if err := secrets.files(g.system, c.dir); err != nil {
		return err
	}
	e.Leaks = secrets.found()
	for _, r := range g.system.Replicas {
		e.Broken = append(e.Broken, r.Faults()...)
	}
	return nil
}

// newSeed returns a fresh seed.
func newSeed() uint64 { return rand.Uint64() >> 1 }

// temporaryDir returns a new directory for a run.
func temporaryDir() (string, error) { return os.MkdirTemp("", "preauth-chaos-") }
