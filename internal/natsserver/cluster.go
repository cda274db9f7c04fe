package natsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Cluster is a JetStream cluster of servers in this process, which are named n1, n2 and so on.
type Cluster struct {
	Nodes []*Server
}

// StartCluster starts a cluster of size servers and returns when it can create streams. The options
// apply to each server: StoreDir gets one subdirectory per server, and Listen must be empty,
// because the servers cannot share an address.
func StartCluster(ctx context.Context, size int, opts Options) (_ *Cluster, err error) {
	if opts.Listen != "" {
		return nil, fmt.Errorf("NATS listen address %q: the servers of a cluster use free ports; leave it empty", opts.Listen)
	}
	if size < 2 {
		return nil, fmt.Errorf("NATS cluster of %d servers: it needs at least 2 servers, and 3 to survive the loss of one", size)
	}
	c := &Cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	var routes []*url.URL
	for i := range size {
		node := opts
		name := fmt.Sprintf("n%d", i+1)
		if opts.StoreDir != "" {
			node.StoreDir = filepath.Join(opts.StoreDir, name)
		}
		s, err := newServer(node)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, s)
		s.options.ServerName = name
		if s.options.Host, s.options.Port, _, err = listenAddress(""); err != nil {
			return nil, err
		}
		cluster := server.ClusterOpts{Name: "preauth"}
		if cluster.Host, cluster.Port, _, err = listenAddress(""); err != nil {
			return nil, err
		}
		s.options.Cluster = cluster
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: net.JoinHostPort(cluster.Host, strconv.Itoa(cluster.Port))})
	}
	for _, s := range c.Nodes {
		s.options.Routes = routes
		if err := s.Restart(); err != nil {
			return nil, err
		}
	}
	return c, c.AwaitReady(ctx)
}

// AwaitReady waits until the running servers have a meta leader and are current with it. They must
// be a majority.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !c.ready() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a leader of the NATS cluster: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

func (c *Cluster) ready() bool {
	var running []*server.Server
	for _, s := range c.Nodes {
		if nats := s.running(); nats != nil {
			running = append(running, nats)
		}
	}
	leader := slices.IndexFunc(running, (*server.Server).JetStreamIsLeader)
	return leader >= 0 &&
		len(running[leader].JetStreamClusterPeers()) == len(running) &&
		!slices.ContainsFunc(running, func(nats *server.Server) bool { return !nats.JetStreamIsCurrent() })
}

// Node returns the server with the name, or nil.
func (c *Cluster) Node(name string) *Server {
	for _, s := range c.Nodes {
		if s.Name() == name {
			return s
		}
	}
	return nil
}

// URL is the address for clients: the URLs of all servers, separated by commas.
func (c *Cluster) URL() string {
	var urls []string
	for _, s := range c.Nodes {
		urls = append(urls, s.URL())
	}
	return strings.Join(urls, ",")
}

// Close stops the servers and removes temporary stores.
func (c *Cluster) Close() error {
	var errs []error
	for _, s := range c.Nodes {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
