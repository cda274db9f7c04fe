package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/repo"
)

// row is one row of the table of goals.
type row struct {
	name, about string
	measure     func(context.Context, *bench) error
}

var rows = []row{
	{"event", "one event on an idle system, from its publication to preauth.updated", measureEvent},
	{"throughput", "sustained events a second, 10,000 components", measureThroughput},
	{"slow", "sustained events a second with WeChat at 100 ms", measureSlow},
	{"lookup", "look-ups a second, and calls of WeChat", measureLookup},
	{"claim", "claims a second with spares", measureClaim},
	{"components", "100,000 components: start, memory, cost of an event, renewals", measureComponents},
	{"backlog", "a backlog of 10,000 events for 100 components", measureBacklog},
	{"idle", "what the service costs while nothing happens", measureIdle},
	{"trace", "where the time of one event goes", measureTrace},
	{"growth", "how the cost grows with components, replicas and batches", measureGrowth},
}

// bench is one call of this command.
type bench struct {
	*rig
	*report
	settings
	row string // that is measured
}

// measure measures the rows and prints what they have found.
func measure(ctx context.Context, s settings, chosen []row, out io.Writer) (err error) {
	rig, err := newRig(ctx, s.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	b := &bench{rig: rig, report: &report{}, settings: s}
	fmt.Fprintf(out, "%s, %d processors, %s, nats-server with sync_interval always, rounds: %d\n\n",
		runtime.Version(), runtime.NumCPU(), rig.mysql, s.rounds)
	defer b.write(out) // what was found until then, if it is stopped
	for _, row := range chosen {
		b.row = row.name
		if err := row.measure(ctx, b); err != nil {
			return fmt.Errorf("row %s: %w", row.name, err)
		}
	}
	return nil
}

// progress shows what is measured as it is, if asked to.
func (b *bench) progress(format string, args ...any) {
	if b.verbose {
		fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
}

// unlimited are preauth's settings without its own limits of calls, which are WeChat's quotas and not
// its speed, and without spares, which the other programs do not make.
var unlimited = []string{"PREAUTH_CALLS_PER_SECOND=100000", "PREAUTH_CALLS_PER_DAY=100000000", "PREAUTH_SPARES=0"}

// contender is one of the programs that are compared.
type contender struct {
	name  string
	start func(ctx context.Context, r *rig) (*program, error)
}

func yardstick(name string, args ...string) contender {
	return contender{strings.Join(append([]string{name}, args...), " "), func(ctx context.Context, r *rig) (*program, error) {
		return r.startYardstick(ctx, name, args...)
	}}
}

func preauthWith(variables ...string) contender {
	return contender{"preauth", func(ctx context.Context, r *rig) (*program, error) { return r.startPreauth(ctx, variables...) }}
}

// start starts a contender. With -profile the service takes preauth's place, and what it does with the
// processor is written to a file.
func (b *bench) start(ctx context.Context, c contender) (*program, error) {
	if b.profile == "" || c.name != "preauth" {
		return c.start(ctx, b.rig)
	}
	p, err := b.startYardstick(ctx, "traced", "-steps=false")
	if err != nil {
		return nil, err
	}
	go func() {
		profile, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", p.admin, int(b.length.Seconds())))
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profile, b.row+".pprof"), []byte(profile), 0o600)
		}
		if err != nil {
			b.progress("no profile: %v", err)
		}
	}()
	return p, nil
}

// with runs f while a program works that has an empty token stream.
func (b *bench) with(ctx context.Context, c contender, f func(*program) error) (err error) {
	if err := b.recreateTokens(ctx); err != nil {
		return err
	}
	p, err := b.start(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		if p.admin != "" {
			if parts, err := p.inside(ctx); err == nil {
				b.progress("%s: %v", b.row, parts)
			}
		}
		if stopErr := p.stop(); stopErr != nil {
			err = errors.Join(err, stopErr)
		}
		if warnings := p.warnings(); len(warnings) > 0 {
			b.note("%s: %s logged %d warnings", b.row, c.name, len(warnings))
			b.progress("%s, such as %s", c.name, warnings[0])
		}
		_, emptyErr := b.db.ExecContext(ctx, "DELETE FROM outbox")
		err = errors.Join(err, emptyErr)
	}()
	return f(p)
}

