package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"log"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// runTextbook answers claims the way that textbooks take a row from a queue: in one transaction,
// lock the oldest spare that nobody else has locked, and give it to the claim. It does not look
// whether the claim id has a code already.
func runTextbook(ctx context.Context, _ []string) error {
	db, err := openDatabase(nil)
	if err != nil {
		return err
	}
	defer db.Close()
	return respond(ctx, func(nc *nats.Conn) error {
		_, err := nc.QueueSubscribe(claimSubject+".>", "q", func(msg *nats.Msg) {
			go func() {
				body, err := claimSpare(ctx, db, strings.TrimPrefix(msg.Subject, claimSubject+"."))
				if err == nil {
					err = msg.Respond(body)
				} else {
					_ = msg.RespondMsg(&nats.Msg{Header: nats.Header{micro.ErrorCodeHeader: {"500"}, micro.ErrorHeader: {err.Error()}}})
				}
				if err != nil && ctx.Err() == nil {
					log.Print(err)
				}
			}()
		})
		return err
	})
}

// claimed is the reply to a claim, as in the contract.
type claimed struct {
	AppID     string    `json:"component_appid"`
	Code      string    `json:"pre_auth_code"`
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	ExpiresIn int       `json:"expires_in"`
	ClaimID   string    `json:"claim_id"`
	Reference string    `json:"reference"`
	ClaimedAt time.Time `json:"claimed_at"`
}

// claimSpare gives a spare of the component to a new claim, and returns the reply.
func claimSpare(ctx context.Context, db *sql.DB, appid string) ([]byte, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	c := claimed{AppID: appid, ClaimID: rand.Text(), ClaimedAt: now}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()
	var id uint64
	err = tx.QueryRowContext(ctx, `SELECT id, code, issued_at, expires_at FROM pre_auth_code
WHERE appid = ? AND cause = 'spare' AND expires_at > ? ORDER BY expires_at LIMIT 1 FOR UPDATE SKIP LOCKED`,
		appid, now.Add(time.Minute)).Scan(&id, &c.Code, &c.IssuedAt, &c.ExpiresAt)
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, "UPDATE pre_auth_code SET cause = 'claim', claim_id = ?, reference = '', claimed_at = ? WHERE id = ?",
		[]byte(c.ClaimID), now, id)
	if err != nil {
		return nil, err
	}
	if err := tx.Commit(); err != nil {
		return nil, err
	}
	c.ExpiresIn = int(c.ExpiresAt.Sub(now).Seconds())
	return json.Marshal(c)
}
