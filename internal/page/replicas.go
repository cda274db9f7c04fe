package page

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// replicas asks all replicas how they fare, in the background: nobody knows how many there are, so
// the answer takes longer than people like to wait for a page.
type replicas struct {
	nc      *nats.Conn
	client  *preauth.Client
	ctx     context.Context
	cancel  context.CancelFunc
	working sync.WaitGroup

	mu     sync.Mutex
	asking bool
	asked  time.Time
	found  []preauth.Replica
	err    error
}

// replicasEvery is the least time between two questions, and replicasTimeout bounds one.
const replicasEvery, replicasTimeout = 3 * time.Second, 2 * time.Second

func newReplicas(nc *nats.Conn, client *preauth.Client) *replicas {
	ctx, cancel := context.WithCancel(context.Background())
	return &replicas{nc: nc, client: client, ctx: ctx, cancel: cancel}
}

func (r *replicas) close() {
	r.cancel()
	r.mu.Lock()
	r.asking = true // nobody begins any more
	r.mu.Unlock()
	r.working.Wait()
}

var errDisconnected = errors.New("there is no connection to NATS")

// latest returns what the replicas answered last, and asks them again if that is some seconds ago. It
// is nil until they have answered.
func (r *replicas) latest() ([]preauth.Replica, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.nc.IsConnected() {
		r.found, r.err = nil, errDisconnected
		return r.found, r.err
	}
	if !r.asking && time.Since(r.asked) >= replicasEvery {
		r.asking = true
		r.working.Go(r.ask)
	}
	return r.found, r.err
}

func (r *replicas) ask() {
	ctx, cancel := context.WithTimeout(r.ctx, replicasTimeout)
	defer cancel()
	found, err := r.client.Replicas(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asking, r.asked, r.found, r.err = r.ctx.Err() != nil, time.Now(), found, err
}