func measureEvent(ctx context.Context, b *bench) error {
	const components = 100
	n := b.loneEvents()
	if err := b.seed(ctx, components); err != nil {
		return err
	}
	contenders := []contender{yardstick("floor"), yardstick("watermill"), preauthWith(unlimited...)}
	medians, tails := make([][]float64, 3), make([][]float64, 3)
	for round := range b.rounds {
		for i, c := range contenders {
			err := b.with(ctx, c, func(p *program) error {
				const rest = 5 * time.Millisecond
				if _, err := b.lone(ctx, n/3, components, rest); err != nil { // warm-up
					return err
				}
				before := b.usage(p)
				took, err := b.lone(ctx, n, components, rest)
				if err != nil {
					return err
				}
				ms := lengths(took)
				medians[i], tails[i] = append(medians[i], median(ms)), append(tails[i], quantile(ms, 0.99))
				b.progress("event %d: %s: median %.2f ms, p99 %.2f ms; %s", round, c.name, median(ms), quantile(ms, 0.99),
					b.usage(p).since(before).perEvent(n))
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	given := func(of [][]float64) string {
		return fmt.Sprintf("floor %.2f ms, watermill %.2f ms, preauth %.2f ms", median(of[0]), median(of[1]), median(of[2]))
	}
	b.add(figure{row: "event", what: "median / floor's", bound: 1, atMost: true, unit: "×", values: ratios(medians[2], medians[0]), given: given(medians)})
	b.add(figure{row: "event", what: "p99 / floor's", bound: 1.5, atMost: true, unit: "×", values: ratios(tails[2], tails[0]), given: given(tails)})
	b.add(figure{row: "event", what: "median / watermill's", bound: 0.35, atMost: true, unit: "×", values: ratios(medians[2], medians[1])})
	return nil
}

// loneEvents is how many events are measured one by one.
func (b *bench) loneEvents() int { return max(20, int(b.length/(15*time.Millisecond))) }

// underWay is how many events are at most published and not yet announced where rates are measured: more
// than any of the programs works on at once.
const underWay = 1000

// warmup is how long a program works before it is measured.
func (b *bench) warmup() time.Duration { return b.length / 2 }

func measureThroughput(ctx context.Context, b *bench) error {
	const components = 10_000
	if err := b.seed(ctx, 0); err != nil {
		return err
	}
	limit, err := b.streamLimit(ctx, components)
	if err != nil {
		return err
	}
	b.note("throughput: the stream of announcements stores %.0f/s, published without waiting for one another", limit)
	if err := b.seed(ctx, components); err != nil {
		return err
	}
	others := []contender{
		yardstick("floor", "-workers", "1"), yardstick("floor", "-workers", "16"), yardstick("floor", "-workers", "64"),
		yardstick("watermill", "-workers", "16"), yardstick("watermill", "-workers", "64"),
	}
	rates := map[string][]float64{}
	var values []float64
	for round := range b.rounds {
		best := 0.0
		for _, c := range append(others, preauthWith(unlimited...), yardstick("batched")) {
			err := b.with(ctx, c, func(p *program) error {
				got, err := b.sustained(ctx, p, components, underWay, b.warmup(), b.length)
				if err != nil {
					return err
				}
				b.progress("throughput %d: %s: %.0f/s, %d lost; %s", round, c.name, got.perSecond, got.lost, got.used.perEvent(got.n))
				if got.lost > 0 {
					b.note("%s never announced %d events in round %d of the row throughput", c.name, got.lost, round+1)
				}
				rates[c.name] = append(rates[c.name], got.perSecond)
				b.shares(round, c, got)
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			switch last := rates[c.name][round]; c.name {
			case "preauth":
				values = append(values, last/best)
			case "batched": // what the machine permits is no alternative
			default:
				best = max(best, last)
			}
		}
	}
	var given []string
	for _, c := range append(others, contender{name: "preauth"}, contender{name: "batched"}) {
		given = append(given, fmt.Sprintf("%s %.0f/s", c.name, median(rates[c.name])))
	}
	b.add(figure{
		row: "throughput", what: "events/s / best of floor and watermill", bound: 4, unit: "×", values: values,
		given: fmt.Sprintf("%s, each with at most %d connections", strings.Join(given, ", "), connections),
	})
	return nil
}

// streamLimit returns how many announcements a second the stream stores.
func (b *bench) streamLimit(ctx context.Context, components int) (float64, error) {
	now := time.Now()
	n, begin := 0, time.Now()
	for ; time.Since(begin) < b.length; n++ {
		u := preauth.Update{
			AppID: appID(n % components), PreAuthCode: newCode(), IssuedAt: now, ExpiresAt: now.Add(time.Hour),
			Revision: uint64(n/components + 1), Cause: preauth.CauseToken,
		}
		msg := &nats.Msg{Subject: updatedSubject + "." + u.AppID, Header: u.Header("/bench"), Data: u.Encode()}
		if _, err := b.js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	select {
	case <-b.js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

// shares notes in the last round who has used the processor.
func (b *bench) shares(round int, c contender, r rate) {
	if round == b.rounds-1 {
		b.note("%s, %s: %s", b.row, c.name, r.used.perEvent(r.n))
	}
}

func measureSlow(ctx context.Context, b *bench) error {
	const components, calls, delay = 10_000, 64, 100 * time.Millisecond
	if err := b.seed(ctx, components); err != nil {
		return err
	}
	if err := b.delay(ctx, delay); err != nil {
		return err
	}
	allowed := calls / delay.Seconds()
	var values []float64
	for round := range b.rounds {
		err := b.with(ctx, preauthWith(unlimited...), func(p *program) error {
			got, err := b.sustained(ctx, p, components, underWay, b.warmup(), b.length)
			if err != nil {
				return err
			}
			b.progress("slow %d: %.0f/s of %.0f/s; %s", round, got.perSecond, allowed, got.used.perEvent(got.n))
			values = append(values, got.perSecond/allowed)
			return nil
		})
		if err != nil {
			return err
		}
	}
	b.add(figure{
		row: "slow", what: "events/s / what the calls at once permit", bound: 0.95, unit: "×", values: values,
		given: fmt.Sprintf("%.0f/s of %.0f/s: %d calls at once of %v each", median(values)*allowed, allowed, calls, delay),
	})
	return b.delay(ctx, 0)
}

func measureLookup(ctx context.Context, b *bench) error {
	const components = 100
	if err := b.seed(ctx, components); err != nil {
		return err
	}
	subjects := make([]string, components)
	for i := range subjects {
		subjects[i] = lookupSubject + "." + appID(i)
	}
	var size int
	err := b.with(ctx, preauthWith(unlimited...), func(*program) error {
		reply, err := b.nc.RequestWithContext(ctx, subjects[0], nil)
		if err == nil {
			size = len(reply.Data)
		}
		return err
	})
	if err != nil {
		return err
	}
	of := fmt.Sprint(size)
	slow := yardstick("sdk")
	slow.name = "sdk, WeChat at 50 ms"
	contenders := []contender{
		yardstick("echo", "-size", of), yardstick("micro", "-size", of), preauthWith(unlimited...), yardstick("sdk"), slow,
	}
	rates, tails, calls := make([][]float64, 5), make([][]float64, 5), make([][]float64, 5)
	for round := range b.rounds {
		for i, c := range contenders {
			if c.name == slow.name {
				if err := b.delay(ctx, 50*time.Millisecond); err != nil {
					return err
				}
			}
			err := b.with(ctx, c, func(p *program) error {
				before, err := b.calls(ctx)
				if err != nil {
					return err
				}
				got, err := b.requests(ctx, p, subjects, inFlight, b.warmup(), b.length)
				if err != nil {
					return err
				}
				after, err := b.calls(ctx)
				if err != nil {
					return err
				}
				ms := milliseconds(got.latencies)
				b.progress("lookup %d: %s: %.0f/s, p99 %.2f ms, %d calls of WeChat; %s", round, c.name, got.perSecond,
					quantile(ms, 0.99), after-before, got.used.perEvent(got.n))
				b.shares(round, c, got)
				rates[i], tails[i] = append(rates[i], got.perSecond), append(tails[i], quantile(ms, 0.99))
				// At most one call too many is counted for preauth, which makes none.
				calls[i] = append(calls[i], float64(max(1, after-before))/float64(got.n))
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		if err := b.delay(ctx, 0); err != nil {
			return err
		}
	}
	var given []string
	for i, c := range contenders {
		given = append(given, fmt.Sprintf("%s %.0f/s and p99 %.2f ms", c.name, median(rates[i]), median(tails[i])))
	}
	b.add(figure{
		row: "lookup", what: "look-ups/s / micro echo's", bound: 0.95, unit: "×", values: ratios(rates[2], rates[1]),
		given: fmt.Sprintf("%s; %d requests at once, replies of %d bytes", strings.Join(given, ", "), inFlight, size),
	})
	b.add(figure{row: "lookup", what: "p99 / micro echo's", bound: 1.2, atMost: true, unit: "×", values: ratios(tails[2], tails[1])})
	b.add(figure{row: "lookup", what: "sdk's calls of WeChat per look-up / preauth's", bound: 1000, unit: "×", values: ratios(calls[3], calls[2])})
	return nil
}

func measureClaim(ctx context.Context, b *bench) error {
	const atOnce = 128
	// More than can be claimed in the time.
	spares := int((b.warmup() + b.length).Seconds() * 40_000)
	crowds := []int{100, 1}
	single := []float64{}
	rates, values := map[int][]float64{}, map[int][]float64{}
	for round := range b.rounds {
		limit, err := b.singleRows(ctx)
		if err != nil {
			return err
		}
		single = append(single, limit)
		b.progress("claim %d: single rows: %.0f/s", round, limit)
		for _, components := range crowds {
			if err := b.seed(ctx, components); err != nil {
				return err
			}
			if err := b.addSpares(ctx, components, spares); err != nil {
				return err
			}
			subjects := make([]string, components)
			for i := range subjects {
				subjects[i] = claimSubject + "." + appID(i)
			}
			err := b.with(ctx, preauthWith(unlimited...), func(p *program) error {
				got, err := b.requests(ctx, p, subjects, atOnce, b.warmup(), b.length)
				if err != nil {
					return err
				}
				b.progress("claim %d: %d components: %.0f/s, p99 %.1f ms; %s", round, components, got.perSecond,
					quantile(milliseconds(got.latencies), 0.99), got.used.perEvent(got.n))
				b.shares(round, contender{name: fmt.Sprintf("claims of %d components", components)}, got)
				rates[components] = append(rates[components], got.perSecond)
				values[components] = append(values[components], got.perSecond/limit)
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	for _, components := range crowds {
		b.add(figure{
			row: "claim", what: fmt.Sprintf("claims/s of %d components / single-row transactions/s", components), bound: 1, unit: "×",
			values: values[components], given: fmt.Sprintf("%.0f/s and %.0f/s, both with %d connections, %d claims at once",
				median(rates[components]), median(single), connections, atOnce),
		})
	}
	return nil
}

// singleRows returns how many single-row transactions a second the database commits.
func (b *bench) singleRows(ctx context.Context) (float64, error) {
	p, err := b.startYardstick(ctx, "rows", "-for", b.length.String())
	if err != nil {
		return 0, err
	}
	text, err := p.await(ctx, "rate ")
	if err = errors.Join(err, p.stop()); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(text, 64)
}

// addSpares adds n spares, to all components alike.
func (b *bench) addSpares(ctx context.Context, components, n int) error {
	now := time.Now()
	var spares []repo.Spare
	for i := range n {
		spares = append(spares, repo.Spare{
			AppID: appID(i % components), Fingerprint: repo.FingerprintOf(preauth.NewSecret("any")),
			Code: repo.Code{PreAuthCode: newCode(), IssuedAt: now, ExpiresAt: now.Add(12 * time.Hour).Add(time.Duration(i) * time.Microsecond)},
		})
	}
	return b.repo.AddSpares(ctx, spares)
}

func measureBacklog(ctx context.Context, b *bench) error {
	const components, events, goal = 100, 10_000, 20_000
	if err := b.seed(ctx, components); err != nil {
		return err
	}
	var rates, limits []float64
	for round := range b.rounds {
		for _, c := range []contender{yardstick("drain"), preauthWith(unlimited...)} {
			before, err := b.calls(ctx)
			if err != nil {
				return err
			}
			took, err := b.drain(ctx, c, events, components)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			after, err := b.calls(ctx)
			if err != nil {
				return err
			}
			perSecond := events / took.Seconds()
			b.progress("backlog %d: %s: %.0f/s, %d calls of WeChat", round, c.name, perSecond, after-before)
			if c.name == "preauth" {
				rates = append(rates, perSecond)
			} else {
				limits = append(limits, perSecond)
			}
		}
	}
	b.add(figure{
		row: "backlog", what: fmt.Sprintf("of %d events for %d components", events, components), bound: goal, unit: "events/s", values: rates,
		given: fmt.Sprintf("a program that only takes and acknowledges them: %.0f/s", median(limits)),
	})
	return nil
}

// drain starts a program that finds n events, and returns how long it took from the first acknowledgement to
// the last.
func (b *bench) drain(ctx context.Context, c contender, n, components int) (time.Duration, error) {
	if err := b.recreateTokens(ctx); err != nil {
		return 0, err
	}
	events := newTokens()
	for i := range n {
		if _, err := b.js.PublishAsync(tokenSubject, events.next(i%components), jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	select {
	case <-b.js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	// The server takes acknowledgements from a subject, from which others may read them too.
	var begin time.Time
	left, drained := n, make(chan time.Duration, 1)
	acks, err := b.nc.Subscribe("$JS.ACK.>", func(msg *nats.Msg) {
		if string(msg.Data) != "+ACK" { // but a sign of life
			return
		}
		if left == n {
			begin = time.Now()
		}
		if left--; left == 0 {
			drained <- time.Since(begin)
		}
	})
	if err != nil {
		return 0, err
	}
	defer func() { _ = acks.Unsubscribe() }()
	if err := errors.Join(acks.SetPendingLimits(-1, -1), b.nc.Flush()); err != nil {
		return 0, err
	}
	p, err := b.start(ctx, c)
	if err != nil {
		return 0, err
	}
	select {
	case took := <-drained:
		return took, p.stop()
	case <-time.After(2 * time.Minute):
		err = errors.New("some events were not acknowledged within 2 min")
	case <-ctx.Done():
		err = ctx.Err()
	}
	return 0, errors.Join(err, p.stop())
}
