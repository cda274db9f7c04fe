package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// lone publishes events at a place one at a time, each when the one before is announced.
type lone struct {
	*place
	publisher *nats.Conn
	events    *tokens
	arrived   chan arrival
	sub       *nats.Subscription
}

type arrival struct {
	subject string
	at      time.Time
}

// span is a time with its begin and end.
type span struct{ begin, end time.Time }

func (p *place) openLone() (_ *lone, err error) {
	l := &lone{place: p, events: newTokens(), arrived: make(chan arrival, 64)}
	if l.publisher, err = nats.Connect(p.natsURL); err != nil {
		return nil, err
	}
	l.sub, err = p.nc.Subscribe(updatedSubject, func(msg *nats.Msg) {
		// The server's copy tells where the stream has it.
		l.arrived <- arrival{msg.Header.Get("Nats-Subject"), time.Now()}
	})
	if err != nil {
		l.publisher.Close()
		return nil, err
	}
	return l, p.nc.Flush()
}

func (l *lone) close() {
	_ = l.sub.Unsubscribe()
	l.publisher.Close()
}

// event publishes an event of component i. It returns when that was, and when the announcement
// arrived.
func (l *lone) event(ctx context.Context, f form, i int) (span, error) {
	for len(l.arrived) > 0 { // delivered twice
		<-l.arrived
	}
	body, appid := l.events.next(i), appID(i)
	begin := time.Now()
	if err := l.publisher.Publish(f.subject(appid), body); err != nil {
		return span{}, err
	}
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for {
		select {
		case a := <-l.arrived:
			if strings.HasSuffix(a.subject, "."+appid) {
				return span{begin, a.at}, nil
			}
		case <-late.C:
			return span{}, errors.New("an event was not announced within 30 s")
		case <-ctx.Done():
			return span{}, ctx.Err()
		}
	}
}

