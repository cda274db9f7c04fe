package main

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/test/chaos/check"
	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
	"preauth/wechat/wechattest"
)

// gatherer reads the state of the system, past the proxies.
type gatherer struct {
	system *system.System
	js     jetstream.JetStream
	rec    *history.Recorder
}

// The streams of the events.
const tokenStream, authorizationStream = "COMPONENT_TOKENS", "COMPONENT_AUTHORIZED"

// events returns the messages of a stream of events.
func (g *gatherer) events(ctx context.Context, name string) ([]check.StoredEvent, error) {
	var events []check.StoredEvent
	err := g.read(ctx, name, true, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
		events = append(events, check.StoredEvent{
			Sequence: meta.Sequence.Stream, ID: msg.Headers().Get(history.IDHeader), At: g.rec.At(meta.Timestamp),
		})
		return nil
	})
	return events, err
}

// authorized returns the messages of the stream that announces authorizations.
func (g *gatherer) authorized(ctx context.Context) ([]check.Authorized, error) {
	var authorized []check.Authorized
	err := g.read(ctx, "PREAUTH_AUTHORIZED", false, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		a, err := preauth.ParseAuthorized(msg.Data())
		if err == nil {
			authorized = append(authorized, check.Authorized{
				AppID: a.AppID, ClaimID: a.ClaimID, Reference: a.Reference, Authorizer: a.AuthorizerAppID, Revision: a.Revision,
			})
		}
		return err
	})
	return authorized, err
}

// failures returns the messages of the stream of failures.
func (g *gatherer) failures(ctx context.Context) ([]check.Failure, error) {
	var failures []check.Failure
	err := g.read(ctx, "PREAUTH_FAILED", false, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		failure, err := preauth.ParseFailure(msg.Data())
		if err == nil {
			failures = append(failures, g.failure(failure))
		}
		return err
	})
	return failures, err
}

func (g *gatherer) failure(f preauth.Failure) check.Failure {
	failure := check.Failure{
		AppID: f.AppID, Class: f.Class, ErrCode: f.ErrCode, Stream: f.Stream, Sequence: f.StreamSequence, At: g.rec.At(f.OccurredAt),
	}
	if !f.RetryAt.IsZero() {
		failure.RetryAt = g.rec.At(f.RetryAt)
	}
	return failure
}

// read reads a stream from its first message to the last that it has now.
func (g *gatherer) read(ctx context.Context, name string, headersOnly bool, each func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	stream, err := g.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{HeadersOnly: headersOnly})
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	left := cons.CachedInfo().NumPending
	if left == 0 {
		return nil
	}
	messages, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	defer messages.Stop()
	for left > 0 {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		meta, err := msg.Metadata()
		if err == nil {
			err = each(msg, meta)
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		left = meta.NumPending
	}
	return nil
}

// state returns the state of the system, without what events, failures and authorized return. It has
// the current codes only, unless all is set.
func (g *gatherer) state(ctx context.Context, all bool) (check.State, error) {
	state := check.State{Now: g.rec.Now(), Announced: map[string]check.Announcement{}, Components: map[string]check.Component{}}
	// Announcements first: if one comes before the rows are read, at least the rows show it.
	err := g.read(ctx, "PREAUTH", false, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		update, err := preauth.ParseUpdate(msg.Data())
		state.Announced[update.AppID] = check.Announcement{
			MessageID: msg.Headers().Get(nats.MsgIdHdr), Revision: update.Revision,
			Code: history.HashOf(update.PreAuthCode), ExpiresAt: g.rec.At(update.ExpiresAt),
		}
		return err
	})
	if err != nil {
		return state, err
	}
	for _, name := range []string{tokenStream, authorizationStream} {
		if err := g.consumer(ctx, name, &state); err != nil {
			return state, err
		}
	}
	return state, g.rows(ctx, &state, all)
}

func (g *gatherer) consumer(ctx context.Context, name string, state *check.State) error {
	stream, err := g.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	consumers := stream.ListConsumers(ctx)
	for info := range consumers.Info() {
		if strings.HasPrefix(info.Name, "preauth-") {
			state.Pending += int(info.NumPending)
			state.AckPending += info.NumAckPending
		}
	}
	return consumers.Err()
}

