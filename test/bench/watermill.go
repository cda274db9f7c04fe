package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/nats-io/nats.go"
)

// runWatermill does the same job as Watermill's documentation builds it: a router with the
// JetStream subscriber, a handler whose transaction publishes to the forwarder's outbox table, and
// the forwarder, which publishes the rows to JetStream.
func runWatermill(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("watermill", flag.ContinueOnError)
	subject := flags.String("subject", tokenSubject, "subject of the token events")
	workers := flags.Int("workers", 1, "subscribers side by side")
	poll := flags.Duration("poll", time.Millisecond, "pause between two reads of the empty outbox table")
	batch := flags.Int("batch", 100, "rows that the forwarder reads at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	logger := watermill.NewSlogLogger(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	db, err := openDatabase(nil)
	if err != nil {
		return err
	}
	defer db.Close()
	created, err := streamCreated()
	if err != nil {
		return err
	}
	outbox := wmsql.DefaultMySQLSchema{SubscribeBatchSize: *batch}

	rows, err := wmsql.NewSubscriber(wmsql.BeginnerFromStdSQL(db), wmsql.SubscriberConfig{
		ConsumerGroup: "forwarder", SchemaAdapter: outbox, OffsetsAdapter: wmsql.DefaultMySQLOffsetsAdapter{},
		PollInterval: *poll, ResendInterval: 10 * time.Millisecond, RetryInterval: 10 * time.Millisecond, InitializeSchema: true,
	}, logger)
	if err != nil {
		return err
	}
	if err := rows.SubscribeInitialize(outboxTopic); err != nil {
		return err
	}
	publisher, err := wmnats.NewPublisher(wmnats.PublisherConfig{
		URL: os.Getenv("NATS_URL"), JetStream: wmnats.JetStreamConfig{TrackMsgId: true},
	}, logger)
	if err != nil {
		return err
	}
	forward, err := forwarder.NewForwarder(rows, publisher, logger, forwarder.Config{ForwarderTopic: outboxTopic})
	if err != nil {
		return err
	}

	events, err := wmnats.NewSubscriber(wmnats.SubscriberConfig{
		URL: os.Getenv("NATS_URL"), QueueGroupPrefix: "watermill", SubscribersCount: *workers, AckWaitTimeout: 30 * time.Second,
		JetStream: wmnats.JetStreamConfig{
			DurablePrefix: "watermill", AckAsync: true,
			SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit(), nats.MaxAckPending(4096)},
		},
	}, logger)
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddMiddleware(middleware.Retry{MaxRetries: 100, InitialInterval: time.Millisecond, MaxInterval: 50 * time.Millisecond, Logger: logger}.Middleware)
	handler := &transacting{straight: straight{db: db, created: created, calls: newCaller(*workers)}, outbox: outbox, logger: logger}
	router.AddConsumerHandler("tokens", *subject, events, handler.handle)

	failed := make(chan error, 2)
	go func() { failed <- forward.Run(ctx) }()
	go func() { failed <- router.Run(ctx) }()
	for _, running := range []chan struct{}{forward.Running(), router.Running()} {
		select {
		case <-running:
		case err := <-failed:
			return err
		}
	}
	ready("")
	return errors.Join(<-failed, <-failed)
}

const outboxTopic = "updates"

// streamCreated returns when the token stream was created.
func streamCreated() (time.Time, error) {
	nc, err := connect()
	if err != nil {
		return time.Time{}, err
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		return time.Time{}, err
	}
	info, err := js.StreamInfo(tokenStream)
	if err != nil {
		return time.Time{}, err
	}
	return info.Created.UTC(), nil
}

// transacting is Watermill's handler.
type transacting struct {
	straight
	outbox wmsql.DefaultMySQLSchema
	logger watermill.LoggerAdapter
}

func (h *transacting) handle(msg *message.Message) error {
	ctx := msg.Context()
	var event tokenEvent
	if err := json.Unmarshal(msg.Payload, &event); err != nil {
		return err
	}
	code, err := h.calls.call(ctx, event)
	if err != nil {
		return err
	}
	// Watermill hides the message's sequence in its stream. The time stands in for it.
	now := time.Now()
	_, err = h.save(ctx, event, code, uint64(now.UnixMicro()), now, func(tx *sql.Tx, u update) error {
		publisher, err := wmsql.NewPublisher(wmsql.TxFromStdSQL(tx), wmsql.PublisherConfig{SchemaAdapter: h.outbox}, h.logger)
		if err != nil {
			return err
		}
		body, err := json.Marshal(u)
		if err != nil {
			return err
		}
		announcement := message.NewMessage(fmt.Sprintf("%s.%d", u.AppID, u.Revision), body)
		for name := range u.header() {
			if name != nats.MsgIdHdr {
				announcement.Metadata.Set(name, u.header().Get(name))
			}
		}
		return forwarder.NewPublisher(publisher, forwarder.PublisherConfig{ForwarderTopic: outboxTopic}).
			Publish(updatedSubject+"."+u.AppID, announcement)
	})
	return err
}
