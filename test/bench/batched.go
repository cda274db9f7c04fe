package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"preauth/internal/batch"
)

const (
	// batchedCalls is how many events the program batched works on at once, batchedRows how many go into one
	// transaction, of which there are four at once, and batchedAnnouncements how many messages and batches wait for the
	// stream at once, as in preauth.
	batchedCalls, batchedTransactions, batchedRows, batchedAnnouncements = 512, 4, 100, 16
)

// runBatched is floor with everything done together that can be, and with nothing of what makes preauth safe: what the
// machine permits. Of 512 events at once, those that wait are saved in one transaction, and announced in one batch.
func runBatched(ctx context.Context, _ []string) error {
	t, err := openTaker(ctx, "batched", nil)
	if err != nil {
		return err
	}
	defer t.close()
	b := &batched{taker: t, calls: newCaller(batchedCalls)}
	b.saving = batch.New(batchedTransactions, batchedRows, func(_ context.Context, events []minted) ([]update, error) { return b.save(ctx, events) })
	b.announcing = batch.New(batchedAnnouncements, largestBatch, func(_ context.Context, updates []update) ([]struct{}, error) { return b.announce(ctx, updates) })
	b.clearing = batch.New(1, batchedRows, func(_ context.Context, ids []string) ([]struct{}, error) { return b.clear(ctx, ids) })
	places := make(chan struct{}, batchedCalls)
	reading, err := t.cons.Consume(func(msg jetstream.Msg) {
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			if err := b.work(ctx, msg); err != nil && ctx.Err() == nil {
				log.Print(err)
			}
		}()
	}, jetstream.PullMaxMessages(batchedCalls))
	if err != nil {
		return err
	}
	defer reading.Stop()
	ready("")
	<-ctx.Done()
	return nil
}

type batched struct {
	*taker
	calls      *caller
	saving     *batch.Batcher[minted, update]
	announcing *batch.Batcher[update, struct{}]
	clearing   *batch.Batcher[string, struct{}]
}

// minted is an event with its code.
type minted struct {
	tokenEvent
	code     code
	sequence uint64
	at       time.Time
}

func (b *batched) work(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	event := minted{sequence: meta.Sequence.Stream, at: meta.Timestamp.UTC()}
	if err := json.Unmarshal(msg.Data(), &event.tokenEvent); err != nil {
		return err
	}
	if event.code, err = b.calls.call(ctx, event.tokenEvent); err != nil {
		return err
	}
	update, err := b.saving.Do(ctx, event)
	if err != nil {
		return err
	}
	if err := msg.Ack(); err != nil {
		return err
	}
	if _, err := b.announcing.Do(ctx, update); err != nil {
		return err
	}
	_, err = b.clearing.Do(ctx, update.id())
	return err
}

func (b *batched) save(ctx context.Context, events []minted) ([]update, error) {
	for {
		updates, err := b.saveOnce(ctx, events)
		if failed, ok := errors.AsType[*mysql.MySQLError](err); ok && failed.Number == 1213 {
			continue
		}
		return updates, err
	}
}

