package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
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
	rig, err := newRig(ctx, s.dir, s.against)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	b := &bench{rig: rig, report: &report{against: s.against}, settings: s}
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

// unlimited are preauth's settings without its own limits of calls, which are WeChat's quotas and
// not its speed, and without spares, which the other programs do not make.
var unlimited = []string{"PREAUTH_CALLS_PER_SECOND=100000", "PREAUTH_CALLS_PER_DAY=100000000", "PREAUTH_SPARES=0"}

// contender is one of the programs that are compared.
type contender struct {
	name  string
	start func(context.Context, *place) (*program, error)
}

func yardstick(name string, args ...string) contender {
	full := strings.Join(append([]string{name}, args...), " ")
	return contender{full, func(ctx context.Context, p *place) (*program, error) { return p.startYardstick(ctx, name, args...) }}
}

// services are the versions of preauth that are measured, with settings besides unlimited.
func (b *bench) services(variables ...string) []contender {
	var services []contender
	for i, v := range b.versions {
		services = append(services, contender{v.name, func(ctx context.Context, p *place) (*program, error) {
			if i == 0 && b.profile != "" {
				return b.startProfiled(ctx, p)
			}
			return p.startPreauth(ctx, v, append(unlimited, variables...)...)
		}})
	}
	return services
}

// startProfiled starts the service within this command, and writes what it does with the processor
// to a file.
func (b *bench) startProfiled(ctx context.Context, p *place) (*program, error) {
	started, err := p.startYardstick(ctx, "traced", "-steps=false")
	if err != nil {
		return nil, err
	}
	go func() {
		profile, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", started.admin, int(b.length.Seconds())))
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profile, b.row+".pprof"), []byte(profile), 0o600)
		}
		if err != nil {
			b.progress("no profile: %v", err)
		}
	}()
	return started, nil
}

// seed seeds the places of the contenders, alike.
func (b *bench) seed(ctx context.Context, components int, contenders ...contender) error {
	for _, c := range contenders {
		p, err := b.place(ctx, c.name)
		if err != nil {
			return err
		}
		if err := p.seed(ctx, components); err != nil {
			return err
		}
	}
	return nil
}

// with runs f while a contender works, which has an empty token stream.
func (b *bench) with(ctx context.Context, c contender, f func(*program) error) error {
	return b.together(ctx, []contender{c}, func(programs []*program) error { return f(programs[0]) })
}

