// Package workload uses the service as its clients do, all of them at once and not always well: token
// services that announce, repeat, reorder and garble tokens, visitors' programs that look up, claim and
// resolve, and a subscriber. What it does and sees goes into a history.
package workload

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/test/chaos/history"
)

// Issuer is who issues tokens: WeChat takes those that it was told of.
type Issuer interface {
	// SetToken tells of a component's new token.
	SetToken(appid string, token preauth.Secret)
}

// Options say what to do.
type Options struct {
	// Seed decides on every choice, though not on the time at which it comes.
	Seed uint64
	// Components is how many components there are.
	Components int
	// Conn reaches NATS.
	Conn *nats.Conn
	// Issuer is told of the tokens.
	Issuer Issuer
	// Recorder takes the history.
	Recorder *history.Recorder
}

// Workload is all the clients.
type Workload struct {
	opts       Options
	client     *preauth.Client
	js         jetstream.JetStream
	components []*component
	subs       []*nats.Subscription

	mu     sync.Mutex
	claims []claim
}

// component is what the clients share about a component.
type component struct {
	appid string
	kind  kind

	mu       sync.Mutex
	tokens   []token // as announced, the newest last
	revision uint64  // the highest seen
}

// kind is how the tokens of a component come.
type kind int

const (
	busy  kind = iota // often
	calm              // so seldom that codes are renewed
	brief             // with lives so short that they die
	kinds
)

type token struct {
	secret  preauth.Secret
	refused bool
}

// clients that look up and that claim at once.
const lookers, claimers = 4, 3

// requestTimeout is the clients' own: longer than the service's.
const requestTimeout = 5 * time.Second

// New returns a workload that does nothing yet.
func New(opts Options) (*Workload, error) {
	w := &Workload{opts: opts}
	var err error
	if w.client, err = preauth.NewClient(opts.Conn); err != nil {
		return nil, err
	}
	if w.js, err = jetstream.New(opts.Conn); err != nil {
		return nil, err
	}
	for i := range opts.Components {
		w.components = append(w.components, &component{appid: fmt.Sprintf("wxchaos%03d", i+1), kind: kind(i) % kinds})
	}
	return w, nil
}

// Subscribe begins to take down what is announced, until [Workload.Unsubscribe].
func (w *Workload) Subscribe() error {
	updates, err := w.opts.Conn.Subscribe("preauth.updated", w.update)
	if err != nil {
		return err
	}
	failures, err := w.opts.Conn.Subscribe("preauth.failed", w.failure)
	w.subs = []*nats.Subscription{updates, failures}
	return err
}

// Unsubscribe ends Subscribe.
func (w *Workload) Unsubscribe() {
	for _, sub := range w.subs {
		_ = sub.Unsubscribe()
	}
}

// Run uses the service until ctx ends.
func (w *Workload) Run(ctx context.Context) {
	var clients sync.WaitGroup
	for _, c := range w.components {
		clients.Go(func() { w.announce(ctx, c, w.chance("announce "+c.appid)) })
	}
	for i := range lookers {
		name := fmt.Sprintf("look-up %d", i+1)
		clients.Go(func() { w.lookUp(ctx, name, w.chance(name)) })
	}
	for i := range claimers {
		name := fmt.Sprintf("claim %d", i+1)
		clients.Go(func() { w.claimCodes(ctx, name, w.chance(name)) })
	}
	clients.Wait()
}

// AppIDs returns the components.
func (w *Workload) AppIDs() []string {
	var appids []string
	for _, c := range w.components {
		appids = append(appids, c.appid)
	}
	return appids
}

// component returns the component with an appid, or nil.
func (w *Workload) component(appid string) *component {
	i := slices.IndexFunc(w.components, func(c *component) bool { return c.appid == appid })
	if i < 0 {
		return nil
	}
	return w.components[i]
}

// chance returns the choices of one client.
func (w *Workload) chance(client string) *rand.Rand {
	sum := sha256.Sum256([]byte(client))
	return rand.New(rand.NewPCG(w.opts.Seed, uint64(sum[0])<<16|uint64(sum[1])<<8|uint64(sum[2])))
}

// TokenMark begins every token, so that a leak is found by it.
const TokenMark = "61_chaos_"

// newToken returns a token that nobody has seen.
func newToken(rng *rand.Rand) preauth.Secret {
	random := make([]byte, 60)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	return preauth.NewSecret(TokenMark + base64.RawURLEncoding.EncodeToString(random))
}

// statusOf returns what a request came to.
func statusOf(err error) (int, preauth.Class) {
	if err == nil {
		return history.OK, ""
	}
	if refused, ok := errors.AsType[*preauth.Error](err); ok {
		return refused.Code, refused.Class
	}
	if errors.Is(err, preauth.ErrInvalid) {
		return history.Unreadable, ""
	}
	return history.NoAnswer, ""
}

// about waits for a time around d, and reports whether ctx goes on.
func about(ctx context.Context, rng *rand.Rand, d time.Duration) bool {
	timer := time.NewTimer(time.Duration(rng.ExpFloat64() * float64(d)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
