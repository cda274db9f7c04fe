package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/database"
)

const (
	// programCommand is the first argument of this command when it is one of its own programs.
	programCommand = "program"
	// readyLine begins the line with which a program says that it works.
	readyLine = "ready "
)

// programs are what this command runs as processes of their own. Each works until ctx ends.
var programs = map[string]func(ctx context.Context, args []string) error{
	"floor":     runFloor,
	"watermill": runWatermill,
	"textbook":  runTextbook,
	"micro":     runMicro,
	"sdk":       runSDK,
	"drain":     runDrain,
	"wechat":    runWeChat,
	"traced":    runTraced,
}

// runProgram runs one of the programs until the parent is gone or a signal asks to stop.
func runProgram(ctx context.Context, name string, args []string) error {
	run := programs[name]
	if run == nil {
		return fmt.Errorf("no program is called %q", name)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return run(ctx, args)
}

// ready tells the parent.
func ready(what string) { fmt.Fprintln(os.Stdout, readyLine+what) }

// connect connects to NATS as the environment says.
func connect() (*nats.Conn, error) {
	return nats.Connect(os.Getenv("NATS_URL"), nats.MaxReconnects(-1))
}

// openDatabase opens the database as preauth does, with as many connections as it may have. trace
// may be nil.
func openDatabase(trace *tracer) (*sql.DB, error) {
	connector, err := database.Connector(os.Getenv("MYSQL_DSN"))
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(os.Getenv("MYSQL_CONNECTIONS"))
	if err != nil {
		return nil, fmt.Errorf("MYSQL_CONNECTIONS: %w", err)
	}
	if trace != nil {
		connector = timed{connector, trace}
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	db.SetConnMaxIdleTime(idleTime)
	return db, nil
}

// taker is what a program needs that takes token events and saves codes.
type taker struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	db      *sql.DB
	cons    jetstream.Consumer
	created time.Time // of the token stream
}

// openTaker connects, and creates the program's consumer of the token stream.
func openTaker(ctx context.Context, durable string, trace *tracer) (_ *taker, err error) {
	t := &taker{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.nc, err = connect(); err != nil {
		return nil, err
	}
	if t.js, err = jetstream.New(t.nc); err != nil {
		return nil, err
	}
	if t.db, err = openDatabase(trace); err != nil {
		return nil, err
	}
	stream, err := t.js.Stream(ctx, tokenStream)
	if err != nil {
		return nil, err
	}
	t.created = stream.CachedInfo().Created.UTC()
	t.cons, err = stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: durable, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 4096,
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *taker) close() error {
	if t.nc != nil {
		t.nc.Close()
	}
	if t.db != nil {
		return t.db.Close()
	}
	return nil
}
