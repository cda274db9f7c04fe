package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// runFloor is the straight-line program: fetch one message, call WeChat once, commit one
// transaction, publish once and wait for the stream's answer, acknowledge, and fetch the next
// message. It does not batch, renew, record failures, keep a view or answer look-ups, and it
// retries nothing but deadlocks. It does not read either whether the event was worked on before,
// unless asked to with -read: preauth has to, so that a redelivered event costs no call.
func runFloor(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	workers := flags.Int("workers", 1, "workers side by side")
	read := flags.Bool("read", false, "read the component before the call")
	steps := flags.Bool("steps", false, "print the steps")
	if err := flags.Parse(args); err != nil {
		return err
	}
	trace := newTracer(*steps)
	t, err := openTaker(ctx, "floor", trace)
	if err != nil {
		return err
	}
	defer t.close()
	f := &straight{db: t.db, created: t.created, read: *read, calls: newCaller(*workers), trace: trace}
	var working sync.WaitGroup
	for range *workers {
		working.Go(func() {
			var published []string
			for ctx.Err() == nil {
				msg, err := t.cons.Next(jetstream.FetchMaxWait(time.Second))
				if err != nil {
					continue // none came
				}
				if published, err = f.work(ctx, t.js, msg, published); err != nil && ctx.Err() == nil {
					log.Print(err)
				}
			}
		})
	}
	trace.ready("")
	working.Wait()
	return nil
}

// straight does the work of the programs that are built without preauth's parts.
type straight struct {
	db      *sql.DB
	created time.Time // of the token stream
	read    bool      // the component before the call
	calls   *caller
	trace   *tracer
}

// announced is how many outbox rows one DELETE removes. Nobody sees when they go, so a DELETE for
// each would not be indispensable.
const announced = 100

func (f *straight) work(ctx context.Context, js jetstream.JetStream, msg jetstream.Msg, published []string) ([]string, error) {
	f.trace.moment("received")
	meta, err := msg.Metadata()
	if err != nil {
		return published, err
	}
	var event tokenEvent
	if err := json.Unmarshal(msg.Data(), &event); err != nil {
		return published, err
	}
	if f.read {
		if _, err := f.known(ctx, event.AppID); err != nil {
			return published, err
		}
	}
	code, err := f.calls.call(ctx, event)
	if err != nil {
		return published, err
	}
	f.trace.moment("issued")
	update, err := f.save(ctx, event, code, meta.Sequence.Stream, meta.Timestamp, func(tx *sql.Tx, u update) error {
		_, err := tx.ExecContext(ctx, "/* announce */ INSERT INTO outbox (message_id, appid, revision, created_at) VALUES (?, ?, ?, ?)",
			u.id(), u.AppID, u.Revision, u.IssuedAt)
		return err
	})
	if err != nil {
		return published, err
	}
	body, err := json.Marshal(update)
	if err != nil {
		return published, err
	}
	_, err = js.PublishMsg(ctx, &nats.Msg{
		Subject: updatedSubject + "." + event.AppID, Data: body, Header: update.header(),
	})
	if err != nil {
		return published, err
	}
	f.trace.moment("announced")
	if err := msg.Ack(); err != nil {
		return published, err
	}
	f.trace.moment("acknowledged")
	if published = append(published, update.id()); len(published) < announced {
		return published, nil
	}
	statement, ids, err := sqlx.In("/* announced */ DELETE FROM outbox WHERE message_id IN (?)", published)
	if err == nil {
		_, err = f.db.ExecContext(ctx, statement, ids...)
	}
	return nil, err
}

// known returns the fingerprint of the token that the component's current code was made with.
func (f *straight) known(ctx context.Context, appid string) ([]byte, error) {
	var sequence uint64
	var fingerprint []byte
	var expiresAt sql.Null[time.Time]
	err := f.db.QueryRowContext(ctx, `/* components */ SELECT c.token_sequence, p.token_fingerprint, p.expires_at FROM component AS c
LEFT JOIN pre_auth_code AS p ON p.appid = c.appid AND p.slot = 0 WHERE c.appid = ?`, appid).Scan(&sequence, &fingerprint, &expiresAt)
	return fingerprint, err
}

// tokenEvent and update are the messages of the contract, without what is not needed here.
type tokenEvent struct {
	AppID string `json:"component_appid"`
	Token string `json:"component_access_token"`
}

// fingerprint is what is stored in place of the token.
func (e tokenEvent) fingerprint() []byte {
	sum := sha256.Sum256([]byte(e.Token))
	return sum[:]
}

type update struct {
	AppID     string    `json:"component_appid"`
	Code      string    `json:"pre_auth_code"`
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	ExpiresIn int       `json:"expires_in"`
	Revision  uint64    `json:"revision"`
	Cause     string    `json:"cause"`
}

