package repo

import (
	"context"
	"slices"
	"time"

	"preauth"
	"preauth/internal/database"
)

// Announcement is a row of the outbox: a message to publish at least once.
type Announcement struct {
	// MessageID is the Nats-Msg-Id, the same each time.
	MessageID string
	// AppID is "" for the failure of an event that names no valid component.
	AppID string
	// Update or Failure is what to publish. Both are nil if a newer code has replaced the announced
	// one: delete the row.
	Update  *preauth.Update
	Failure *preauth.Failure
	// CreatedAt is the outcome's time, in UTC.
	CreatedAt time.Time
}

// Outbox returns the oldest announcements created before the given time: at most limit updates and
// at most limit failures, so that a stream that takes none does not hide the announcements for the
// other.
func (r *Repo) Outbox(ctx context.Context, before time.Time, limit int) ([]Announcement, error) {
	type row struct {
		Announcement
		update preauth.Update
	}
	fields := func(row *row) []any {
		update := &row.update
		return []any{
			&row.MessageID, &row.AppID, database.OrZero(&update.Revision), failure(&row.AppID, &row.Failure), &row.CreatedAt,
			secret(&update.PreAuthCode), database.OrZero(&update.Cause), database.OrZero(&update.IssuedAt), database.OrZero(&update.ExpiresAt),
		}
	}
	before, limit = stored(before), max(limit, 0)
	rows, err := database.Query(ctx, r.db, "repo: outbox", fields, `/* repo.outbox */ (SELECT o.message_id, o.appid, o.revision, o.failure, o.created_at,
	p.code, p.cause, p.issued_at, p.expires_at
FROM outbox AS o FORCE INDEX (created)
LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = o.appid AND p.slot = 0 AND p.revision = o.revision
WHERE o.created_at < ? AND o.revision IS NOT NULL ORDER BY o.created_at, o.message_id LIMIT ?)
UNION ALL
(SELECT message_id, appid, revision, failure, created_at, NULL AS code, NULL AS cause, NULL AS issued_at, NULL AS expires_at
FROM outbox FORCE INDEX (created)
WHERE created_at < ? AND revision IS NULL ORDER BY created_at, message_id LIMIT ?)
ORDER BY created_at, message_id`, before, limit, before, limit)
	if err != nil {
		return nil, err
	}
	announcements := make([]Announcement, len(rows))
	for i, row := range rows {
		announcements[i] = row.Announcement
		if !row.update.PreAuthCode.IsZero() {
			row.update.AppID = row.AppID
			announcements[i].Update = &row.update
		}
	}
	return announcements, nil
}

// DeleteAnnounced removes announcements from the outbox. Unknown ids are no error.
func (r *Repo) DeleteAnnounced(ctx context.Context, messageIDs []string) error {
	// Replicas that delete the same rows lock them in the same order.
	for piece := range slices.Chunk(slices.Sorted(slices.Values(messageIDs)), database.MaxIn) {
		if _, err := r.db.Exec(ctx, "repo: delete announced", "/* repo.announced */ DELETE FROM outbox WHERE message_id IN (?)", piece); err != nil {
			return err
		}
	}
	return nil
}

// OutboxDepth returns how many announcements wait, and when the oldest was created, in UTC: the
// zero time if none waits.
func (r *Repo) OutboxDepth(ctx context.Context) (rows int, oldest time.Time, err error) {
	_, err = database.Query(ctx, r.db, "repo: outbox depth", func(*struct{}) []any { return []any{&rows, database.OrZero(&oldest)} },
		"/* repo.depth */ SELECT COUNT(*), MIN(created_at) FROM outbox")
	return rows, oldest, err
}

// ListCurrent returns the announcements of the current codes, expired ones too, in the order of
// their components: at most limit, and only components after the given one. The first page follows
// "", and each further page the last AppID of the page before.
func (r *Repo) ListCurrent(ctx context.Context, afterAppID string, limit int) ([]preauth.Update, error) {
	// A component that ever had a code has a current one, so the page is known before the codes are
	// read, and no server reads retired codes.
	fields := func(u *preauth.Update) []any {
		return []any{&u.AppID, &u.Revision, secret(&u.PreAuthCode), &u.Cause, &u.IssuedAt, &u.ExpiresAt}
	}
	return database.Query(ctx, r.db, "repo: list current", fields, `/* repo.current */ SELECT p.appid, p.revision, p.code, p.cause, p.issued_at, p.expires_at
FROM (SELECT appid FROM component WHERE appid > ? AND revision > 0 ORDER BY appid LIMIT ?) AS c
JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
ORDER BY c.appid`, afterAppID, max(limit, 0))
}
