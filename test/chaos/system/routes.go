package system

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// nowhere is the address of a server's cluster port as the others tell of it. Servers that told of
// the right ones would find each other past the proxies.
const nowhere = "127.0.0.1:1"

// routes are the lines between the servers of a cluster: routes[i][j] is the one that server i opens
// to server j. Of the two between a pair of servers, the servers use one, and which one may change.
type routes [][]*Proxy

func newRoutes(servers []*natsServer, cluster []string, newProxy func(name, upstream string) (*Proxy, error)) (routes, error) {
	all := make(routes, len(servers))
	for i, from := range servers {
		all[i] = make([]*Proxy, len(servers))
		for j, to := range servers {
			if i == j {
				continue
			}
			var err error
			if all[i][j], err = newProxy(from.name+"-"+to.name, cluster[j]); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

// addresses returns where a server finds the others.
func (r routes) addresses(server int) (urls []string) {
	for _, p := range r[server] {
		if p != nil {
			urls = append(urls, "nats-route://"+p.Addr)
		}
	}
	return urls
}

func (r routes) close() {
	for _, from := range r {
		for _, p := range from {
			if p != nil {
				p.Cut()
			}
		}
	}
}

// Lines returns the lines between two servers.
func (n *NATS) Lines(i, j int) []*Proxy { return []*Proxy{n.routes[i][j], n.routes[j][i]} }

// Silence drops all that one server sends to another, until the returned function is called. Then it
// closes their connections.
func (n *NATS) Silence(from, to int) (heal func(), err error) {
	opened, err := n.routes[from][to].Poison(Toxic{Type: "timeout", Stream: Upstream})
	if err != nil {
		opened()
		return nil, err
	}
	accepted, err := n.routes[to][from].Poison(Toxic{Type: "timeout", Stream: Downstream})
	if err != nil {
		opened()
		accepted()
		return nil, err
	}
	return func() { opened(); accepted() }, nil
}

// WatchLeaders calls elected whenever a leader of a stream or of a consumer is elected, until ctx
// ends. what is "stream" or "consumer". It listens to each server, because one that is cut off tells
// the others nothing.
func (n *NATS) WatchLeaders(ctx context.Context, elected func(what string)) error {
	var told sync.Map // ids of the elections
	for _, s := range n.servers {
		nc, err := connect("nats://" + s.addr)
		if err != nil {
			return err
		}
		defer nc.Close()
		for _, what := range []string{"stream", "consumer"} {
			_, err := nc.Subscribe("$JS.EVENT.ADVISORY."+strings.ToUpper(what)+".LEADER_ELECTED.>", func(msg *nats.Msg) {
				var election struct {
					ID string `json:"id"`
				}
				if json.Unmarshal(msg.Data, &election) != nil {
					return
				}
				if _, known := told.LoadOrStore(election.ID, true); !known {
					elected(what)
				}
			})
			if err != nil {
				return err
			}
		}
	}
	<-ctx.Done()
	return nil
}
