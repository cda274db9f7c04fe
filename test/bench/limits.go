package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// runRows updates single rows by their keys, each in a transaction of its own, on all connections at
// once, and prints how many it has updated in the time.
func runRows(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("rows", flag.ContinueOnError)
	length := flags.Duration("for", 5*time.Second, "time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	db, err := openDatabase(nil)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, statement := range []string{
		"CREATE TABLE IF NOT EXISTS single_row (id INT PRIMARY KEY, n BIGINT NOT NULL)", "DELETE FROM single_row",
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	users := db.Stats().MaxOpenConnections
	for id := range users {
		if _, err := db.ExecContext(ctx, "INSERT INTO single_row VALUES (?, 0)", id); err != nil {
			return err
		}
	}
	ready("")
	var done atomic.Int64
	begin := time.Now()
	err = together(users, func(id int) error {
		for time.Since(begin) < *length && ctx.Err() == nil {
			if err := updateRow(ctx, db, id); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
	fmt.Fprintln(os.Stdout, "rate", float64(done.Load())/time.Since(begin).Seconds())
	return err
}

func updateRow(ctx context.Context, db *sql.DB, id int) error {
	_, err := db.ExecContext(ctx, "UPDATE single_row SET n = n + 1 WHERE id = ?", id)
	return err
}

// together calls f in n goroutines with their numbers, and returns the first error.
func together(n int, f func(i int) error) error {
	failed := make(chan error, n)
	var working sync.WaitGroup
	for i := range n {
		working.Go(func() { failed <- f(i) })
	}
	working.Wait()
	for range n {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

// runDrain takes events from the stream and acknowledges them, and does nothing else: what NATS itself
// allows.
func runDrain(ctx context.Context, _ []string) error {
	nc, err := connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	cons, err := js.CreateOrUpdateConsumer(ctx, tokenStream, jetstream.ConsumerConfig{
		Durable: "drain", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 4096,
	})
	if err != nil {
		return err
	}
	reading, err := cons.Consume(func(msg jetstream.Msg) { _ = msg.Ack() }, jetstream.PullMaxMessages(4096))
	if err != nil {
		return err
	}
	defer reading.Stop()
	ready("")
	<-ctx.Done()
	return nil
}
