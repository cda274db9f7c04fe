package repo

import (
	"bytes"
	"context"
	"database/sql"
	"slices"
	"time"

	"preauth"
)

// Announcement is a row of the outbox: a message to publish at least once.
type Announcement struct {
	// MessageID is the Nats-Msg-Id, the same each time.
	MessageID string
	// AppID is "" for the failure of an event that names no valid component.
	AppID string
	// Update or Failure is what to publish. Both are nil if a newer code has replaced the announced one:
	// delete the row.
	Update  *preauth.Update
	Failure *preauth.Failure
	// CreatedAt is the outcome's time, in UTC.
	CreatedAt time.Time
}

// Outbox returns the oldest announcements created before the given time: at most limit updates and at
// most limit failures, so that a stream that takes none does not hide the announcements for the other.
func (r *Repo) Outbox(ctx context.Context, before time.Time, limit int) ([]Announcement, error) {
	var rows []struct {
		MessageID string              `db:"message_id"`
		AppID     string              `db:"appid"`
		Revision  sql.Null[uint64]    `db:"revision"`
		Failure   sql.Null[string]    `db:"failure"`
		CreatedAt time.Time           `db:"created_at"`
		Code      []byte              `db:"code"`
		Cause     sql.Null[string]    `db:"cause"`
		IssuedAt  sql.Null[time.Time] `db:"issued_at"`
		ExpiresAt sql.Null[time.Time] `db:"expires_at"`
	}
	err := do(ctx, "outbox", func() error {
		before, limit := stored(before), max(limit, 0)
		return selectIn(ctx, r.db, &rows, `/* repo.outbox */ (SELECT o.message_id, o.appid, o.revision, o.failure, o.created_at,
	p.code, p.cause, p.issued_at, p.expires_at
FROM outbox AS o FORCE INDEX (created)
LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = o.appid AND p.slot = 0 AND p.revision = o.revision
WHERE o.created_at < ? AND o.revision IS NOT NULL ORDER BY o.created_at, o.message_id LIMIT ?)
UNION ALL
(SELECT message_id, appid, revision, failure, created_at, NULL AS code, NULL AS cause, NULL AS issued_at, NULL AS expires_at
FROM outbox FORCE INDEX (created)
WHERE created_at < ? AND revision IS NULL ORDER BY created_at, message_id LIMIT ?)
ORDER BY created_at, message_id`, before, limit, before, limit)
	})
	if err != nil {
		return nil, err
	}
	announcements := make([]Announcement, len(rows))
	for i, row := range rows {
		announcements[i] = Announcement{
			MessageID: row.MessageID, AppID: row.AppID, Failure: failureFrom(row.AppID, row.Failure), CreatedAt: row.CreatedAt,
		}
		if row.Code != nil {
			announcements[i].Update = &preauth.Update{
				AppID: row.AppID, PreAuthCode: preauth.NewSecret(string(row.Code)),
				IssuedAt: row.IssuedAt.V, ExpiresAt: row.ExpiresAt.V,
				Revision: row.Revision.V, Cause: preauth.Cause(row.Cause.V),
			}
		}
	}
	return announcements, nil
}

// DeleteAnnounced removes announcements from the outbox. Unknown ids are no error.
func (r *Repo) DeleteAnnounced(ctx context.Context, messageIDs []string) error {
	// Replicas that delete the same rows lock them in the same order.
	for piece := range slices.Chunk(slices.Sorted(slices.Values(messageIDs)), maxIn) {
		if _, err := r.exec(ctx, "delete announced", "/* repo.announced */ DELETE FROM outbox WHERE message_id IN (?)", piece); err != nil {
			return err
		}
	}
	return nil
}

// OutboxDepth returns how many announcements wait, and when the oldest was created, in UTC: the zero
// time if none waits.
func (r *Repo) OutboxDepth(ctx context.Context) (rows int, oldest time.Time, err error) {
	var depth struct {
		Rows   int                 `db:"depth"`
		Oldest sql.Null[time.Time] `db:"oldest"`
	}
	err = do(ctx, "outbox depth", func() error {
		return r.db.GetContext(ctx, &depth, "/* repo.depth */ SELECT COUNT(*) AS depth, MIN(created_at) AS oldest FROM outbox")
	})
	return depth.Rows, depth.Oldest.V, err
}

// Standing is a component's current code as it was announced, and the token that it belongs to.
type Standing struct {
	preauth.Update
	// Token is what the code was made with, without its end, or nil where a newer token was taken since.
	Token *Token
}

// ListCurrent returns the current codes, also those that have expired, in the order of their components:
// at most limit, and those after the given component only. Page through all by passing the last AppID
// of each page; the first page follows "".
func (r *Repo) ListCurrent(ctx context.Context, afterAppID string, limit int) ([]Standing, error) {
	var rows []struct {
		AppID     string    `db:"appid"`
		Revision  uint64    `db:"revision"`
		Code      []byte    `db:"code"`
		Cause     string    `db:"cause"`
		IssuedAt  time.Time `db:"issued_at"`
		ExpiresAt time.Time `db:"expires_at"`

		MadeWith           []byte              `db:"made_with"`
		TokenStream        string              `db:"token_stream"`
		TokenStreamCreated sql.Null[time.Time] `db:"token_stream_created"`
		TokenSequence      uint64              `db:"token_sequence"`
		TokenTime          sql.Null[time.Time] `db:"token_time"`
		TokenFingerprint   []byte              `db:"token_fingerprint"`
	}
	// A component that ever had a code has a current one, so the page is known before the codes are
	// read: no server is led to go through the retired ones.
	err := do(ctx, "current", func() error {
		return selectIn(ctx, r.db, &rows, `/* repo.current */ SELECT p.appid, p.revision, p.code, p.cause, p.issued_at, p.expires_at,
	p.token_fingerprint AS made_with, c.token_stream, c.token_stream_created, c.token_sequence, c.token_time, c.token_fingerprint
FROM (SELECT appid, token_stream, token_stream_created, token_sequence, token_time, token_fingerprint
	FROM component WHERE appid > ? AND revision > 0 ORDER BY appid LIMIT ?) AS c
JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
ORDER BY c.appid`, afterAppID, max(limit, 0))
	})
	if err != nil {
		return nil, err
	}
	standing := make([]Standing, len(rows))
	for i, row := range rows {
		standing[i].Update = preauth.Update{
			AppID: row.AppID, PreAuthCode: preauth.NewSecret(string(row.Code)), IssuedAt: row.IssuedAt, ExpiresAt: row.ExpiresAt,
			Revision: row.Revision, Cause: preauth.Cause(row.Cause),
		}
		if !bytes.Equal(row.MadeWith, row.TokenFingerprint) {
			continue
		}
		token := &Token{Position: Position{
			Stream: row.TokenStream, StreamCreated: row.TokenStreamCreated.V, Sequence: row.TokenSequence, Time: row.TokenTime.V,
		}}
		copy(token.Fingerprint[:], row.TokenFingerprint)
		standing[i].Token = token
	}
	return standing, nil
}
