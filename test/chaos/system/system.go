// Package system runs preauth with all its surroundings for the fault harness: replicas of the real
// binary, nats-server and a MySQL-protocol server as processes, the stand-in for WeChat, and a
// proxy between each replica and each server. Everything listens on loopback addresses and ends
// with the harness.
package system

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
)

// Options configure a [System].
type Options struct {
	// Dir is an existing directory for all files of the run: data, configuration, logs.
	Dir string
	// Programs are what [Build] made.
	Programs Programs
	// Replicas is the number of replicas of the service. NATSServers is 1 or 3.
	Replicas, NATSServers int
	// Engine is that of the database; empty: the first that works.
	Engine mysqlserver.Engine
	// Forgetful puts the data of the servers on file systems that can forget: see [NATS.Cut]. That
	// needs root and /dev/fuse.
	Forgetful bool
	// SyncInterval is the sync_interval of NATS, such as always.
	SyncInterval string
	// DatabaseArguments are passed to mariadbd or mysqld.
	DatabaseArguments []string
	// Failover runs MariaDB with a replica: see [MySQL.FailOver].
	Failover bool
	// CodeLife is the life of WeChat's codes; 0: [CodeLife].
	CodeLife time.Duration
	// RequestTimeout is the service's limit for answering a request; 0: [RequestTimeout].
	RequestTimeout time.Duration
	// Log gets lines for the person who waits.
	Log func(format string, args ...any)
}

// System is everything that runs.
type System struct {
	Replicas []*Replica
	NATS     *NATS
	MySQL    *MySQL
	WeChat   *WeChat

	proxies []*Proxy
}

// The service's settings that differ from the defaults. Its waits fit a run of a minute. It has no
// limit of calls, because the checker counts how many it makes.
const (
	// Spares is the number of spares of a component.
	Spares = 1
	// RequestTimeout is the service's limit for answering a request, its default.
	RequestTimeout = 4 * time.Second
	// LongestDelay is the longest wait between two tries.
	LongestDelay = 5 * time.Second
	// Lease is how long a component is left to a replica that may have died, a constant of the
	// service.
	Lease = 20 * time.Second
)

func settings(replicas int, requestTimeout time.Duration) []string {
	return []string{
		"PREAUTH_LOG_FORMAT=json", "PREAUTH_LOG_LEVEL=debug",
		"PREAUTH_STREAM_REPLICAS=" + strconv.Itoa(replicas),
		"PREAUTH_SPARES=" + strconv.Itoa(Spares), "PREAUTH_REQUEST_TIMEOUT=" + cmp.Or(requestTimeout, RequestTimeout).String(),
		"PREAUTH_CALLS_PER_DAY=10000000", "PREAUTH_CALLS_PER_SECOND=1000",
		"PREAUTH_DELAY_TRANSIENT_MAX=3s", "PREAUTH_DELAY_THROTTLED=3s", "PREAUTH_DELAY_QUOTA=4s",
		"PREAUTH_DELAY_OPERATOR=4s", "PREAUTH_DELAY_ONCE=1s",
	}
}

// Start starts everything and returns when every replica is ready.
func Start(ctx context.Context, opts Options) (_ *System, err error) {
	s := &System{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.WeChat, err = startWeChat(cmp.Or(opts.CodeLife, CodeLife)); err != nil {
		return nil, err
	}
	if s.MySQL, err = startMySQL(ctx, opts); err != nil {
		return nil, err
	}
	newProxy := newProxies()
	if s.NATS, err = startNATS(ctx, opts, newProxy); err != nil {
		return nil, err
	}
	for i := range opts.Replicas {
		r, err := s.newReplica(fmt.Sprintf("replica%d", i+1), opts, newProxy)
		if err != nil {
			return nil, err
		}
		s.Replicas = append(s.Replicas, r)
		if err := r.Start(); err != nil {
			return nil, err
		}
	}
	for _, r := range s.Replicas {
		if err := r.awaitReady(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *System) newReplica(name string, opts Options, newProxy func(name, upstream string) (*Proxy, error)) (*Replica, error) {
	proxy := func(server, upstream string) (*Proxy, error) {
		p, err := newProxy(name+"-"+server, upstream)
		if err == nil {
			s.proxies = append(s.proxies, p)
		}
		return p, err
	}
	r := &Replica{
		Name: name, program: opts.Programs.first(),
		log: filepath.Join(opts.Dir, name+".log"), clock: filepath.Join(opts.Dir, name+".clock"),
	}
	var err error
	var urls []string
	for _, server := range s.NATS.servers {
		p, err := proxy(server.name, server.addr)
		if err != nil {
			return nil, err
		}
		r.NATS = append(r.NATS, p)
		urls = append(urls, "nats://"+p.Addr)
	}
	if r.MySQL, err = proxy("mysql", s.MySQL.Name()); err != nil {
		return nil, err
	}
	if r.WeChat, err = proxy("wechat", strings.TrimPrefix(s.WeChat.URL(), "http://")); err != nil {
		return nil, err
	}
	if r.admin, _, err = loopback.Address(""); err != nil {
		return nil, err
	}
	r.env = append(settings(opts.NATSServers, opts.RequestTimeout),
		"NATS_URL="+strings.Join(urls, ","), "MYSQL_DSN="+dsnThrough(r.MySQL), "PREAUTH_WECHAT_URL=http://"+r.WeChat.Addr,
		"PREAUTH_ADMIN_LISTEN="+r.admin, "PREAUTH_FAULT_CLOCK="+r.clock, "HOME="+os.Getenv("HOME"),
	)
	return r, r.SetClock(0)
}

// Close stops everything.
func (s *System) Close() error {
	var errs []error
	for _, r := range s.Replicas {
		_ = r.Kill() // fails if it does not run
	}
	for _, p := range s.proxies {
		p.Cut()
	}
	if s.NATS != nil {
		s.NATS.close()
	}
	if s.MySQL != nil {
		errs = append(errs, s.MySQL.Close())
	}
	if s.WeChat != nil {
		s.WeChat.Close()
	}
	return errors.Join(errs...)
}

// Wait waits for d. It reports false if ctx ends first.
func Wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
