package repo

import (
	"context"
	"database/sql"
	"slices"
	"strings"
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
	// Update, Failure or Authorized is what to publish. All are nil if a newer code has replaced the
	// announced one: delete the row.
	Update     *preauth.Update
	Failure    *preauth.Failure
	Authorized *preauth.Authorized
	// TraceParent is the W3C trace context to publish it with, "" for none. The Update and the Authorized
	// need not have it.
	TraceParent string
	// CreatedAt is the outcome's time, in UTC.
	CreatedAt time.Time
}

// Outbox returns the oldest announcements created before the given time: of updates, failures and
// authorizations at most limit each, so that a stream that takes none does not hide the announcements
// for the others.
func (r *Repo) Outbox(ctx context.Context, before time.Time, limit int) ([]Announcement, error) {
	var kinds []string
	var args []any
	for _, kind := range []string{"o.revision IS NOT NULL", "o.failure IS NOT NULL", "o.authorized IS NOT NULL"} {
		kinds = append(kinds, "("+strings.ReplaceAll(selectOutbox, "AS o", "AS o FORCE INDEX (created)")+
			"WHERE o.created_at < ? AND "+kind+" ORDER BY o.created_at, o.message_id LIMIT ?)")
		args = append(args, stored(before), max(limit, 0))
	}
	rows, err := database.Query[outboxRow](ctx, r.db, "repo: outbox",
		"/* repo.outbox */ "+strings.Join(kinds, "\nUNION ALL ")+"\nORDER BY created_at, message_id", args...)
	if err != nil {
		return nil, err
	}
	announcements := make([]Announcement, len(rows))
	for i, row := range rows {
		announcements[i] = row.announcement()
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
	type row struct {
		Depth  int                 `db:"depth"`
		Oldest sql.Null[time.Time] `db:"oldest"`
	}
	found, err := first(database.Query[row](ctx, r.db, "repo: outbox depth",
		"/* repo.depth */ SELECT COUNT(*) AS depth, MIN(created_at) AS oldest FROM outbox"))
	if err != nil {
		return 0, time.Time{}, err
	}
	return found.Depth, found.Oldest.V, nil
}

// ListCurrent returns the announcements of the current codes, expired ones too, in the order of
// their components: at most limit, and only components after the given one. The first page follows
// "", and each further page the last AppID of the page before. One that the outbox has too comes with
// its trace context.
func (r *Repo) ListCurrent(ctx context.Context, afterAppID string, limit int) ([]preauth.Update, error) {
	// A component that ever had a code has a current one, so the page is known before the codes are
	// read, and no server reads retired codes.
	type row struct {
		codeRow

		TraceParent sql.Null[string] `db:"traceparent"`
	}
	rows, err := database.Query[row](ctx, r.db, "repo: list current", `/* repo.current */ SELECT p.id, p.appid, p.revision, p.code, p.cause, p.issued_at, p.expires_at,
	p.authorizer_appid, p.authorized_at, o.traceparent
FROM (SELECT appid FROM component WHERE appid > ? AND revision > 0 ORDER BY appid LIMIT ?) AS c
JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
LEFT JOIN outbox AS o FORCE INDEX (PRIMARY) ON o.message_id = CONCAT(p.appid, '.', p.revision)
ORDER BY c.appid`, afterAppID, max(limit, 0))
	current := make([]preauth.Update, len(rows))
	for i, row := range rows {
		current[i] = row.current().Update(row.AppID)
		current[i].TraceParent = row.TraceParent.V
	}
	return current, err
}
