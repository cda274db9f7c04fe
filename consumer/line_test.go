package consumer_test

import (
	"bytes"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// line is a replica's connection to NATS under a test's control: the test cuts and restores it, or
// stalls what the replica sends.
type line struct {
	mu    sync.Mutex
	cut   bool
	conns []*lineConn
	stall *stall
}

// onLine makes a replica connect to NATS through the line.
func (w *world) onLine(l *line, options ...nats.Option) func(*setup) {
	return func(s *setup) { s.nc = w.connect(append(options, nats.SetCustomDialer(l))...) }
}

// Dial connects unless the line is cut.
func (l *line) Dial(network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, net.ErrClosed
	}
	inner, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	conn := &lineConn{Conn: inner, line: l, closed: make(chan struct{})}
	l.conns = append(l.conns, conn)
	return conn, nil
}

// down cuts the line. Stalled data is lost.
func (l *line) down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

// up lets the replica connect again.
func (l *line) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

// stallAt stalls everything that the replica sends, starting with the write that contains text.
func (l *line) stallAt(text string) *stall {
	l.mu.Lock()
	defer l.mu.Unlock()
	released := make(chan struct{})
	l.stall = &stall{
		at: []byte(text), reached: make(chan struct{}), released: released,
		release: sync.OnceFunc(func() { close(released) }),
	}
	return l.stall
}

// stall is a point at which a line stalls.
type stall struct {
	at       []byte
	reached  chan struct{} // closed when the line stalls
	released chan struct{}
	release  func() // lets the data through
}

type lineConn struct {
	net.Conn
	line      *line
	deadline  atomic.Pointer[time.Time] // of the next write
	closed    chan struct{}
	closeOnce sync.Once
}

func (c *lineConn) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(&t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *lineConn) Write(b []byte) (int, error) {
	c.line.mu.Lock()
	held := c.line.stall
	if held == nil || !bytes.Contains(b, held.at) {
		c.line.mu.Unlock()
		return c.Conn.Write(b)
	}
	c.line.stall = nil
	c.line.mu.Unlock()
	close(held.reached)
	var late <-chan time.Time
	if t := c.deadline.Load(); t != nil && !t.IsZero() {
		late = time.After(time.Until(*t))
	}
	select {
	case <-held.released:
		return c.Conn.Write(b)
	case <-late:
		return 0, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *lineConn) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
