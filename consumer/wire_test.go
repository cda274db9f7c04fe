package consumer_test

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// wire is a replica's connection to NATS. It names each message that the replica publishes, and
// cuts the connection at the message that a test names: before the server gets the message, or
// after that but before the answer arrives.
type wire struct {
	mu      sync.Mutex
	sent    []string
	at      string
	applied bool
	cut     chan struct{} // closed when the wire is cut, or stalls
	held    chan struct{} // if not nil, the wire stalls instead of being cut, until this is closed
}

// onWire makes a replica connect to NATS through the wire.
func (w *world) onWire(wire *wire) func(*setup) {
	return func(s *setup) { s.nc = w.connect(nats.SetCustomDialer(wire)) }
}

// cutAt cuts the connection once, at the next message with that name. Everything that the replica
// sent earlier still arrives.
func (w *wire) cutAt(name string, applied bool) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.applied, w.cut = name, applied, make(chan struct{})
	return w.cut
}

// holdAt stalls the connection once, at the next message with that name, until release is called.
func (w *wire) holdAt(name string) (reached <-chan struct{}, release func()) {
	reached = w.cutAt(name, false)
	w.mu.Lock()
	defer w.mu.Unlock()
	held := make(chan struct{})
	w.held = held
	return reached, func() { close(held) }
}

// messages returns the names of the messages published since the last call.
func (w *wire) messages() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sent
	w.sent = nil
	return sent
}

// Dial connects.
func (w *wire) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return &wireConn{conn, w}, nil
}

type wireConn struct {
	net.Conn
	*wire
}

func (c *wireConn) Write(b []byte) (int, error) {
	through, cut := c.inspect(b)
	if cut {
		c.mu.Lock()
		held := c.held
		c.held = nil
		c.mu.Unlock()
		if held != nil {
			<-held
			cut = false
		}
	}
	if !cut {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:through])
	if err == nil && through > 0 {
		_ = c.Conn.(*net.TCPConn).CloseWrite() // the server reads everything, but its answer is lost
	}
	return n, errors.Join(net.ErrClosed, err, c.Conn.Close())
}

// inspect records the names of the messages in one write of the client, which holds whole messages
// only. It returns how many bytes to let through before the wire is cut.
func (c *wireConn) inspect(b []byte) (through int, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := 0; at < len(b); {
		end := bytes.Index(b[at:], []byte("\r\n"))
		if end < 0 {
			break // the client never writes a partial line
		}
		line := strings.Fields(string(b[at : at+end]))
		next := at + end + 2
		if len(line) > 2 && (line[0] == "PUB" || line[0] == "HPUB") {
			size, err := strconv.Atoi(line[len(line)-1])
			if err != nil || next+size+2 > len(b) {
				break
			}
			name := messageName(line[1], string(b[next:next+size]))
			next += size + 2
			c.sent = append(c.sent, name)
			if name == c.at {
				c.at = ""
				close(c.cut)
				if c.applied {
					return next, true
				}
				return at, true
			}
		}
		at = next
	}
	return len(b), false
}

// messageName returns the purpose of a message, which follows from its subject and, for an
// acknowledgement, from its body.
func messageName(subject, body string) string {
	for _, kind := range []struct{ prefix, body, name string }{
		{"preauth.updated.", "", "publish update"},
		{"preauth.failed.", "", "publish failure"},
		{"preauth.authorized.", "", "publish authorization"},
		{"_INBOX.", "", "answer"},
		{"$JS.ACK.COMPONENT_TOKENS.", "+ACK", "ack"},
		{"$JS.ACK.COMPONENT_TOKENS.", "-NAK", "nak"},
		{"$JS.ACK.COMPONENT_TOKENS.", "+TERM", "term"},
		{"$JS.ACK.COMPONENT_TOKENS.", "+WPI", "in progress"},
		{"$JS.ACK.COMPONENT_AUTHORIZED.", "+ACK", "ack authorization"},
		{"$JS.ACK.COMPONENT_AUTHORIZED.", "-NAK", "nak authorization"},
		{"$JS.ACK.COMPONENT_AUTHORIZED.", "+TERM", "term authorization"},
		{"$JS.ACK.COMPONENT_AUTHORIZED.", "+WPI", "authorization in progress"},
		{"$JS.API.STREAM.CREATE.COMPONENT_TOKENS", "", "create token stream"},
		{"$JS.API.STREAM.CREATE.COMPONENT_AUTHORIZED", "", "create authorization stream"},
		{"$JS.API.STREAM.CREATE.PREAUTH_FAILED", "", "create failure stream"},
		{"$JS.API.STREAM.CREATE.PREAUTH_AUTHORIZED", "", "create authorized stream"},
		{"$JS.API.STREAM.CREATE.PREAUTH", "", "create update stream"},
		{"$SYS.REQ.USER.INFO", "", "ask for the account"},
		{"$JS.API.STREAM.NAMES", `{"offset":0,"subject":"component.authorized`, "find authorization stream"},
		{"$JS.API.STREAM.NAMES", "", "find token stream"},
		{"$JS.API.STREAM.INFO.", "", "look at stream"},
		{"$JS.API.CONSUMER.CREATE.COMPONENT_TOKENS.preauth-", "", "create durable"},
		{"$JS.API.CONSUMER.CREATE.COMPONENT_TOKENS.", "", "create reader of tokens"},
		{"$JS.API.CONSUMER.CREATE.COMPONENT_AUTHORIZED.preauth-", "", "create durable for authorizations"},
		{"$JS.API.CONSUMER.CREATE.PREAUTH.", "", "create reader of updates"},
		{"$JS.API.CONSUMER.INFO.", "", "look at consumer"},
		{"$JS.API.CONSUMER.MSG.NEXT.COMPONENT_TOKENS.preauth-", "", "pull events"},
		{"$JS.API.CONSUMER.MSG.NEXT.COMPONENT_AUTHORIZED.preauth-", "", "pull authorizations"},
		{"$JS.API.CONSUMER.MSG.NEXT.", "", "pull for memory"},
		{"$JS.API.DIRECT.GET.PREAUTH.", "", "read last update"},
	} {
		if strings.HasPrefix(subject, kind.prefix) && strings.HasPrefix(body, kind.body) {
			return kind.name
		}
	}
	return "message on " + subject
}
