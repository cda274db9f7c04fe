// Package natsserver runs the real nats-server with JetStream inside this process, for preauth-dev
// and for tests: one server or a cluster. Each server listens on a loopback address without
// authentication and installs no signal handlers.
//
// A server can be stopped and started again with the same address and data. A stop is orderly. What
// a kill does to data that was not synced cannot be tested within one process.
package natsserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"preauth/internal/loopback"
	"preauth/internal/scratch"
)

// Options say how to start a server. The zero value starts a temporary one on a free port.
type Options struct {
	// Listen is the loopback address host:port for clients. Empty, or with port 0: a free port.
	Listen string
	// StoreDir keeps the streams between runs. It is created if missing. nats-server does not check
	// that no other server uses it. Empty: a temporary directory, which Close removes.
	StoreDir string
	// SyncAlways makes the server sync each message to disk before it acknowledges it (sync_interval:
	// always). Otherwise it syncs every two minutes, and a power failure loses what came since.
	SyncAlways bool
	// Config is text in the form of nats-server's configuration file, for tests of limits, accounts and
	// the like. What it says goes before the other options. It must leave addresses and the store alone.
	Config string
	// Log receives the server's warnings and errors. Nil drops them.
	Log func(format string, args ...any)
}

// startTimeout bounds the wait for a server that neither becomes ready nor fails.
const startTimeout = 30 * time.Second

// Server is a nats-server in this process. It is safe for concurrent use.
type Server struct {
	options   server.Options // as given to nats-server at every start
	log       func(format string, args ...any)
	temporary *scratch.Dir // what Close removes, or nil

	mu     sync.Mutex
	config string         // nats-server parses it at every start
	nats   *server.Server // nil when stopped
	closed bool
}

// Start starts a server with JetStream and returns when it accepts connections. That takes
// milliseconds, unless there is much to recover from the store.
func Start(opts Options) (*Server, error) {
	s, err := newServer(opts)
	if err != nil {
		return nil, err
	}
	// Another process may take a free port before the server does.
	const attempts = 5
	for attempt := 1; ; attempt++ {
		var free bool
		if s.options.Host, s.options.Port, free, err = listenAddress(opts.Listen); err == nil {
			err = s.Restart()
		}
		if err == nil {
			return s, nil
		}
		if !free || attempt == attempts {
			return nil, errors.Join(err, s.Close())
		}
	}
}

// newServer returns a server that is not started and has no address yet.
func newServer(opts Options) (*Server, error) {
	s := &Server{log: opts.Log, config: opts.Config}
	store := opts.StoreDir
	if store == "" {
		made, err := scratch.New("preauth-natsserver-")
		if err != nil {
			return nil, fmt.Errorf("start nats-server: %w", err)
		}
		s.temporary, store = made, made.Path
	}
	store, err := filepath.Abs(store)
	if err != nil {
		return nil, fmt.Errorf("start nats-server: %w", err)
	}
	s.options = server.Options{
		ServerName: "preauth",
		JetStream:  true,
		StoreDir:   store,
		SyncAlways: opts.SyncAlways,
		NoSigs:     true,
		NoLog:      true,
	}
	return s, nil
}

func listenAddress(listen string) (host string, port int, free bool, err error) {
	address, free, err := loopback.Address(listen)
	if err != nil {
		return "", 0, false, fmt.Errorf("start nats-server: %w", err)
	}
	parsed, err := netip.ParseAddrPort(address)
	return parsed.Addr().String(), int(parsed.Port()), free, err
}

// URL is the address for clients. [Server.Restart] keeps it.
func (s *Server) URL() string {
	address := net.JoinHostPort(s.options.Host, strconv.Itoa(s.options.Port))
	return (&url.URL{Scheme: "nats", Host: address}).String()
}

// Name is the server's name. Stream and consumer information names leaders by it.
func (s *Server) Name() string { return s.options.ServerName }

// Stop stops the server in good order and returns when it has ended. Its streams stay, and
// [Server.Restart] starts it again. Stopping a server that does not run does nothing.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

func (s *Server) stop() {
	if s.nats != nil {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
		s.nats = nil
	}
}

// Restart stops the server if it runs, starts it with the same address and streams, and returns
// when it accepts connections.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("start nats-server on %s: it is closed", s.URL())
	}
	s.stop()
	options, err := s.configured()
	if err != nil {
		return err
	}
	nats, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("start nats-server on %s: %w", s.URL(), err)
	}
	failure := &firstFailure{log: s.log}
	nats.SetLoggerV2(failure, false, false, false)
	started := make(chan struct{})
	go func() {
		defer close(started)
		nats.Start()
	}()
	select {
	case <-started:
		err = failure.get()
	case <-time.After(startTimeout):
		err = errors.New("it took too long")
	}
	if err == nil && !nats.ReadyForConnections(startTimeout) {
		err = errors.Join(errors.New("it does not accept connections"), failure.get())
	}
	if err != nil {
		nats.Shutdown()
		nats.WaitForShutdown()
		return fmt.Errorf("start nats-server on %s: %w", s.URL(), err)
	}
	s.nats = nats
	return nil
}

// configured returns what to give to nats-server, which changes it. The caller holds mu.
func (s *Server) configured() (*server.Options, error) {
	options := s.options.Clone()
	if s.config == "" {
		return options, nil
	}
	if err := options.ProcessConfigString(s.config); err != nil {
		return nil, fmt.Errorf("configure nats-server on %s: %w", s.URL(), err)
	}
	return options, nil
}

// Reload replaces [Options.Config], also while the server runs, as the signal reload of nats-server
// does. An error leaves the server as it is.
func (s *Server) Reload(config string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.config
	s.config = config
	options, err := s.configured()
	if err == nil && s.nats != nil {
		err = s.nats.ReloadOptions(options)
	}
	if err != nil {
		s.config = before
		return fmt.Errorf("reload nats-server on %s: %w", s.URL(), err)
	}
	return nil
}

// running returns the nats-server, or nil while it is stopped.
func (s *Server) running() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nats
}

// Close stops the server for good and removes a temporary store. A second Close does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.temporary == nil {
		return nil
	}
	if err := s.temporary.Remove(); err != nil {
		return fmt.Errorf("remove the store of nats-server: %w", err)
	}
	return nil
}

// firstFailure is nats-server's logger. It keeps the first fatal error, because nats-server reports
// it in no other way.
type firstFailure struct {
	log func(format string, args ...any)

	mu  sync.Mutex
	err error
}

func (f *firstFailure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *firstFailure) print(level, format string, args []any) {
	if f.log != nil {
		f.log("nats-server: "+level+": "+format, args...)
	}
}

func (f *firstFailure) Fatalf(format string, args ...any) {
	f.mu.Lock()
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
	f.mu.Unlock()
	f.print("fatal", format, args)
}
func (f *firstFailure) Errorf(format string, args ...any) { f.print("error", format, args) }
func (f *firstFailure) Warnf(format string, args ...any)  { f.print("warning", format, args) }
func (f *firstFailure) Noticef(string, ...any)            {}
func (f *firstFailure) Debugf(string, ...any)             {}
func (f *firstFailure) Tracef(string, ...any)             {}