func (u update) id() string { return fmt.Sprintf("%s.%d", u.AppID, u.Revision) }

// header is like that of preauth's announcements.
func (u update) header() nats.Header {
	return nats.Header{
		nats.MsgIdHdr: {u.id()}, "ce-id": {u.id()}, "ce-type": {"preauth.updated"}, "ce-source": {"/floor"},
		"ce-subject": {u.AppID}, "ce-time": {u.IssuedAt.Format(time.RFC3339Nano)}, "ce-specversion": {"1.0"},
		"content-type": {"application/json"},
	}
}

// save is the transaction: it locks and updates the component's row, retires the old code, inserts
// the new one, and calls announce. After a deadlock it tries again.
func (f *straight) save(
	ctx context.Context, event tokenEvent, code code, sequence uint64, at time.Time, announce func(*sql.Tx, update) error,
) (update, error) {
	for {
		u, err := f.saveOnce(ctx, event, code, sequence, at, announce)
		if failed, ok := errors.AsType[*mysql.MySQLError](err); ok && failed.Number == 1213 {
			continue
		}
		return u, err
	}
}

func (f *straight) saveOnce(
	ctx context.Context, event tokenEvent, code code, sequence uint64, at time.Time, announce func(*sql.Tx, update) error,
) (update, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	u := update{
		AppID: event.AppID, Code: code.PreAuthCode, IssuedAt: now,
		ExpiresAt: now.Add(time.Duration(code.ExpiresIn) * time.Second), ExpiresIn: code.ExpiresIn, Cause: "token",
	}
	tx, err := f.db.BeginTx(ctx, nil)
	if err != nil {
		return u, err
	}
	defer func() { _ = tx.Rollback() }()
	var old sql.Null[uint64]
	err = tx.QueryRowContext(ctx, `/* lock */ SELECT c.revision, p.id FROM component AS c
LEFT JOIN pre_auth_code AS p ON p.appid = c.appid AND p.slot = 0 WHERE c.appid = ? FOR UPDATE`, event.AppID).Scan(&u.Revision, &old)
	if err != nil {
		return u, err
	}
	u.Revision++
	fingerprint := event.fingerprint()
	_, err = tx.ExecContext(ctx, `/* component */ UPDATE component SET revision = ?, token_stream = ?, token_stream_created = ?, token_sequence = ?, token_time = ?,
token_fingerprint = ?, token_expires_at = ?, attempts = 0, due_at = ?, lease = NULL, failure = NULL, updated_at = ? WHERE appid = ?`,
		u.Revision, tokenStream, f.created, sequence, at.UTC(), fingerprint, now.Add(2*time.Hour), now.Add(24*time.Hour), now, event.AppID)
	if err != nil {
		return u, err
	}
	if old.Valid {
		if _, err := tx.ExecContext(ctx, "/* retire */ UPDATE pre_auth_code SET deleted_at = ? WHERE id = ?", now, old.V); err != nil {
			return u, err
		}
	}
	_, err = tx.ExecContext(ctx, `/* code */ INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at)
VALUES (?, ?, ?, ?, ?, ?, ?)`, event.AppID, u.Revision, []byte(code.PreAuthCode), u.Cause, fingerprint, u.IssuedAt, u.ExpiresAt)
	if err != nil {
		return u, err
	}
	if err := announce(tx, u); err != nil {
		return u, err
	}
	return u, tx.Commit()
}

// code is WeChat's answer.
type code struct {
	PreAuthCode string `json:"pre_auth_code"`
	ExpiresIn   int    `json:"expires_in"`
}

// caller calls WeChat.
type caller struct {
	client *http.Client
	url    string
}

// newCaller returns a caller that keeps a connection for each worker.
func newCaller(workers int) *caller {
	return &caller{
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers, DisableCompression: true}},
		url:    os.Getenv("PREAUTH_WECHAT_URL") + "/cgi-bin/component/api_create_preauthcode?component_access_token=",
	}
}

func (c *caller) call(ctx context.Context, event tokenEvent) (code, error) {
	body, err := json.Marshal(map[string]string{"component_appid": event.AppID})
	if err != nil {
		return code{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+url.QueryEscape(event.Token), bytes.NewReader(body))
	if err != nil {
		return code{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.client.Do(req)
	if err != nil {
		return code{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return code{}, err
	}
	var answer code
	if err := json.Unmarshal(text, &answer); err != nil {
		return code{}, err
	}
	if answer.PreAuthCode == "" {
		return code{}, errors.New("WeChat gives no code")
	}
	return answer, nil
}
