package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth/repo"
)

// ownership knows whether the database belongs to this service's streams, and to no newer release
// that this one cannot work beside. Two services with streams of their own would break each other on
// one database, so nothing works on it before that is certain.
type ownership struct {
	cfg    Config
	nc     *nats.Conn
	db     *repo.Repo
	health *health

	account string
	asked   int // for the account

	mu      sync.Mutex
	err     error         // nil while the database is ours
	changed chan struct{} // closed and replaced when err becomes nil, or stops being nil
}

var errUnowned = errors.New("the database did not say yet whom it belongs to")

func newOwnership(cfg Config, nc *nats.Conn, db *repo.Repo, h *health) *ownership {
	return &ownership{cfg: cfg, nc: nc, db: db, health: h, err: errUnowned, changed: make(chan struct{})}
}

// look asks the database whom it belongs to. While it does not answer, what it said last counts.
func (o *ownership) look(ctx context.Context) {
	if o.account == "" && o.asked < accountTries && o.nc.IsConnected() {
		o.account = Account(ctx, o.nc)
		o.asked++
	}
	err := o.db.Own(ctx, repo.StreamSet{
		Tokens: o.cfg.TokenStream, Updates: o.cfg.UpdateStream, Failures: o.cfg.FailureStream, Account: o.account,
	}, o.cfg.Now())
	o.health.setUse("database", err)
	if err != nil && !errors.Is(err, repo.ErrOtherStreams) && !errors.Is(err, repo.ErrNewerSchema) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.err
	if o.err = err; (was == nil) != (err == nil) {
		close(o.changed)
		o.changed = make(chan struct{})
	}
}

// check returns nil if the database is ours.
func (o *ownership) check() error {
	_, err := o.state()
	return err
}

// state returns nil if the database is ours, and what is closed when that changes.
func (o *ownership) state() (changed <-chan struct{}, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed, o.err
}

// hold has work done while the database is ours, until ctx ends.
func (o *ownership) hold(ctx context.Context, work func(ctx context.Context)) {
	for ctx.Err() == nil {
		changed, err := o.state()
		ownedCtx, cancel := context.WithCancel(ctx)
		var working sync.WaitGroup
		if err == nil {
			working.Go(func() { work(ownedCtx) })
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
		cancel()
		working.Wait()
	}
}

// accountTimeout and accountTries bound the questions for the account, which a server need not
// answer.
const accountTimeout, accountTries = time.Second, 5

// Account returns the NATS account of a connection, "" if it cannot be told.
func Account(ctx context.Context, nc *nats.Conn) string {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, accountSubject, nil)
	if err != nil {
		return ""
	}
	var info struct {
		Data struct {
			Account string `json:"account"`
		} `json:"data"`
	}
	if json.Unmarshal(reply.Data, &info) != nil {
		return ""
	}
	return info.Data.Account
}
