package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/pause"
	"preauth/internal/stream"
)

// replayCommand announces stored tokens again.
type replayCommand struct {
	components
	client
	jetStream

	Since   time.Duration `name:"since" default:"24h" range:"1s..24h" help:"How far back to look for a component's newest event."`
	DryRun  bool          `name:"dry-run" help:"Show what would be replayed, and replay nothing."`
	Wait    time.Duration `name:"wait" default:"30s" range:"0s..1h" help:"Time to wait until the service has worked on what is replayed."`
	Durable string        `name:"durable" env:"PREAUTH_DURABLE" default:"preauth" form:"name" hidden:"" help:"Name of the durable consumer of the token stream."`
}

// Run has the service work again on the newest stored event of each component, and prints what became
// of it.
func (c replayCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	s, err := c.connect()
	if err != nil {
		return err
	}
	defer s.close()
	js, err := c.jetStream.open(s)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	r := replayer{
		replayCommand: c, session: s, js: js, newest: map[string]storedEvent{},
		role: stream.Role{Name: "token stream", Events: s.subjects.TokenUpdated},
	}
	plan, err := r.plan(ctx)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if !c.DryRun {
		err = r.replay(ctx, plan) // what was replayed before an error is printed too
	}
	if c.JSON {
		err = errors.Join(printReplayedJSON(to.Out, plan), err)
	} else {
		printReplayed(to.Out, plan, c.DryRun)
	}
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if slices.ContainsFunc(plan, func(p *replayed) bool { return p.reason == "" || p.reason == newerCame }) {
		return nil
	}
	return errNothingReplayed
}

var errNothingReplayed = errors.New("replay: nothing to replay: have the token service announce the current tokens")

// newerCame is the reason where a repetition has become needless.
const newerCame = "a newer event came meanwhile"

// storedEvent is a token event as the stream has it.
type storedEvent struct {
	preauth.TokenEvent

	sequence uint64
	storedAt time.Time
}

// replayed is a component's newest event, and what became of it.
type replayed struct {
	storedEvent

	reason string // why it was not replayed
	as     uint64 // the sequence of its repetition, 0 if there is none
	// before and after are how the component fared before, and once the service has worked on the
	// repetition. They are nil where that is not known.
	before, after *preauth.Status
}

// replayer replays the events of a stream.
type replayer struct {
	replayCommand

	session *session
	js      jetstream.JetStream
	role    stream.Role
	tokens  jetstream.Stream
	newest  map[string]storedEvent // by component
	last    uint64                 // all events up to this sequence have been read
	flat    bool                   // the stream takes no subjects of components
}

// plan returns the newest event of each component, sorted, and whether it can be replayed.
func (r *replayer) plan(ctx context.Context) (plan []*replayed, err error) {
	known, err := r.statuses(ctx) // first: without the service nobody works on anything
	if err != nil {
		return nil, err
	}
	if err := r.find(ctx); err != nil {
		return nil, err
	}
	since := time.Now().Add(-r.Since)
	if err := r.read(ctx, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since}); err != nil {
		return nil, err
	}
	name := r.tokens.CachedInfo().Config.Name
	if len(r.newest) == 0 {
		of := "no event"
		if r.Component != "" {
			of += " of " + r.Component
		}
		return nil, fmt.Errorf("the stream %s has %s from the last %v: have the token service announce the current token", name, of, r.Since)
	}
	for _, appid := range slices.Sorted(maps.Keys(r.newest)) {
		p := &replayed{storedEvent: r.newest[appid], before: known[appid]}
		p.reason = hopeless(p, name)
		plan = append(plan, p)
	}
	return plan, nil
}

// hopeless returns why nothing but another token helps a component, "" if that is not so.
func hopeless(p *replayed, stream string) string {
	if !p.ExpiresAt.After(time.Now()) {
		return "the token has expired: announce a newer one"
	}
	if p.before != nil && p.before.Failure != nil {
		f := p.before.Failure
		if f.Class == preauth.ClassTokenRejected && f.RetryAt.IsZero() && f.Stream == stream && f.StreamSequence == p.sequence {
			return "WeChat rejected the token: announce a newer one"
		}
	}
	return ""
}

