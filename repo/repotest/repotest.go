// Package repotest makes a real database fail on command, for tests of what is built on package repo.
//
//	r, faults, err := repotest.Open(dsn, 4)
//	faults.Script("commit", repotest.Applied) // the next COMMIT is done, but its answer gets lost
//
// An operation is "connect", "begin", "commit", "rollback", or the name in the comment that a
// statement of package repo begins with, such as "lock" for /* repo.lock */.
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
	"github.com/jmoiron/sqlx"

	"preauth/repo"
)

// Fault is what one operation meets.
type Fault struct {
	// Before is called before the operation, if it is set. A test waits in it for what has to happen
	// in between.
	Before func()
	// Skip keeps the operation from the server.
	Skip bool
	// After is called after the operation, if it is set.
	After func()
	// Err is the answer in place of the server's. With [mysql.ErrInvalidConn] the connection is closed
	// too, upon which the server rolls back what was not committed. Nil leaves the answer as it is.
	Err error
}

// The two ways to lose a connection, which a program cannot tell apart.
var (
	// NotApplied loses it before the server gets the operation.
	NotApplied = Fault{Skip: true, Err: mysql.ErrInvalidConn}
	// Applied loses it after the server has done the operation.
	Applied = Fault{Err: mysql.ErrInvalidConn}
)

// Answered is the server's refusal of an operation, with an error number such as 1213. text is what
// the server says about it. A COMMIT that is refused is rolled back.
func Answered(number uint16, text string) Fault {
	return Fault{Skip: true, Err: &mysql.MySQLError{Number: number, Message: text}}
}

// Faults connects as the connector below it, and makes operations fail that a script names. It is
// safe for concurrent use.
type Faults struct {
	connector driver.Connector

	mu      sync.Mutex
	script  map[string][]Fault
	seen    []string
	refused map[uint16]int
}

// Faulty returns a connector that works like the given one as long as nothing is scripted.
func Faulty(connector driver.Connector) *Faults {
	return &Faults{connector: connector, script: map[string][]Fault{}, refused: map[uint16]int{}}
}

// Open returns a Repo as [repo.Open] does, and the faults of its connections. Closing the Repo is the
// caller's.
func Open(dsn string, maxConns int) (*repo.Repo, *Faults, error) {
	connector, err := repo.Connector(dsn)
	if err != nil {
		return nil, nil, err
	}
	faults := Faulty(connector)
	db := sql.OpenDB(faults)
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	return repo.New(sqlx.NewDb(db, "mysql")), faults, nil
}

// Script lets the next runs of an operation meet the faults, one each in their order, after those
// scripted before. A zero [Fault] lets a run pass.
func (f *Faults) Script(operation string, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script[operation] = append(f.script[operation], faults...)
}

// Reset forgets the faults that no operation has met.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.script)
}

// Unmet returns how many scripted faults no operation has met yet.
func (f *Faults) Unmet() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	unmet := 0
	for _, faults := range f.script {
		unmet += len(faults)
	}
	return unmet
}

// Operations returns the operations begun since the last call, in their order.
func (f *Faults) Operations() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := slices.Clone(f.seen)
	f.seen = nil
	return seen
}

// Refusals returns how often the server itself has refused an operation since the last call, by its
// error number: 1213 for a deadlock, 1062 for a value that a unique key has already.
func (f *Faults) Refusals() map[uint16]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	refused := maps.Clone(f.refused)
	clear(f.refused)
	return refused
}

// note counts what the server refuses.
func (f *Faults) note(err error) {
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
			return nil, errors.New("repotest: the connection is none of github.com/go-sql-driver/mysql")
		}
		return &conn{fullConn: full, faults: f}, nil
	}, func(c driver.Conn) { _ = c.Close() })
}

// Driver implements [driver.Connector].
func (f *Faults) Driver() driver.Driver { return f.connector.Driver() }

// begin notes an operation and returns the fault that it meets.
func (f *Faults) begin(operation string) Fault {
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

// meet runs an operation on a connection, with the fault that it meets. An answer that does not reach
// the program is handed to drop.
func meet[Answer any](f *Faults, operation string, on *conn, run func() (Answer, error), drop func(Answer)) (answer Answer, err error) {
	var none Answer
	fault := f.begin(operation)
	if fault.Before != nil {
		fault.Before()
	}
	if !fault.Skip {
		answer, err = run()
		f.note(err)
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

// fullConn is what the driver's connections can do.
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
	lost   bool // database/sql lets one goroutine at a time use a connection
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

var nameComment = regexp.MustCompile(`^\s*/\* repo\.(\w+) \*/`)

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
