// Package repotest makes a real database fail on command, to test what is built on package repo.
//
//	r, faults, err := repotest.Open(dsn, 4)
//	faults.Script("commit", repotest.Applied) // the next COMMIT takes effect, but its answer is lost
//
// An operation is "connect", "begin", "commit", "rollback", or the name in the comment that begins
// each statement of packages repo and database, such as "lock" for /* repo.lock */.
package repotest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"maps"
	"regexp"
	"slices"
	"sync"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/database"
	"preauth/repo"
)

// Fault is what happens to one operation.
type Fault struct {
	// Before, if set, is called before the operation. A test can block in it.
	Before func()
	// Skip keeps the operation from the server.
	Skip bool
	// After, if set, is called after the operation.
	After func()
	// Err, if set, replaces the server's answer. [mysql.ErrInvalidConn] closes the connection too, and
	// the server then rolls back what was not committed.
	Err error
}

// The two ways to lose a connection. A program cannot tell them apart.
var (
	// NotApplied loses the connection before the operation reaches the server.
	NotApplied = Fault{Skip: true, Err: mysql.ErrInvalidConn}
	// Applied loses the connection after the server has done the operation.
	Applied = Fault{Err: mysql.ErrInvalidConn}
)

// Answered makes the server refuse an operation with an error number such as 1213, and text as its
// message. A refused COMMIT is rolled back.
func Answered(number uint16, text string) Fault {
	return Fault{Skip: true, Err: &mysql.MySQLError{Number: number, Message: text}}
}

// Faults is a connector that passes operations on to another one, and makes those fail that a
// script names. It is safe for concurrent use.
type Faults struct {
	connector driver.Connector

	mu      sync.Mutex
	script  map[string][]Fault
	seen    []string
	refused map[uint16]int
}

// Faulty returns a connector that works like the given one until faults are scripted.
func Faulty(connector driver.Connector) *Faults {
	return &Faults{connector: connector, script: map[string][]Fault{}, refused: map[uint16]int{}}
}

// Open returns a Repo like [repo.Open], and the faults of its connections. The caller closes the
// Repo.
func Open(dsn string, maxConns int) (*repo.Repo, *Faults, error) {
	connector, err := database.Connector(dsn)
	if err != nil {
		return nil, nil, err
	}
	faults := Faulty(connector)
	return repo.New(database.New(sql.OpenDB(faults), maxConns)), faults, nil
}

// Script queues faults for the next runs of an operation, one for each run. A zero [Fault] lets a
// run pass.
func (f *Faults) Script(operation string, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script[operation] = append(f.script[operation], faults...)
}

// Reset drops the queued faults.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.script)
}

// Unmet returns how many faults are still queued.
func (f *Faults) Unmet() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	unmet := 0
	for _, faults := range f.script {
		unmet += len(faults)
	}
	return unmet
}

// Operations returns the operations since the last call, in order.
func (f *Faults) Operations() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := slices.Clone(f.seen)
	f.seen = nil
	return seen
}

// Refusals returns how often the server itself refused an operation since the last call, by error
// number: 1213 for a deadlock, 1062 for a duplicate in a unique key.
func (f *Faults) Refusals() map[uint16]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	refused := maps.Clone(f.refused)
	clear(f.refused)
	return refused
}

// count counts an operation that the server refused.
func (f *Faults) count(err error) {
	server, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused[server.Number]++
}

// Connect implements [driver.Connector].
func (f *Faults) Connect(ctx context.Context) (driver.Conn, error) {
	return meet(f, "connect", nil, func() (driver.Conn, error) {
		inner, err := f.connector.Connect(ctx)
		if err != nil {
			return nil, err
		}
		full, ok := inner.(fullConn)
		if !ok {
			_ = inner.Close()
			return nil, errors.New("repotest: the connection is not one of github.com/go-sql-driver/mysql")
		}
		return &conn{fullConn: full, faults: f}, nil
	}, func(c driver.Conn) { _ = c.Close() })
}

// Driver implements [driver.Connector].
func (f *Faults) Driver() driver.Driver { return f.connector.Driver() }

// next records an operation and takes its fault from the queue.
func (f *Faults) next(operation string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, operation)
	faults := f.script[operation]
	if len(faults) == 0 {
		return Fault{}
	}
	f.script[operation] = faults[1:]
	return faults[0]
}

// meet runs an operation on a connection, with its fault. An answer that the program does not get
// is passed to drop.
func meet[Answer any](f *Faults, operation string, on *conn, run func() (Answer, error), drop func(Answer)) (answer Answer, err error) {
	var none Answer
	fault := f.next(operation)
	if fault.Before != nil {
		fault.Before()
	}
	if !fault.Skip {
		answer, err = run()
		f.count(err)
	}
	if fault.After != nil {
		fault.After()
	}
	if fault.Err == nil {
		return answer, err
	}
	if !fault.Skip && err == nil && drop != nil {
		drop(answer)
	}
	if on != nil && errors.Is(fault.Err, mysql.ErrInvalidConn) {
		on.lose()
	}
	return none, fault.Err
}

// fullConn is the interface of the driver's connections.
type fullConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type conn struct {
	fullConn
	faults *Faults
	lost   bool // one goroutine at a time uses a connection
}

func (c *conn) lose() {
	c.lost = true
	_ = c.fullConn.Close()
}

func (c *conn) IsValid() bool { return !c.lost && c.fullConn.IsValid() }

func (c *conn) Close() error {
	if c.lost {
		return nil
	}
	return c.fullConn.Close()
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return meet(c.faults, "begin", c, func() (driver.Tx, error) {
		inner, err := c.fullConn.BeginTx(ctx, opts)
		if err != nil {
			return nil, err
		}
		return &tx{inner, c}, nil
	}, nil)
}

func (c *conn) ExecContext(ctx context.Context, statement string, args []driver.NamedValue) (driver.Result, error) {
	return meet(c.faults, operationOf(statement), c, func() (driver.Result, error) {
		return c.fullConn.ExecContext(ctx, statement, args)
	}, nil)
}

func (c *conn) QueryContext(ctx context.Context, statement string, args []driver.NamedValue) (driver.Rows, error) {
	return meet(c.faults, operationOf(statement), c, func() (driver.Rows, error) {
		return c.fullConn.QueryContext(ctx, statement, args)
	}, func(rows driver.Rows) { _ = rows.Close() })
}

var nameComment = regexp.MustCompile(`^/\* (?:repo|database)\.(\w+) \*/`)

func operationOf(statement string) string {
	if name := nameComment.FindStringSubmatch(statement); name != nil {
		return name[1]
	}
	return "unnamed"
}

type tx struct {
	inner driver.Tx
	conn  *conn
}

func (t *tx) Commit() error {
	committed := false
	_, err := meet(t.conn.faults, "commit", t.conn, func() (struct{}, error) {
		committed = true
		return struct{}{}, t.inner.Commit()
	}, nil)
	if !committed && !t.conn.lost {
		_ = t.inner.Rollback()
	}
	return err
}

func (t *tx) Rollback() error {
	if t.conn.lost {
		return driver.ErrBadConn
	}
	_, err := meet(t.conn.faults, "rollback", t.conn, func() (struct{}, error) { return struct{}{}, t.inner.Rollback() }, nil)
	return err
}