// statuses returns how the components fare that the command is about.
func (r *replayer) statuses(ctx context.Context) (map[string]*preauth.Status, error) {
	known := map[string]*preauth.Status{}
	err := r.session.ask(ctx, r.Timeout, r.session.subjects.Status, func(ctx context.Context, s *session) error {
		if r.Component != "" {
			status, err := s.Status(ctx, r.Component)
			if failed, ok := errors.AsType[*preauth.Error](err); ok && failed.Code == preauth.StatusNotFound {
				return nil
			}
			known[r.Component] = &status
			return err
		}
		all, err := s.statuses(ctx, preauth.StatusRequest{})
		for _, status := range all.Components {
			known[status.AppID] = &status
		}
		return err
	})
	return known, err
}

// find finds the stream of the tokens.
func (r *replayer) find(ctx context.Context) error {
	return r.session.ask(ctx, r.Timeout, "the JetStream API", func(ctx context.Context, s *session) error {
		name, err := r.js.StreamNameBySubject(ctx, s.subjects.TokenUpdated+".>")
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			r.flat = true
			name, err = r.js.StreamNameBySubject(ctx, s.subjects.TokenUpdated)
		}
		if err != nil {
			return fmt.Errorf("the stream of %s: %w", s.subjects.TokenUpdated, err)
		}
		r.tokens, err = r.js.Stream(ctx, name)
		return err
	})
}

// readTimeout bounds the time in which the stream is read.
const readTimeout = time.Minute

// read takes in the events from a start on. Of each component it keeps the newest one whose token
// lives, as the service does, and one with a dead token if there is no other.
func (r *replayer) read(ctx context.Context, from jetstream.ConsumerConfig) error {
	return r.session.ask(ctx, readTimeout, "the JetStream API", func(ctx context.Context, s *session) error {
		info, err := r.tokens.Info(ctx)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		from.FilterSubject = r.role.Filter(info.Config)
		caughtUp, now := false, time.Now()
		err = stream.NewReader(s.nc, slog.New(slog.DiscardHandler)).Read(ctx, r.tokens, from, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
			r.last = max(r.last, meta.Sequence.Stream)
			if !r.role.IsEvent(msg.Subject()) {
				return
			}
			event, err := preauth.ParseTokenEvent(preauth.AppIDFromSubject(r.role.Events, msg.Subject()), msg.Headers(), msg.Data(), meta.Timestamp)
			known, ok := r.newest[event.AppID]
			if err != nil || r.Component != "" && event.AppID != r.Component || ok && !event.ExpiresAt.After(now) && known.ExpiresAt.After(now) {
				return
			}
			r.newest[event.AppID] = storedEvent{event, meta.Sequence.Stream, meta.Timestamp}
		}, func() {
			caughtUp = true
			cancel()
		})
		if !caughtUp {
			return errors.Join(err, context.Cause(ctx))
		}
		r.last = max(r.last, info.State.LastSeq)
		return nil
	})
}

// replay publishes the events again, and notes how the components fare afterwards.
func (r *replayer) replay(ctx context.Context, plan []*replayed) error {
	for _, p := range plan {
		if p.reason == "" {
			if err := r.publish(ctx, p); err != nil {
				return fmt.Errorf("%s: %w", p.AppID, err)
			}
		}
	}
	if !slices.ContainsFunc(plan, func(p *replayed) bool { return p.as > 0 }) {
		return nil
	}
	worked, err := r.await(ctx)
	if err != nil {
		return err
	}
	after, err := r.statuses(ctx)
	for _, p := range plan {
		if p.as > 0 && p.as <= worked {
			p.after = after[p.AppID]
		}
	}
	return err
}

