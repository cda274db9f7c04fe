package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"preauth"
	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
	"preauth/test/chaos/workload"
)

// manner is a way to stop a replica, and what its clients do about it.
type manner struct {
	name    string
	inOrder bool
	// patience is how long a client waits before it repeats a request.
	patience time.Duration
	stop     func(*system.Replica) error
}

var (
	inOrder = manner{"SIGTERM", true, answerLimit, (*system.Replica).Terminate}
	killed  = manner{"SIGKILL", false, repeatAfter, (*system.Replica).Kill}
)

const (
	// repeatAfter is when a client repeats a claim that is not answered, as docs/contract.md advises.
	repeatAfter = 500 * time.Millisecond
	// answerLimit is when a client gives a request up. The service has nearly as long, since both cores
	// are busy: what counts is whether it answers.
	answerLimit = 30 * time.Second
	// afterStop is how long after the end of a replica a claim may be hit by it, and allowedCost how
	// much longer 99 % of these claims may take.
	afterStop, allowedCost = time.Second, time.Second
	// users is how many clients look up and claim at once.
	users = 12
	// restartCodeLife is so long that no code has to be renewed by a replica that was killed.
	restartCodeLife = 10 * time.Minute
)

// request is a look-up or a claim that a client made.
type request struct {
	isClaim    bool
	begin, end time.Duration // since the begin of the count
	failed     error         // of the first attempt
	unanswered bool          // also when it was repeated
}

// restarts is what requests cost while replicas were stopped in one manner and started again.
type restarts struct {
	manner

	requests []request
	stops    []time.Duration // since the begin of the count
	twice    int64           // codes that two claims got
}

