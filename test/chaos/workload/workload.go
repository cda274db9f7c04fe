// Package workload uses the service as its clients do, all at once and not always well: token
// services that announce, repeat, reorder and garble tokens, programs that look up, claim and
// resolve codes, a receiver of WeChat's pushes that reports, repeats and garbles authorizations, and
// a subscriber. It records what it does and sees.
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

// Issuer is the part of WeChat that knows tokens.
type Issuer interface {
	// SetToken makes a token valid for a component.
	SetToken(appid string, token preauth.Secret)
}

// Options configure a [Workload].
type Options struct {
	// Seed determines every choice, but not when it is made.
	Seed uint64
	// Components is how many components there are.
	Components int
	// Conn reaches NATS.
	Conn *nats.Conn
	// Issuer learns of each token.
	Issuer Issuer
	// Recorder records the history.
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

// kind says how the tokens of a component come.
type kind int

const (
	busy  kind = iota // often
	calm              // so rarely that codes are renewed
	brief             // with lives so short that they expire
	kinds
)

type token struct {
	secret  preauth.Secret
	refused bool
}

// lookers and claimers are how many clients look up and claim at once.
const lookers, claimers = 4, 3

// requestTimeout is the clients' own limit, longer than the service's.
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

// Subscribe records announcements until [Workload.Unsubscribe].
func (w *Workload) Subscribe() error {
	updates, err := w.opts.Conn.Subscribe("preauth.updated", w.update)
	if err != nil {
		return err
	}
	failures, err := w.opts.Conn.Subscribe("preauth.failed", w.failure)
	if err != nil {
		return err
	}
	authorized, err := w.opts.Conn.Subscribe("preauth.authorized", w.authorized)
	w.subs = []*nats.Subscription{updates, failures, authorized}
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

// chance returns the random numbers of one client.
func (w *Workload) chance(client string) *rand.Rand {
	sum := sha256.Sum256([]byte(client))
	return rand.New(rand.NewPCG(w.opts.Seed, uint64(sum[0])<<16|uint64(sum[1])<<8|uint64(sum[2])))
}

// TokenMark begins every token, so that a search finds leaks.
const TokenMark = "61_chaos_"

// newToken returns a token that was never used before.
func newToken(rng *rand.Rand) preauth.Secret {
	random := make([]byte, 60)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	return preauth.NewSecret(TokenMark + base64.RawURLEncoding.EncodeToString(random))
}

// statusOf returns the status and the class of a request's error, nil included.
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

// about waits for a random time with the mean d. It reports false if ctx ends first.
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