// saveOnce is floor's transaction for many components at once.
func (b *batched) saveOnce(ctx context.Context, events []minted) ([]update, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	byAppID := map[string]minted{}
	for _, event := range events {
		byAppID[event.AppID] = event
	}
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()
	revisions, old := map[string]uint64{}, []uint64{}
	err = b.lock(ctx, tx, slices.Sorted(maps.Keys(byAppID)), func(appid string, revision uint64, code sql.Null[uint64]) {
		revisions[appid] = revision
		if code.Valid {
			old = append(old, code.V)
		}
	})
	if err != nil {
		return nil, err
	}
	var components, codes, outbox tuples
	updates := make([]update, len(events))
	for i, event := range events {
		revisions[event.AppID]++
		u := update{
			AppID: event.AppID, Code: event.code.PreAuthCode, IssuedAt: now, ExpiresIn: event.code.ExpiresIn, Cause: "token",
			ExpiresAt: now.Add(time.Duration(event.code.ExpiresIn) * time.Second), Revision: revisions[event.AppID],
		}
		updates[i] = u
		components.add(u.AppID, u.Revision, tokenStream, b.created, event.sequence, event.at, event.fingerprint(),
			now.Add(2*time.Hour), now.Add(24*time.Hour), now, now)
		codes.add(u.AppID, u.Revision, []byte(u.Code), u.Cause, event.fingerprint(), u.IssuedAt, u.ExpiresAt)
		outbox.add(u.id(), u.AppID, u.Revision, now)
	}
	if len(old) > 0 {
		statement, args, err := sqlx.In("UPDATE pre_auth_code SET deleted_at = ? WHERE id IN (?)", now, old)
		if err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, statement, args...); err != nil {
			return nil, err
		}
	}
	for _, insert := range []struct {
		into   string
		tuples tuples
		update string
	}{
		{`component (appid, revision, token_stream, token_stream_created, token_sequence, token_time,
token_fingerprint, token_expires_at, due_at, created_at, updated_at)`, components, ` ON DUPLICATE KEY UPDATE revision = VALUES(revision),
token_stream = VALUES(token_stream), token_stream_created = VALUES(token_stream_created), token_sequence = VALUES(token_sequence),
token_time = VALUES(token_time), token_fingerprint = VALUES(token_fingerprint), token_expires_at = VALUES(token_expires_at), attempts = 0,
due_at = VALUES(due_at), lease = NULL, failure = NULL, updated_at = VALUES(updated_at)`},
		{"pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at)", codes, ""},
		{"outbox (message_id, appid, revision, created_at)", outbox, ""},
	} {
		statement := "INSERT INTO " + insert.into + " VALUES " + strings.Join(insert.tuples.text, ",") + insert.update
		if _, err := tx.ExecContext(ctx, statement, insert.tuples.args...); err != nil {
			return nil, err
		}
	}
	return updates, tx.Commit()
}

// lock locks components and tells what each has.
func (b *batched) lock(ctx context.Context, tx *sql.Tx, appids []string, has func(appid string, revision uint64, code sql.Null[uint64])) error {
	statement, args, err := sqlx.In(`SELECT c.appid, c.revision, p.id FROM component AS c FORCE INDEX (PRIMARY)
LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0 WHERE c.appid IN (?) ORDER BY c.appid FOR UPDATE`, appids)
	if err != nil {
		return err
	}
	locked, err := tx.QueryContext(ctx, statement, args...)
	if err != nil {
		return err
	}
	defer locked.Close()
	for locked.Next() {
		var appid string
		var revision uint64
		var code sql.Null[uint64]
		if err := locked.Scan(&appid, &revision, &code); err != nil {
			return err
		}
		has(appid, revision, code)
	}
	return locked.Err()
}

func (b *batched) announce(ctx context.Context, updates []update) ([]struct{}, error) {
	msgs := make([]*nats.Msg, len(updates))
	for i, u := range updates {
		body, err := json.Marshal(u)
		if err != nil {
			return nil, err
		}
		msgs[i] = &nats.Msg{Subject: updatedSubject + "." + u.AppID, Data: body, Header: u.header()}
	}
	announced := make([]struct{}, len(updates))
	if len(msgs) >= smallestBatch {
		_, err := jetstreamext.PublishMsgBatch(ctx, b.js, msgs, jetstreamext.BatchFlowControl{})
		return announced, err
	}
	var stored []jetstream.PubAckFuture
	for _, msg := range msgs {
		future, err := b.js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute))
		if err != nil {
			return nil, err
		}
		stored = append(stored, future)
	}
	for _, future := range stored {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return announced, nil
}

func (b *batched) clear(ctx context.Context, ids []string) ([]struct{}, error) {
	statement, args, err := sqlx.In("DELETE FROM outbox WHERE message_id IN (?)", ids)
	if err == nil {
		_, err = b.db.ExecContext(ctx, statement, args...)
	}
	return make([]struct{}, len(ids)), err
}

// tuples are the values of an INSERT.
type tuples struct {
	text []string
	args []any
}

func (t *tuples) add(values ...any) {
	t.text = append(t.text, "(?"+strings.Repeat(",?", len(values)-1)+")")
	t.args = append(t.args, values...)
}
