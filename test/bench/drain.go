package main

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// runDrain takes events from the stream and acknowledges them, and does nothing else: it shows what
// NATS itself allows.
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