// rows reads the tables.
func (g *gatherer) rows(ctx context.Context, state *check.State, all bool) (err error) {
	query := func(statement string, each func(*sql.Rows) error) {
		if err == nil {
			err = query(ctx, g.system.MySQL.Root, statement, each)
		}
	}
	query("SELECT appid, revision, token_sequence, token_fingerprint, failure FROM component", func(rows *sql.Rows) error {
		var (
			appid       string
			c           check.Component
			fingerprint []byte
			failure     sql.Null[[]byte]
		)
		if err := rows.Scan(&appid, &c.Revision, &c.TokenSequence, &fingerprint, &failure); err != nil {
			return err
		}
		c.Token = history.HashOfSum(fingerprint)
		if failure.Valid {
			f, err := preauth.ParseFailure(failure.V)
			if err != nil {
				return err
			}
			recorded := g.failure(f)
			c.Failure = &recorded
		}
		state.Components[appid] = c
		return nil
	})
	which := "WHERE slot = 0"
	if all {
		which = ""
	}
	query("SELECT appid, revision, code, token_fingerprint, cause, issued_at, expires_at, deleted_at, claim_id, reference, claimed_at, authorizer_appid "+
		"FROM pre_auth_code "+which,
		func(rows *sql.Rows) error {
			var (
				c                    check.Code
				revision             sql.Null[uint64]
				code, fingerprint    []byte
				claim, reference     []byte
				authorizer           sql.Null[string]
				issued, expires      time.Time
				deletedAt, claimedAt sql.Null[time.Time]
			)
			err := rows.Scan(&c.AppID, &revision, &code, &fingerprint, &c.Cause, &issued, &expires, &deletedAt, &claim, &reference, &claimedAt, &authorizer)
			if err != nil {
				return err
			}
			c.Revision, c.Code, c.Token = revision.V, history.HashOf(preauth.NewSecret(string(code))), history.HashOfSum(fingerprint)
			c.IssuedAt, c.ExpiresAt, c.Deleted = g.rec.At(issued), g.rec.At(expires), deletedAt.Valid
			c.ClaimID, c.Reference, c.Authorizer = string(claim), string(reference), authorizer.V
			if claimedAt.Valid {
				c.ClaimedAt = g.rec.At(claimedAt.V)
			}
			state.Codes = append(state.Codes, c)
			return nil
		})
	query("SELECT message_id FROM outbox", func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		state.Outbox = append(state.Outbox, id)
		return err
	})
	return err
}

func query(ctx context.Context, db *sql.DB, statement string, each func(*sql.Rows) error) error {
	rows, err := db.QueryContext(ctx, statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// calls returns the calls that reached WeChat.
func (g *gatherer) calls() []check.Call {
	var calls []check.Call
	for _, call := range g.system.WeChat.Calls("") {
		fault := g.system.WeChat.FaultOf(call)
		calls = append(calls, check.Call{
			AppID: call.AppID, At: g.rec.At(call.Time), Token: history.HashOf(call.Token), Code: history.HashOf(call.Code),
			ErrCode: call.ErrCode, Spoilt: spoils(fault),
		})
	}
	return calls
}

// spoils reports whether a fault can keep a code that WeChat issued from the caller.
func spoils(f wechattest.Fault) bool {
	return cmp.Or(f.Delay != 0, f.Reset != wechattest.NoReset, f.ErrCode != 0, f.Status != 0, f.Body != "", f.Reply != nil, f.CutBody)
}

// watchRows records how the rows of the components change, until ctx ends.
func (g *gatherer) watchRows(ctx context.Context) {
	type row struct{ revision, sequence uint64 }
	last := map[string]row{}
	for system.Wait(ctx, 250*time.Millisecond) {
		asked, cancel := context.WithTimeout(ctx, 5*time.Second)
		begin := g.rec.Now()
		// The database is away now and then: that is one of the faults.
		_ = query(asked, g.system.MySQL.Root, "SELECT appid, revision, token_sequence FROM component", func(rows *sql.Rows) error {
			var (
				appid string
				now   row
			)
			if err := rows.Scan(&appid, &now.revision, &now.sequence); err != nil {
				return err
			}
			if last[appid] != now {
				last[appid] = now
				g.rec.Add(history.Event{Op: history.Row, Client: "observer", AppID: appid, Begin: begin, Revision: now.revision, Sequence: now.sequence})
			}
			return nil
		})
		cancel()
	}
}
