package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"preauth/internal/loopback"
)

// Proxy is the line between one replica and one server. It breaks on demand.
type Proxy struct {
	// Name names the replica and the server.
	Name string
	// Addr is the address that the replica connects to.
	Addr string

	mu    sync.Mutex
	proxy *toxiproxy.Proxy
}

// newProxies returns a function that makes proxies. They share one toxiproxy server.
func newProxies() func(name, upstream string) (*Proxy, error) {
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxiproxy does not always use the logger that it is given
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	return func(name, upstream string) (*Proxy, error) {
		var err error
		for range 5 { // a free port may be taken before it is used
			var addr string
			if addr, _, err = loopback.Address(""); err != nil {
				break
			}
			proxy := toxiproxy.NewProxy(server, name, addr, upstream)
			if err = proxy.Start(); err == nil {
				return &Proxy{Name: name, Addr: addr, proxy: proxy}, nil
			}
		}
		return nil, fmt.Errorf("proxy %s: %w", name, err)
	}
}

// Direction is the direction of data through a proxy.
type Direction string

// The directions: Upstream is to the server, Downstream from it.
const (
	Upstream   Direction = "upstream"
	Downstream Direction = "downstream"
)

// Toxic is a disturbance of the connections through a proxy, in toxiproxy's terms.
type Toxic struct {
	// Type is one of toxiproxy's: latency, bandwidth, timeout, reset_peer, limit_data, slicer.
	Type       string           `json:"type"`
	Stream     Direction        `json:"stream"`
	Attributes map[string]int64 `json:"attributes"`
}

// Poison disturbs the connections through the proxy, open ones too, until the returned function is
// called.
func (p *Proxy) Poison(toxics ...Toxic) (heal func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	heal = sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, name := range names {
			_ = p.proxy.Toxics.RemoveToxic(context.Background(), name) // fails if it is gone already
		}
	})
	for _, toxic := range toxics {
		name := toxic.Type + "_" + string(toxic.Stream)
		if p.proxy.Toxics.GetToxic(name) != nil {
			continue // another fault added it before
		}
		text, err := json.Marshal(struct {
			Toxic
			Name     string  `json:"name"`
			Toxicity float32 `json:"toxicity"`
		}{toxic, name, 1})
		if err != nil {
			return heal, fmt.Errorf("proxy %s: %w", p.Name, err)
		}
		if _, err := p.proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
			return heal, fmt.Errorf("proxy %s: toxic %s: %w", p.Name, toxic.Type, err)
		}
		names = append(names, name)
	}
	return heal, nil
}

// Cut closes all connections and refuses new ones until [Proxy.Restore].
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy.Stop()
}

// Restore undoes [Proxy.Cut].
func (p *Proxy) Restore() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("proxy %s: %w", p.Name, err)
	}
	return nil
}