// together runs f while all contenders work at the same time, each with an empty token stream.
func (b *bench) together(ctx context.Context, contenders []contender, f func([]*program) error) (err error) {
	var programs []*program
	defer func() {
		for i, p := range programs {
			err = errors.Join(err, b.stop(ctx, contenders[i].name, p))
		}
	}()
	for _, c := range contenders {
		p, err := b.place(ctx, c.name)
		if err != nil {
			return err
		}
		if err := p.recreateTokens(ctx); err != nil {
			return err
		}
		started, err := c.start(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		programs = append(programs, started)
	}
	return f(programs)
}

func (b *bench) stop(ctx context.Context, name string, p *program) error {
	if p.admin != "" {
		b.progress("%s, %s: %s", b.row, name, p.inside(ctx))
	}
	err := p.stop()
	if warnings := p.warnings(); len(warnings) > 0 {
		b.note("%s: %s logged %d warnings", b.row, name, len(warnings))
		b.progress("%s, such as %s", name, warnings[0])
	}
	_, emptyErr := p.db.ExecContext(context.WithoutCancel(ctx), "DELETE FROM outbox")
	return errors.Join(err, emptyErr)
}

// inTurn calls measure with each contender in each round, in an order that changes, and returns
// what it measured: by contender, then by round.
func (b *bench) inTurn(contenders []contender, measure func(round int, c contender) (float64, error)) ([][]float64, error) {
	values := make([][]float64, len(contenders))
	for round := range b.rounds {
		for _, i := range rand.Perm(len(contenders)) {
			value, err := measure(round, contenders[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			values[i] = append(values[i], value)
		}
	}
	return values, nil
}

// over divides the values of each of several contenders by those of another in the same round.
func over(contenders [][]float64, other []float64) [][]float64 {
	divided := make([][]float64, len(contenders))
	for i, values := range contenders {
		divided[i] = ratios(values, other)
	}
	return divided
}

// medians lists what was measured of several contenders.
func medians(contenders []contender, values [][]float64, format string) string {
	var parts []string
	for i, c := range contenders {
		parts = append(parts, c.name+" "+fmt.Sprintf(format, median(values[i])))
	}
	return strings.Join(parts, ", ")
}

func measureEvent(ctx context.Context, b *bench) error {
	const components, yardsticks = 100, 2
	contenders := append([]contender{yardstick("floor"), yardstick("floor", "-read")}, b.services()...)
	if err := b.seed(ctx, components, contenders...); err != nil {
		return err
	}
	typical, tails := make([][][]float64, len(forms)), make([][][]float64, len(forms))
	for f := range forms {
		typical[f], tails[f] = make([][]float64, len(contenders)), make([][]float64, len(contenders))
	}
	err := b.together(ctx, contenders, func(programs []*program) error {
		for round := range b.rounds {
			for f, form := range forms {
				took, err := loneEvents(ctx, programs, form, components, b.loneEvents())
				if err != nil {
					return err
				}
				for i := range contenders {
					typical[f][i] = append(typical[f][i], median(took[i]))
					tails[f][i] = append(tails[f][i], quantile(took[i], 0.99))
					b.progress("event %d: %s, %s: median %.2f ms, p99 %.2f ms", round, contenders[i].name, form.name,
						median(took[i]), quantile(took[i], 0.99))
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for f, form := range forms {
		b.add(figure{
			row: "event", what: "median / floor's, " + form.name, bound: 1.1, atMost: true, unit: "×", given: medians(contenders, typical[f], "%.2f ms"),
		}, over(typical[f][yardsticks:], typical[f][0])...)
		b.add(figure{
			row: "event", what: "p99 / floor's, " + form.name, bound: 1.5, atMost: true, unit: "×", given: medians(contenders, tails[f], "%.2f ms"),
		}, over(tails[f][yardsticks:], tails[f][0])...)
	}
	return nil
}

// loneEvents is how many events of each program are measured one by one in a round.
func (b *bench) loneEvents() int { return max(20, int(b.length/(15*time.Millisecond))) }

// restTime is how long the system rests after a lone event.
const restTime = 5 * time.Millisecond

// loneEvents publishes n events for each program, one at a time and for the programs in turn, and a
// third as many before to warm up. It returns how many milliseconds each took.
func loneEvents(ctx context.Context, programs []*program, f form, components, n int) ([][]float64, error) {
	spans, err := loneSpans(ctx, programs, f, components, n)
	if err != nil {
		return nil, err
	}
	took := make([][]float64, len(programs))
	for i := range spans {
		for _, s := range spans[i] {
			took[i] = append(took[i], float64(s.end.Sub(s.begin))/float64(time.Millisecond))
		}
	}
	return took, nil
}

func loneSpans(ctx context.Context, programs []*program, f form, components, n int) ([][]span, error) {
	lones := make([]*lone, len(programs))
	for i, p := range programs {
		l, err := p.openLone()
		if err != nil {
			return nil, err
		}
		defer l.close()
		lones[i] = l
	}
	spans := make([][]span, len(programs))
	for event := -n / 3; event < n; event++ {
		for _, i := range rand.Perm(len(programs)) {
			s, err := lones[i].event(ctx, f, (event+n)%components)
			if err != nil {
				return nil, err
			}
			if event >= 0 {
				spans[i] = append(spans[i], s)
			}
			if !sleep(ctx, restTime) {
				return nil, ctx.Err()
			}
		}
	}
	return spans, nil
}

// underWay is how many events are at most published and not yet announced where rates are measured:
// more than any of the programs works on at once.
const underWay = 1000

// warmup is how long a program works before it is measured.
func (b *bench) warmup() time.Duration { return b.length / 2 }

func measureThroughput(ctx context.Context, b *bench) error {
	const components, yardsticks = 10_000, 4
	for _, form := range forms {
		subject := form.subject("*")
		contenders := append([]contender{
			yardstick("floor", "-workers", "16"), yardstick("floor", "-workers", "64"),
			yardstick("watermill", "-workers", "16", "-subject", subject), yardstick("watermill", "-workers", "64", "-subject", subject),
		}, b.services()...)
		if err := b.seed(ctx, components, contenders...); err != nil {
			return err
		}
		cpus := map[string][]float64{}
		rates, err := b.inTurn(contenders, func(round int, c contender) (perSecond float64, err error) {
			err = b.with(ctx, c, func(p *program) error {
				got, err := p.sustained(ctx, form, components, underWay, b.warmup(), b.length)
				b.progress("throughput %d: %s, %s: %.0f/s, %d lost; %s", round, c.name, form.name, got.perSecond, got.lost, got.used.perEvent(got.n))
				if got.lost > 0 {
					b.note("%s never announced %d events in round %d of the row throughput", c.name, got.lost, round+1)
				}
				b.shares(round, c.name, got)
				perSecond, cpus[c.name] = got.perSecond, append(cpus[c.name], each(got.used.program, got.n))
				return err
			})
			return perSecond, err
		})
		if err != nil {
			return err
		}
		best := make([]float64, b.rounds)
		for _, others := range rates[:yardsticks] {
			for round, perSecond := range others {
				best[round] = max(best[round], perSecond)
			}
		}
		b.add(figure{
			row: "throughput", what: "events/s / best of floor and watermill, " + form.name, bound: 2.5, unit: "×",
			given: fmt.Sprintf("%s, each with at most %d connections", medians(contenders, rates, "%.0f/s"), connections),
		}, over(rates[yardsticks:], best)...)
		var own [][]float64
		for _, service := range contenders[yardsticks:] {
			own = append(own, cpus[service.name])
		}
		b.add(figure{row: "throughput", what: "own processor time for an event, " + form.name, bound: 150, atMost: true, unit: "µs"}, own...)
	}
	limit, err := b.streamLimit(ctx, components)
	b.note("throughput: the stream of announcements stores %.0f/s, published without waiting for one another", limit)
	return err
}

// streamLimit returns how many announcements a second a stream stores.
func (b *bench) streamLimit(ctx context.Context, components int) (float64, error) {
	p, err := b.place(ctx, b.versions[0].name)
	if err != nil {
		return 0, err
	}
	if err := p.seed(ctx, 0); err != nil {
		return 0, err
	}
	now := time.Now()
	n, begin := 0, time.Now()
	for ; time.Since(begin) < b.length; n++ {
		u := preauth.Update{
			AppID: appID(n % components), PreAuthCode: newCode(), IssuedAt: now, ExpiresAt: now.Add(time.Hour),
			Revision: uint64(n/components + 1), Cause: preauth.CauseToken,
		}
		msg := &nats.Msg{Subject: updatedSubject + "." + u.AppID, Header: u.Header("/bench"), Data: u.Encode()}
		if _, err := p.js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	err = p.published(ctx)
	return float64(n) / time.Since(begin).Seconds(), err
}

// shares notes in the last round who used the processor.
func (b *bench) shares(round int, what string, r rate) {
	if round == b.rounds-1 {
		b.note("%s, %s: %s", b.row, what, r.used.perEvent(r.n))
	}
}

func measureSlow(ctx context.Context, b *bench) error {
	const components, calls, delay = 10_000, 64, 100 * time.Millisecond
	services := b.services()
	if err := b.seed(ctx, components, services...); err != nil {
		return err
	}
	if err := b.delay(ctx, delay); err != nil {
		return err
	}
	allowed := calls / delay.Seconds()
	for _, form := range forms {
		shares, err := b.inTurn(services, func(round int, c contender) (share float64, err error) {
			err = b.with(ctx, c, func(p *program) error {
				got, err := p.sustained(ctx, form, components, underWay, b.warmup(), b.length)
				b.progress("slow %d: %s, %s: %.0f/s of %.0f/s; %s", round, c.name, form.name, got.perSecond, allowed, got.used.perEvent(got.n))
				share = got.perSecond / allowed
				return err
			})
			return share, err
		})
		if err != nil {
			return err
		}
		b.add(figure{
			row: "slow", what: "events/s / what the calls at once permit, " + form.name, bound: 0.95, unit: "×",
			given: fmt.Sprintf("%.0f/s of %.0f/s: %d calls at once of %v each", median(shares[0])*allowed, allowed, calls, delay),
		}, shares...)
	}
	return b.delay(ctx, 0)
}

// fewRequests and manyRequests are how many look-ups are under way at once.
const fewRequests, manyRequests = 16, 64

func measureLookup(ctx context.Context, b *bench) error {
	const components, yardsticks = 100, 3
	services := b.services()
	if err := b.seed(ctx, components, services...); err != nil {
		return err
	}
	subjects := subjectsOf(lookupSubject, components)
	var size int
	err := b.with(ctx, services[0], func(p *program) error {
		reply, err := p.nc.RequestWithContext(ctx, subjects[0], nil)
		if err == nil {
			size = len(reply.Data)
		}
		return err
	})
	if err != nil {
		return err
	}
	slow := yardstick("sdk")
	slow.name = "sdk with WeChat at 50 ms"
	contenders := append([]contender{yardstick("micro", "-size", fmt.Sprint(size)), yardstick("sdk"), slow}, services...)
	return b.together(ctx, contenders, func(programs []*program) error {
		of := map[string]int{}
		for i, c := range contenders {
			of[c.name] = i
		}
		for _, atOnce := range []int{fewRequests, manyRequests} {
			tails, calls := make([][]float64, len(contenders)), make([][]float64, len(contenders))
			rates, err := b.inTurn(contenders, func(round int, c contender) (float64, error) {
				i := of[c.name]
				got, called, err := b.lookUps(ctx, programs[i], c.name == slow.name, subjects, atOnce)
				b.progress("lookup %d: %s, %d at once: %.0f/s, p99 %.2f ms, %d calls of WeChat; %s", round, c.name, atOnce, got.perSecond,
					got.p99(), called, got.used.perEvent(got.n))
				b.shares(round, fmt.Sprintf("%s, %d at once", c.name, atOnce), got)
				// The services make no call. One is counted, so that nothing is divided by 0.
				tails[i], calls[i] = append(tails[i], got.p99()), append(calls[i], float64(max(1, called))/float64(max(1, got.n)))
				return got.perSecond, err
			})
			if err != nil {
				return err
			}
			at := fmt.Sprintf(", %d at once", atOnce)
			b.add(figure{
				row: "lookup", what: "look-ups/s / micro's" + at, bound: 0.95, unit: "×",
				given: fmt.Sprintf("%s; replies of %d bytes", medians(contenders, rates, "%.0f/s"), size),
			}, over(rates[yardsticks:], rates[0])...)
			b.add(figure{
				row: "lookup", what: "p99 / micro's" + at, bound: 1.2, atMost: true, unit: "×", given: medians(contenders, tails, "%.2f ms"),
			}, over(tails[yardsticks:], tails[0])...)
			if atOnce == manyRequests {
				b.add(figure{row: "lookup", what: "sdk's calls of WeChat per look-up / preauth's", bound: 1000, unit: "×"}, ratios(calls[1], calls[yardsticks]))
			}
		}
		return nil
	})
}

// lookUps measures look-ups, and how many calls of WeChat they cost. slow has WeChat take 50 ms for
// a call.
func (b *bench) lookUps(ctx context.Context, p *program, slow bool, subjects []string, atOnce int) (got rate, called int, err error) {
	if slow {
		if err := b.delay(ctx, 50*time.Millisecond); err != nil {
			return rate{}, 0, err
		}
		defer func() { err = errors.Join(err, b.delay(ctx, 0)) }()
	}
	before, err := b.calls(ctx)
	if err != nil {
		return rate{}, 0, err
	}
	if got, err = p.requests(ctx, subjects, atOnce, b.warmup()/2, b.length/2); err != nil {
		return got, 0, err
	}
	after, err := b.calls(ctx)
	return got, after - before, err
}

func measureClaim(ctx context.Context, b *bench) error {
	const atOnce = 128
	// More than can be claimed in the time.
	spares := int((b.warmup() + b.length).Seconds() * 20_000)
	contenders := append([]contender{yardstick("textbook")}, b.services()...)
	for _, components := range []int{100, 1} {
		subjects := subjectsOf(claimSubject, components)
		rates, err := b.inTurn(contenders, func(round int, c contender) (perSecond float64, err error) {
			if err := b.seed(ctx, components, c); err != nil {
				return 0, err
			}
			err = b.with(ctx, c, func(p *program) error {
				if err := p.addSpares(ctx, components, spares); err != nil {
					return err
				}
				got, err := p.requests(ctx, subjects, atOnce, b.warmup(), b.length)
				b.progress("claim %d: %s, %d components: %.0f/s, p99 %.1f ms; %s", round, c.name, components, got.perSecond,
					got.p99(), got.used.perEvent(got.n))
				b.shares(round, fmt.Sprintf("%s, components: %d", c.name, components), got)
				perSecond = got.perSecond
				return err
			})
			return perSecond, err
		})
		if err != nil {
			return err
		}
		what := "of 100 components"
		if components == 1 {
			what = "of one component"
		}
		b.add(figure{
			row: "claim", what: "claims/s / the textbook claim's, " + what, bound: 1, unit: "×",
			given: fmt.Sprintf("%s, each with %d connections, %d claims at once", medians(contenders, rates, "%.0f/s"), connections, atOnce),
		}, over(rates[1:], rates[0])...)
	}
	return nil
}

func measureBacklog(ctx context.Context, b *bench) error {
	const components, events, goal = 100, 10_000, 20_000
	contenders := append([]contender{yardstick("drain")}, b.services()...)
	if err := b.seed(ctx, components, contenders...); err != nil {
		return err
	}
	for _, form := range forms {
		rates, err := b.inTurn(contenders, func(round int, c contender) (float64, error) {
			before, err := b.calls(ctx)
			if err != nil {
				return 0, err
			}
			took, err := b.drain(ctx, c, form, events, components)
			if err != nil {
				return 0, err
			}
			after, err := b.calls(ctx)
			perSecond := events / took.Seconds()
			b.progress("backlog %d: %s, %s: %.0f/s, %d calls of WeChat", round, c.name, form.name, perSecond, after-before)
			return perSecond, err
		})
		if err != nil {
			return err
		}
		b.add(figure{
			row: "backlog", what: fmt.Sprintf("%d events of %d components, %s", events, components, form.name), bound: goal, unit: "events/s",
			given: "a program that only takes and acknowledges them: " + amount(median(rates[0]), "events/s"),
		}, rates[1:]...)
	}
	return nil
}

// drain starts a program that finds n events, and returns how long it took from the first
// acknowledgement to the last.
func (b *bench) drain(ctx context.Context, c contender, f form, n, components int) (time.Duration, error) {
	p, err := b.place(ctx, c.name)
	if err != nil {
		return 0, err
	}
	if err := p.recreateTokens(ctx); err != nil {
		return 0, err
	}
	if err := p.store(ctx, f, n, func(i int) int { return i % components }); err != nil {
		return 0, err
	}
	// The server takes acknowledgements on a subject that others may read too.
	var begin time.Time
	left, drained := n, make(chan time.Duration, 1)
	acks, err := p.nc.Subscribe("$JS.ACK.>", func(msg *nats.Msg) {
		if string(msg.Data) != "+ACK" { // a sign of life, say
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
	if err := errors.Join(acks.SetPendingLimits(-1, -1), p.nc.Flush()); err != nil {
		return 0, err
	}
	started, err := c.start(ctx, p)
	if err != nil {
		return 0, err
	}
	select {
	case took := <-drained:
		return took, b.stop(ctx, c.name, started)
	case <-time.After(startLimit):
		err = fmt.Errorf("some events were not acknowledged within %v", startLimit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return 0, errors.Join(err, b.stop(ctx, c.name, started))
}
