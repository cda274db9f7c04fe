package main

import (
	"bufio"
	"context"
	"database/sql/driver"
	"fmt"
	"os"
	"regexp"
	"sync"
	"time"
)

// tracer prints a line for each thing that a program does, and when, for the program that started
// it. The nil tracer prints nothing.
type tracer struct {
	mu  sync.Mutex
	out *bufio.Writer
}

func newTracer(on bool) *tracer {
	if !on {
		return nil
	}
	return &tracer{out: bufio.NewWriter(os.Stdout)}
}

// traceLine begins each line. What was done follows, with its begin and end in nanoseconds.
const traceLine = "trace "

func (t *tracer) span(what string, begin, end time.Time) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "%s%s %d %d\n", traceLine, what, begin.UnixNano(), end.UnixNano())
	_ = t.out.Flush()
}

// moment is a span without length.
func (t *tracer) moment(what string) {
	now := time.Now()
	t.span(what, now, now)
}

// ready tells the parent, between two lines.
func (t *tracer) ready(what string) {
	if t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	ready(what)
}

// timed is a connector that tells a tracer of each statement, by the name in its comment.
type timed struct {
	driver.Connector
	*tracer
}

func (t timed) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := t.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	whole, ok := conn.(fullConn)
	if !ok {
		return nil, fmt.Errorf("the driver's connection is a %T", conn)
	}
	return timedConn{whole, t.tracer}, nil
}

// fullConn is all that package sql may ask of a driver's connection.
type fullConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.QueryerContext
	driver.ExecerContext
	driver.ConnPrepareContext
	driver.SessionResetter
	driver.Validator
	driver.NamedValueChecker
	driver.Pinger
}

type timedConn struct {
	fullConn
	tracer *tracer
}

var statementName = regexp.MustCompile(`^/\* (?:repo\.)?([a-z_]+) \*/`)

func (c timedConn) done(statement string, begin time.Time) {
	name := "other"
	if found := statementName.FindStringSubmatch(statement); found != nil {
		name = found[1]
	}
	c.tracer.span("sql."+name, begin, time.Now())
}

func (c timedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	defer c.done(query, time.Now())
	return c.fullConn.QueryContext(ctx, query, args)
}

func (c timedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	defer c.done(query, time.Now())
	return c.fullConn.ExecContext(ctx, query, args)
}

func (c timedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	defer c.done("/* begin */", time.Now())
	tx, err := c.fullConn.BeginTx(ctx, opts)
	return timedTx{tx, c}, err
}

type timedTx struct {
	driver.Tx
	conn timedConn
}

func (t timedTx) Commit() error {
	defer t.conn.done("/* commit */", time.Now())
	return t.Tx.Commit()
}
