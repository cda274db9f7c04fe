package system

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"preauth/internal/mysqlserver"
)

// standby is a replica of the database that can take the primary's place.
type standby struct {
	server *mysqlserver.Server
	// name is the address under which the primary is found.
	name *name
}

// replicated are the arguments of a server that is a primary or a replica. A commit is in the binary
// log before it is acknowledged.
func replicated(id int) []string {
	return []string{
		fmt.Sprintf("--server-id=%d", id), "--log-bin=binlog", "--log-slave-updates", "--sync-binlog=1",
		"--binlog-format=ROW", "--gtid-strict-mode=ON",
	}
}

// startStandby starts a replica of the primary.
func startStandby(ctx context.Context, dir string, primary *mysqlserver.Server, log func(string, ...any)) (_ *standby, err error) {
	s := &standby{}
	s.server, err = mysqlserver.Start(ctx, mysqlserver.Options{
		Engine: mysqlserver.MariaDB, Dir: filepath.Join(dir, "standby"), Arguments: replicated(2), Log: log,
	})
	if err != nil {
		return nil, err
	}
	if s.name, err = newName(primary.Addr()); err != nil {
		return nil, errors.Join(err, s.server.Close())
	}
	if err := follow(ctx, s.server, primary); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *standby) close() error {
	s.name.close()
	return s.server.Close()
}

// follow makes a server a replica of another one, which may have been its replica before.
func follow(ctx context.Context, server, primary *mysqlserver.Server) error {
	host, port, err := net.SplitHostPort(primary.Addr())
	if err != nil {
		return err
	}
	return execute(ctx, server, "SET GLOBAL read_only = ON",
		fmt.Sprintf("CHANGE MASTER TO MASTER_HOST = '%s', MASTER_PORT = %s, MASTER_USER = 'root', MASTER_USE_GTID = current_pos, "+
			"MASTER_CONNECT_RETRY = 1", host, port), "START SLAVE")
}

// execute runs statements as the user with all rights, on one connection.
func execute(ctx context.Context, server *mysqlserver.Server, statements ...string) error {
	return on(ctx, server, func(conn *sql.Conn) error {
		for _, statement := range statements {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
}

func on(ctx context.Context, server *mysqlserver.Server, do func(*sql.Conn) error) (err error) {
	db, err := sql.Open("mysql", server.DSN(""))
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(conn)
}

// CanFailOver reports whether there is a replica that can become the primary.
func (m *MySQL) CanFailOver() bool { return m.standby != nil }

// FailOver makes the primary read-only, waits until its replica has every commit, and lets the
// name of the primary lead to the replica. Connections to the old primary stay open: they reach a
// server that takes no writes or, if mute is set, nobody. The returned function closes them and makes
// the old primary the replica.
func (m *MySQL) FailOver(ctx context.Context, mute bool) (undo func(context.Context) error, err error) {
	old, next := m.Server, m.standby.server
	defer func() {
		if err != nil {
			err = errors.Join(err, execute(context.WithoutCancel(ctx), old, "SET GLOBAL read_only = OFF"))
		}
	}()
	var position string
	if err := execute(ctx, old, "SET GLOBAL read_only = ON"); err != nil {
		return nil, err
	}
	if err := on(ctx, old, func(conn *sql.Conn) error {
		return conn.QueryRowContext(ctx, "SELECT @@gtid_binlog_pos").Scan(&position)
	}); err != nil {
		return nil, err
	}
	var waited sql.NullInt64
	if err := on(ctx, next, func(conn *sql.Conn) error {
		return conn.QueryRowContext(ctx, "SELECT MASTER_GTID_WAIT(?, 10)", position).Scan(&waited)
	}); err != nil {
		return nil, err
	}
	if !waited.Valid || waited.Int64 != 0 {
		return nil, fmt.Errorf("the replica does not reach %s", position)
	}
	if err := execute(ctx, next, "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF"); err != nil {
		return nil, err
	}
	closeOld := m.standby.name.lead(next.Addr(), mute)
	m.Server, m.standby.server = next, old
	return func(ctx context.Context) error {
		closeOld()
		return follow(ctx, old, next)
	}, nil
}

// name is an address that leads to a server. If it leads to another one, the connections that are
// open stay with the first.
type name struct {
	listener net.Listener

	mu     sync.Mutex
	target string
	open   map[*line]bool
	lines  sync.WaitGroup
}

// line is a connection and its continuation.
type line struct {
	near, far net.Conn
	mu        sync.Mutex
	mute      bool
}

func newName(target string) (*name, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &name{listener: listener, target: target, open: map[*line]bool{}}
	n.lines.Go(n.accept)
	return n, nil
}

func (n *name) addr() string { return n.listener.Addr().String() }

func (n *name) accept() {
	for {
		near, err := n.listener.Accept()
		if err != nil {
			return
		}
		n.extend(near)
	}
}

// extend connects a connection with the server.
func (n *name) extend(near net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	far, err := dialer.DialContext(context.Background(), "tcp", n.target)
	if err != nil {
		near.Close()
		return
	}
	l := &line{near: near, far: far}
	n.open[l] = true
	n.lines.Go(func() { l.copy(near, far) })
	n.lines.Go(func() {
		l.copy(far, near)
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.open, l)
	})
}

// copy passes on what comes from one end until either is closed.
func (l *line) copy(to, from net.Conn) {
	defer l.close()
	_, _ = io.Copy(writer{l, to}, from)
}

func (l *line) close() {
	l.near.Close()
	l.far.Close()
}

// writer drops what is written if the line is mute.
type writer struct {
	*line
	to net.Conn
}

func (w writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mute {
		return len(p), nil
	}
	return w.to.Write(p)
}

// lead lets the name lead to another server. The open lines stay, and drop all data if mute is set.
// The returned function closes them.
func (n *name) lead(target string, mute bool) (closeOld func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.target = target
	var old []*line
	for l := range n.open {
		old = append(old, l)
		l.mu.Lock()
		l.mute = mute
		l.mu.Unlock()
	}
	return func() {
		for _, l := range old {
			l.close()
		}
	}
}

func (n *name) close() {
	n.listener.Close()
	n.lead("", false)() // nothing listens there
	n.lines.Wait()
}
