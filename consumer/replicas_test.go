package consumer_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/internal/natsserver"
	"preauth/wechat/wechattest"
)

// The run is short by default. For a long one:
//
//	go test ./consumer -run TestClaimsWhileReplicasAreKilled -claims 20000 -timeout 30m -v
var claims = flag.Int("claims", 1500, "codes claimed while replicas are killed")

// Clients claim codes while replicas are killed and restarted. No code is given twice, no claimed
// code was ever announced or looked up, and no claim id gets two codes.
func TestClaimsWhileReplicasAreKilled(t *testing.T) {
	const clients, replicas = 50, 3
	w := newWorld(t, wechattest.Options{})
	w.createTokenStream()
	updates := w.updates()
	w.announce("wx0", w.token("a"))
	w.announce("wx1", w.token("a"))

	killing, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		killers sync.WaitGroup
		kills   atomic.Int64
	)
	t.Cleanup(killers.Wait)
	for range replicas {
		killers.Go(func() {
			for killing.Err() == nil {
				w.killAfter(time.Duration(1000+rand.IntN(4000)) * time.Millisecond)
				kills.Add(1)
			}
		})
	}

	w.eventually("codes announced", func() bool {
		_, first := w.stored("wx0")
		_, second := w.stored("wx1")
		return first && second
	})
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	type given struct{ claim, code string }
	var (
		mu       sync.Mutex
		byClaim  = map[string]string{} // claim id → code
		byCode   = map[string]string{} // code → claim id
		public   = map[string]bool{}   // the codes announced or looked up
		retries  atomic.Int64
		todo     atomic.Int64
		visiting sync.WaitGroup
	)
	note := func(g given) {
		mu.Lock()
		defer mu.Unlock()
		if code, ok := byClaim[g.claim]; ok && code != g.code {
			t.Errorf("claim id %s has two codes", g.claim)
		}
		if claim, ok := byCode[g.code]; ok && claim != g.claim {
			t.Errorf("claim ids %s and %s have the same code", claim, g.claim)
		}
		byClaim[g.claim], byCode[g.code] = g.code, g.claim
	}
	for number := range clients {
		visiting.Go(func() {
			for {
				n := todo.Add(1)
				if n > int64(*claims) {
					return
				}
				appid := fmt.Sprintf("wx%d", number%2)
				if n%100 == 0 {
					token := preauth.TokenEvent{AppID: appid, Token: preauth.NewSecret(fmt.Sprintf("token-%d", n))}
					if err := client.Announce(w.within(), token); err != nil {
						t.Error(err)
					}
				}
				id := fmt.Sprintf("%s-%d", appid, n)
				ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
				code, err := client.Lookup(ctx, preauth.LookupRequest{AppID: appid})
				cancel()
				if err == nil {
					mu.Lock()
					public[code.PreAuthCode.Reveal()] = true
					mu.Unlock()
				}
				// A client repeats its request until it gets an answer, and sometimes once more.
				patient := time.Second
				for again := 1 + rand.IntN(2); again > 0; {
					ctx, cancel := context.WithTimeout(w.t.Context(), patient)
					claim, err := client.Claim(ctx, preauth.ClaimRequest{AppID: appid, ClaimID: id})
					cancel()
					if err != nil {
						retries.Add(1)
						patient = min(2*patient, patience) // a slow machine may need longer
						continue
					}
					note(given{id, claim.PreAuthCode.Reveal()})
					again--
				}
			}
		})
	}
	visiting.Wait()
	stop()
	killers.Wait()
	for len(updates) > 0 {
		public[(<-updates).PreAuthCode.Reveal()] = true
	}
	for code := range public {
		if claim, ok := byCode[code]; ok {
			t.Errorf("claim id %s has a code that was announced or looked up", claim)
		}
	}
	if len(byClaim) != *claims || len(byCode) != *claims {
		t.Errorf("%d claim ids and %d codes for %d claims", len(byClaim), len(byCode), *claims)
	}
	t.Logf("%d claims by %d clients, %d replicas killed, %d requests repeated after an error, %d public codes, %d calls of WeChat",
		*claims, clients, kills.Load(), retries.Load(), len(public), w.wechat.Count(""))
}

// A replica keeps working when one of the three servers of a NATS cluster stops.
func TestClusterLosesAServer(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	cluster, err := natsserver.StartCluster(w.within(), 3, natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	w.url = cluster.URL()
	w.nc = w.connect()
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	r := w.start(func(s *setup) { s.cfg.StreamReplicas = 3 }).ready()
	for _, name := range []string{"COMPONENT_TOKENS", "PREAUTH", "PREAUTH_FAILED"} {
		stream, err := w.js.Stream(w.within(), name)
		if err != nil || stream.CachedInfo().Config.Replicas != 3 {
			t.Fatalf("stream %s: %v", name, err)
		}
	}
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)

	// The token stream's leader stops while an event is in flight.
	stream, err := w.js.Stream(w.within(), "COMPONENT_TOKENS")
	if err != nil {
		t.Fatal(err)
	}
	hold := wechattest.NewHold()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx1", w.token("b"))
	<-hold.Reached()
	leader := cluster.Node(stream.CachedInfo().Cluster.Leader)
	leader.Stop()
	hold.Release()
	w.announce("wx2", w.token("c"))
	r.await(consumer.StepCommitted, "wx2", 1)
	w.settled(r, "wx2")
	if update := w.settled(r, "wx1"); update.Revision != 2 {
		t.Errorf("revision %d", update.Revision)
	}
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	r.ready()
	w.announce("wx1", w.token("d"))
	r.await(consumer.StepCommitted, "wx1", 3)
	w.settled(r, "wx1")
}