// sustained keeps so many events under way that a program is never without work, one for each
// component in turn. It returns how many announcements arrived while it measured. It does not
// measure before warmup is over, and at the end it waits for all that is under way.
func (p *program) sustained(ctx context.Context, f form, components, underWay int, warmup, length time.Duration) (rate, error) {
	slots := make(chan struct{}, underWay)
	var mu sync.Mutex
	arrived := 0
	sub, err := p.nc.Subscribe(updatedSubject, func(*nats.Msg) {
		mu.Lock()
		arrived++
		mu.Unlock()
		select {
		case <-slots:
		default: // announced twice
		}
	})
	if err != nil {
		return rate{}, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := errors.Join(sub.SetPendingLimits(-1, -1), p.nc.Flush()); err != nil {
		return rate{}, err
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return arrived
	}

	stop := make(chan struct{})
	stopped := make(chan error, 1)
	go func() { stopped <- p.feed(ctx, f, components, slots, stop) }()
	if !sleep(ctx, warmup) {
		return rate{}, ctx.Err()
	}
	before, from := p.usage(p), count()
	if !sleep(ctx, length) {
		return rate{}, ctx.Err()
	}
	n := count() - from
	used := p.usage(p).since(before)
	close(stop)
	if err := <-stopped; err != nil {
		return rate{}, err
	}
	// What has not come by then never will.
	const patience = 10 * time.Second
	for last, at := count(), time.Now(); len(slots) > 0 && time.Since(at) < patience; {
		if now := count(); now > last {
			last, at = now, time.Now()
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return rate{}, ctx.Err()
		}
	}
	return rate{n: n, perSecond: float64(n) / length.Seconds(), used: used, lost: len(slots)}, nil
}

// feed publishes an event for each free slot, of the components in turn, until stop.
func (p *place) feed(ctx context.Context, f form, components int, slots chan<- struct{}, stop <-chan struct{}) error {
	events := newTokens()
	published := 0
	for {
		select {
		case slots <- struct{}{}:
		case <-stop:
			return nil
		}
		due := []*nats.Msg{}
		for more := true; more; {
			component := published % components
			due = append(due, &nats.Msg{Subject: f.subject(appID(component)), Header: nats.Header{}, Data: events.next(component)})
			published++
			select {
			case slots <- struct{}{}:
			default:
				more = false
			}
		}
		if err := p.publish(ctx, due); err != nil {
			return err
		}
	}
}

// smallestBatch is how many events have to be due to be published as an atomic batch, and
// largestBatch how many go into one. The stream syncs a batch once, and would otherwise be slower
// than the programs.
const smallestBatch, largestBatch = 50, 250

// publish publishes messages: as a batch and waiting for it, or, if they are few, one by one and
// without waiting.
func (p *place) publish(ctx context.Context, msgs []*nats.Msg) error {
	for batch := range slices.Chunk(msgs, largestBatch) {
		if len(batch) >= smallestBatch {
			if _, err := jetstreamext.PublishMsgBatch(ctx, p.js, batch, jetstreamext.BatchFlowControl{}); err != nil {
				return err
			}
			continue
		}
		for _, msg := range batch {
			if err := p.nc.PublishMsg(msg); err != nil {
				return err
			}
		}
	}
	return nil
}

// rate is how much was done in a time.
type rate struct {
	n         int
	perSecond float64
	used      spent
	latencies []time.Duration
	lost      int // events that were never announced
	failed    int
	failure   string
}

// p99 is that of the latencies, in milliseconds.
func (r rate) p99() float64 { return quantile(milliseconds(r.latencies), 0.99) }

// requests keeps so many requests under way, subject by subject in turn. It returns how many were
// answered while it measured, and how long they took.
func (p *program) requests(ctx context.Context, subjects []string, underWay int, warmup, length time.Duration) (rate, error) {
	requester, err := nats.Connect(p.natsURL)
	if err != nil {
		return rate{}, err
	}
	defer requester.Close()
	inbox := nats.NewInbox()
	replies := make([]string, underWay)
	sent := make([]time.Time, underWay)
	var (
		mu        sync.Mutex
		measuring bool
		stopped   bool
		result    rate
		next      int
		left      = underWay
		idle      = make(chan struct{})
	)
	ask := func(slot int) { // with mu held
		sent[slot] = time.Now()
		next++
		_ = requester.PublishRequest(subjects[next%len(subjects)], replies[slot], nil)
	}
	_, err = requester.Subscribe(inbox+".*", func(msg *nats.Msg) {
		slot, err := strconv.Atoi(msg.Subject[len(inbox)+1:])
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if measuring {
			result.n++
			result.latencies = append(result.latencies, time.Since(sent[slot]))
		}
		if code := msg.Header.Get(micro.ErrorCodeHeader); code != "" || msg.Header.Get("Status") != "" {
			result.failed++
			result.failure = code + " " + msg.Header.Get(micro.ErrorHeader) + msg.Header.Get("Status")
		}
		if stopped {
			if left--; left == 0 {
				close(idle)
			}
			return
		}
		ask(slot)
	})
	if err != nil {
		return rate{}, err
	}
	if err := requester.Flush(); err != nil {
		return rate{}, err
	}
	mu.Lock()
	for slot := range underWay {
		replies[slot] = inbox + "." + strconv.Itoa(slot)
		ask(slot)
	}
	mu.Unlock()
	set := func(measure, stop bool) {
		mu.Lock()
		defer mu.Unlock()
		measuring, stopped = measure, stop
	}
	if !sleep(ctx, warmup) {
		return rate{}, ctx.Err()
	}
	before := p.usage(p)
	set(true, false)
	ok := sleep(ctx, length)
	set(false, true)
	used := p.usage(p).since(before)
	if !ok {
		return rate{}, ctx.Err()
	}
	select {
	case <-idle:
	case <-time.After(10 * time.Second):
		return rate{}, errors.New("some requests were never answered")
	}
	mu.Lock()
	defer mu.Unlock()
	result.used, result.perSecond = used, float64(result.n)/length.Seconds()
	if result.failed > 0 {
		return result, fmt.Errorf("%d requests failed, the last with %s", result.failed, result.failure)
	}
	return result, nil
}