// restarts counts what requests cost while the replicas are restarted, one after the other: first in
// good order, then with SIGKILL. It makes at least so many requests in each manner.
func (c campaign) restarts(ctx context.Context, requests int) (counted []*restarts, err error) {
	programs, err := system.Build(ctx, c.dir, c.overlay)
	if err != nil {
		return nil, err
	}
	sys, err := system.Start(ctx, system.Options{
		Dir: c.dir, Programs: programs, Replicas: c.replicas, NATSServers: c.natsServers, Engine: c.engine, CodeLife: restartCodeLife, SyncInterval: "always", RequestTimeout: answerLimit - 2*time.Second, Log: c.log,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	appids, err := c.populate(ctx, sys)
	if err != nil {
		return nil, err
	}
	for _, m := range []manner{inOrder, killed} {
		c.log("restarting replicas with %s", m.name)
		r := &restarts{manner: m}
		if err := r.run(ctx, sys, appids, requests); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		counted = append(counted, r)
	}
	return counted, nil
}

// populate gives each component a token, and returns their appids once each has a code.
func (c campaign) populate(ctx context.Context, sys *system.System) ([]string, error) {
	nc, err := sys.NATS.Connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	rec, err := history.NewRecorder(filepath.Join(c.dir, historyName))
	if err != nil {
		return nil, err
	}
	clients, err := workload.New(workload.Options{Seed: c.seed, Components: c.components, Conn: nc, Issuer: sys.WeChat, Recorder: rec})
	if err != nil {
		return nil, err
	}
	for _, appid := range clients.AppIDs() {
		if err := clients.PublishGood(ctx, appid); err != nil {
			return nil, err
		}
	}
	for _, appid := range clients.AppIDs() {
		for {
			if found, _ := clients.Lookup(ctx, "first", preauth.LookupRequest{AppID: appid}); found.Status == history.OK {
				break
			}
			if !system.Wait(ctx, 100*time.Millisecond) {
				return nil, ctx.Err()
			}
		}
	}
	return clients.AppIDs(), rec.Close()
}

// run makes requests at full speed and restarts the replicas meanwhile, until there are enough
// requests and each replica was restarted.
func (r *restarts) run(ctx context.Context, sys *system.System, appids []string, enough int) error {
	var (
		using  sync.WaitGroup
		made   atomic.Int64
		codes  sync.Map // hashes of those that claims got
		each   [users][]request
		start  = time.Now()
		inUse  = make(chan struct{})
		stop   = sync.OnceFunc(func() { close(inUse) })
		double atomic.Int64
	)
	defer using.Wait()
	defer stop()
	for i := range users {
		nc, err := sys.NATS.Connect()
		if err != nil {
			return err
		}
		using.Go(func() {
			defer nc.Close()
			for n := 0; ; n++ {
				select {
				case <-inUse:
					return
				default:
				}
				appid, q := appids[(i+n/2)%len(appids)], request{isClaim: n%2 == 0, begin: time.Since(start)}
				r.ask(ctx, &q, func(ctx context.Context) error {
					if !q.isClaim {
						_, err := workload.Request(ctx, nc, preauth.SubjectFor("preauth.lookup", appid), nil, preauth.ParseLookup)
						return err
					}
					asked := preauth.ClaimRequest{AppID: appid, ClaimID: fmt.Sprintf("%s %d %d", r.name, i, n)}
					claim, err := workload.Request(ctx, nc, preauth.SubjectFor("preauth.claim", appid), asked.Encode(), preauth.ParseClaim)
					if err == nil {
						if _, known := codes.LoadOrStore(history.HashOf(claim.PreAuthCode), true); known {
							double.Add(1)
						}
					}
					return err
				})
				q.end = time.Since(start)
				each[i] = append(each[i], q)
				made.Add(1)
			}
		})
	}
	for made.Load() < int64(enough) || len(r.stops) < len(sys.Replicas) {
		replica := sys.Replicas[len(r.stops)%len(sys.Replicas)]
		r.stops = append(r.stops, time.Since(start))
		if err := r.stop(replica); err != nil {
			return fmt.Errorf("stop %s: %w", replica.Name, err)
		}
		if err := replica.Restart(ctx); err != nil {
			return err
		}
		if !system.Wait(ctx, r.stops[len(r.stops)-1]+2*afterStop-time.Since(start)) {
			return ctx.Err()
		}
	}
	stop()
	using.Wait()
	r.requests, r.twice = slices.Concat(each[:]...), double.Load()
	return nil
}

// ask makes a request until it is answered, for a while.
func (r *restarts) ask(ctx context.Context, q *request, attempt func(context.Context) error) {
	for deadline := time.Now().Add(answerLimit); ; {
		tried, cancel := context.WithTimeout(ctx, r.patience)
		err := attempt(tried)
		cancel()
		if err == nil {
			return
		}
		if q.failed == nil {
			q.failed = err
		}
		if q.unanswered = time.Now().After(deadline); q.unanswered || !system.Wait(ctx, 10*time.Millisecond) {
			return
		}
	}
}

// failed returns the requests whose first attempt failed.
func (r *restarts) failed() (failed []request) {
	for _, q := range r.requests {
		if q.failed != nil {
			failed = append(failed, q)
		}
	}
	return failed
}

// took returns how long requests took, the shortest first.
func (r *restarts) took(which func(request) bool) (took []time.Duration) {
	for _, q := range r.requests {
		if which(q) {
			took = append(took, q.end-q.begin)
		}
	}
	slices.Sort(took)
	return took
}

// hit reports whether a request was a claim that was under way when a replica was stopped, or that
// came within the next second.
func (r *restarts) hit(q request) bool {
	return q.isClaim && slices.ContainsFunc(r.stops, func(stop time.Duration) bool {
		return q.begin < stop+afterStop && q.end > stop
	})
}

// undisturbed reports whether a request was a claim at another time.
func (r *restarts) undisturbed(q request) bool { return q.isClaim && !r.hit(q) }

// percentile returns how long the slowest took of so many percent of the requests.
func percentile(took []time.Duration, percent int) time.Duration {
	if len(took) == 0 {
		return 0
	}
	return took[min(len(took)-1, len(took)*percent/100)]
}

// table returns what was counted.
func (r *restarts) table() table {
	ms := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	unanswered := 0
	for _, q := range r.requests {
		if q.unanswered {
			unanswered++
		}
	}
	hit, other := r.took(r.hit), r.took(r.undisturbed)
	return table{
		{"restarts", strconv.Itoa(len(r.stops))},
		{"requests", strconv.Itoa(len(r.requests))},
		{"... that were claims", strconv.Itoa(len(hit) + len(other))},
		{"... whose first attempt failed", strconv.Itoa(len(r.failed()))},
		{"... that were never answered", strconv.Itoa(unanswered)},
		{"codes that two claims got", strconv.Itoa(int(r.twice))},
		{"claims under way or within a second", strconv.Itoa(len(hit))},
		{"... median", ms(percentile(hit, 50))},
		{"... 99 %", ms(percentile(hit, 99))},
		{"... the slowest", ms(percentile(hit, 100))},
		{"other claims, 99 %", ms(percentile(other, 99))},
	}
}

// problem returns what the service does not keep of what it promises for a restart, "" if nothing.
func (r *restarts) problem() string {
	failed := r.failed()
	switch {
	case r.twice > 0:
		return fmt.Sprintf("%d codes were given to two claims", r.twice)
	case r.inOrder && len(failed) > 0:
		return fmt.Sprintf("%d requests failed, the first with: %v", len(failed), failed[0].failed)
	case slices.ContainsFunc(failed, func(q request) bool { return q.unanswered }):
		return fmt.Sprintf("a request was not answered for %v", answerLimit)
	}
	return ""
}

// slow returns how much longer claims took than a restart may cost them, "" if they did not. It takes
// a machine that nobody else uses, and many claims, to tell.
func (r *restarts) slow() string {
	if cost := percentile(r.took(r.hit), 99) - percentile(r.took(r.undisturbed), 99); cost > allowedCost {
		return fmt.Sprintf("99 %% of the claims took up to %v longer, more than %v", cost, allowedCost)
	}
	return ""
}
