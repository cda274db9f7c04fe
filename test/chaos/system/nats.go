package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/loopback"
	"preauth/test/chaos/forgetful"
)

// maxFileStore is the space of a NATS server for its streams. Those of failures and of announced
// authorizations reserve 64 MiB each. A fault can fill the rest quickly.
const maxFileStore = (64 + 64 + 32) << 20

// NATS is one NATS server or a cluster of them.
type NATS struct {
	servers []*natsServer
	routes  routes // nil for one server
}

type natsServer struct {
	name, addr, program, config, store, log string
	disk                                    *forgetful.Disk // nil without Options.Forgetful

	mu      sync.Mutex
	process *process
}

// startNATS starts the servers.
func startNATS(ctx context.Context, opts Options, newProxy func(name, upstream string) (*Proxy, error)) (*NATS, error) {
	n, dir, size := &NATS{}, opts.Dir, opts.NATSServers
	var clusterAddrs []string
	for i := range size {
		addr, _, err := loopback.Address("")
		if err != nil {
			return nil, err
		}
		cluster, _, err := loopback.Address("")
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("nats%d", i+1)
		n.servers = append(n.servers, &natsServer{
			name: name, addr: addr, program: opts.Programs.NATS,
			config: filepath.Join(dir, name+".conf"), store: filepath.Join(dir, name), log: filepath.Join(dir, name+".log"),
		})
		clusterAddrs = append(clusterAddrs, cluster)
	}
	if size > 1 {
		var err error
		if n.routes, err = newRoutes(n.servers, clusterAddrs, newProxy); err != nil {
			n.close()
			return nil, err
		}
	}
	for i, s := range n.servers {
		if opts.Forgetful {
			var err error
			if s.disk, err = forgetful.Start(s.store, false); err != nil {
				n.close()
				return nil, err
			}
		}
		config := fmt.Sprintf("server_name: %s\nlisten: %q\njetstream { store_dir: %q, sync_interval: %q, max_file_store: %d }\n",
			s.name, s.addr, s.store, opts.SyncInterval, maxFileStore)
		if size > 1 {
			// Clients must not learn addresses that bypass their proxies.
			config += fmt.Sprintf("cluster { name: chaos, listen: %q, no_advertise: true, advertise: %q, routes: [\"%s\"] }\n",
				clusterAddrs[i], nowhere, strings.Join(n.routes.addresses(i), `", "`))
		}
		if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
			return nil, err
		}
		if err := s.start(); err != nil {
			n.close()
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := n.awaitJetStream(ctx); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (s *natsServer) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil && s.process.running() {
		return nil
	}
	var err error
	s.process, err = startProcess(s.log, os.Environ(), s.program, "-c", s.config)
	return err
}

// awaitJetStream waits until JetStream answers.
func (n *NATS) awaitJetStream(ctx context.Context) error {
	nc, err := n.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for {
		asked, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.AccountInfo(asked)
		cancel()
		if err == nil {
			return nil
		}
		if !Wait(ctx, 50*time.Millisecond) {
			return fmt.Errorf("NATS does not answer: %w", err)
		}
	}
}

// Connect returns a connection past the proxies. It reconnects for ever.
func (n *NATS) Connect() (*nats.Conn, error) {
	var urls []string
	for _, s := range n.servers {
		urls = append(urls, "nats://"+s.addr)
	}
	return connect(strings.Join(urls, ","))
}

func connect(urls string) (*nats.Conn, error) {
	return nats.Connect(urls, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(2*time.Second),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

// Size is the number of servers.
func (n *NATS) Size() int { return len(n.servers) }

// ServerName returns the name of a server.
func (n *NATS) ServerName(i int) string { return n.servers[i].name }

// Kill kills a server with SIGKILL.
func (n *NATS) Kill(i int) {
	s := n.servers[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.kill()
}

// Restart starts a server that was killed, on the same address and with the same files.
func (n *NATS) Restart(i int) error { return n.servers[i].start() }

// Leader returns the index of the server that leads the stream, and false if it is not known.
func (n *NATS) Leader(ctx context.Context, nc *nats.Conn, stream string) (int, bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, false
	}
	found, err := js.Stream(ctx, stream)
	if err != nil || found.CachedInfo().Cluster == nil {
		return 0, false
	}
	for i, s := range n.servers {
		if s.name == found.CachedInfo().Cluster.Leader {
			return i, true
		}
	}
	return 0, false
}

func (n *NATS) close() {
	n.routes.close()
	for _, s := range n.servers {
		if s.process != nil {
			s.process.kill()
		}
		_ = closeDisk(s.disk, s.store) // fails if nothing was stored yet
	}
}