// publish publishes an event again, with the times that its token has. The stream takes it only if
// nothing came that was not read: behind a newer token, the repetition would count as the newest.
func (r *replayer) publish(ctx context.Context, p *replayed) error {
	msg := nats.NewMsg(preauth.SubjectFor(r.role.Events, p.AppID))
	if r.flat {
		msg.Subject = r.role.Events
	}
	msg.Data = p.Encode()
	msg.Header = preauth.AddTraceParent(msg.Header, p.TraceParent)
	for r.newest[p.AppID].sequence == p.sequence {
		var stored *jetstream.PubAck
		err := r.session.ask(ctx, r.Timeout, msg.Subject, func(ctx context.Context, _ *session) (err error) {
			stored, err = r.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequence(r.last))
			return err
		})
		switch code := stream.ErrorCode(err); {
		case err == nil:
			p.as, r.last = stored.Sequence, stored.Sequence
			return nil
		case code != jetstream.JSErrCodeStreamWrongLastSequence && code != jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return err
		}
		if err := r.read(ctx, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.last + 1}); err != nil {
			return err
		}
	}
	p.reason = newerCame
	return nil
}

// lookAgain is how often replay looks how far the service is.
const lookAgain = 50 * time.Millisecond

// await waits until the service has worked on all events, for as long as the command may. It returns
// the sequence up to which the service has.
func (r *replayer) await(ctx context.Context) (worked uint64, err error) {
	durable := stream.IdentityOf(r.tokens.CachedInfo()).Durable(r.Durable)
	for end := time.Now().Add(r.Wait); ; {
		err := r.session.ask(ctx, r.Timeout, "the JetStream API", func(ctx context.Context, _ *session) error {
			consumer, err := r.tokens.Consumer(ctx, durable)
			switch {
			case errors.Is(err, jetstream.ErrConsumerNotFound): // the service is about to create it
				return nil
			case err != nil:
				return err
			}
			worked = consumer.CachedInfo().AckFloor.Stream
			return nil
		})
		if err != nil || worked >= r.last || !time.Now().Before(end) || !pause.For(ctx, lookAgain) {
			return worked, err
		}
	}
}

// result says what became of an event.
func (p *replayed) result(dryRun bool) string {
	switch {
	case p.reason != "":
		return p.reason
	case dryRun:
		return "would be replayed"
	case p.as == 0:
		return "not replayed"
	case p.after == nil:
		return "waits in the stream"
	case p.after.Failure != nil:
		return "no code: " + reasonOf(p.after.Failure)
	case p.before == nil || p.after.Revision > p.before.Revision:
		return "new code, revision " + strconv.FormatUint(p.after.Revision, 10)
	default:
		return "code is current, revision " + strconv.FormatUint(p.after.Revision, 10)
	}
}

func printReplayed(out io.Writer, plan []*replayed, dryRun bool) {
	now := time.Now()
	t := table{
		titles:     []string{"COMPONENT", "EVENT", "STORED", "TOKEN FOR", "AGAIN AS", "RESULT"},
		expendable: []string{"AGAIN AS", "EVENT", "TOKEN FOR"},
	}
	for _, p := range plan {
		as := "-"
		if p.as > 0 {
			as = strconv.FormatUint(p.as, 10)
		}
		t.rows = append(t.rows, []string{
			p.AppID, strconv.FormatUint(p.sequence, 10), since(p.storedAt, now) + " ago", in(p.ExpiresAt, now), as, p.result(dryRun),
		})
	}
	t.print(out, screenOf(out))
}

// printReplayedJSON prints an object for each event, without its token.
func printReplayedJSON(out io.Writer, plan []*replayed) error {
	encoder := json.NewEncoder(out)
	for _, p := range plan {
		line := struct {
			AppID          string          `json:"component_appid"`
			Sequence       uint64          `json:"stream_sequence"`
			StoredAt       time.Time       `json:"stored_at"`
			TokenExpiresAt time.Time       `json:"token_expires_at"`
			As             uint64          `json:"replayed_as,omitempty"`
			Reason         string          `json:"reason,omitempty"`
			Status         json.RawMessage `json:"status,omitempty"`
		}{p.AppID, p.sequence, p.storedAt, p.ExpiresAt, p.as, p.reason, nil}
		if p.after != nil {
			line.Status = p.after.Encode()
		}
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return nil
}
