package repo

import (
	"context"
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
	// CreatedAt is the outcome's time, in UTC.
	CreatedAt time.Time
}

// outboxRow is a row of selectOutbox. Its code is the one that an update announces, while it is
// current.
type outboxRow struct {
	Announcement
	current     CurrentCode
	traceParent string
}

const selectOutbox = `SELECT o.message_id, o.appid, o.revision, o.failure, o.authorized, o.traceparent, o.created_at,
	p.code, p.cause, p.issued_at, p.expires_at, p.authorizer_appid, p.authorized_at
FROM outbox AS o LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = o.appid AND p.slot = 0 AND p.revision = o.revision
`

func (row *outboxRow) fields() []any {
	current := &row.current
	return []any{
		&row.MessageID, &row.AppID, database.OrZero(&current.Revision), failure(&row.AppID, &row.Failure), authorization(&row.Authorized),
		database.OrZero(&row.traceParent), &row.CreatedAt,
		secret(&current.PreAuthCode), database.OrZero(&current.Cause), database.OrZero(&current.IssuedAt), database.OrZero(&current.ExpiresAt),
		database.OrZero(&current.AuthorizerAppID), database.OrZero(&current.AuthorizedAt),
	}
}

func (row *outboxRow) announcement() Announcement {
	if !row.current.PreAuthCode.IsZero() {
		update := row.current.Update(row.AppID)
		update.TraceParent = row.traceParent
		row.Update = &update
	}
	if row.Authorized != nil {
		row.Authorized.TraceParent = row.traceParent
	}
	return row.Announcement
}

// outboxValues returns the columns of an announcement as they are stored.
func outboxValues(a *Announcement) []any {
	var revision, authorized, traceParent any
	if a.Update != nil {
		revision, traceParent = a.Update.Revision, a.Update.TraceParent
	}
	if a.Authorized != nil {
		authorized, traceParent = string(a.Authorized.Encode()), a.Authorized.TraceParent
	}
	if traceParent == "" {
		traceParent = nil
	}
	return []any{a.MessageID, a.AppID, revision, textOf(a.Failure), authorized, traceParent, a.CreatedAt}
}

// Outbox returns the oldest announcements created before the given time: of updates, failures and
// authorizations at most limit each, so that a stream that takes none does not hide the announcements
// for the others.
func (r *Repo) Outbox(ctx context.Context, before time.Time, limit int) ([]Announcement, error) {
	var kinds []string
	var args []any
	for _, kind := range []string{"o.revision IS NOT NULL", "o.failure IS NOT NULL", "o.authorized IS NOT NULL"} {
		kinds = append(kinds, "("+strings.Replace(selectOutbox, "AS o", "AS o FORCE INDEX (created)", 1)+
			"WHERE o.created_at < ? AND "+kind+" ORDER BY o.created_at, o.message_id LIMIT ?)")
		args = append(args, stored(before), max(limit, 0))
	}
	rows, err := database.Query(ctx, r.db, "repo: outbox", (*outboxRow).fields,
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
	type row struct {
		appid string
		CurrentCode
	}
	fields := func(row *row) []any {
		return []any{
			&row.appid, &row.Revision, secret(&row.PreAuthCode), &row.Cause, &row.IssuedAt, &row.ExpiresAt,
			database.OrZero(&row.AuthorizerAppID), database.OrZero(&row.AuthorizedAt),
		}
	}
	rows, err := database.Query(ctx, r.db, "repo: list current", fields, `/* repo.current */ SELECT p.appid, p.revision, p.code, p.cause, p.issued_at, p.expires_at,
	p.authorizer_appid, p.authorized_at
FROM (SELECT appid FROM component WHERE appid > ? AND revision > 0 ORDER BY appid LIMIT ?) AS c
JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
ORDER BY c.appid`, afterAppID, max(limit, 0))
	current := make([]preauth.Update, len(rows))
	for i, row := range rows {
		current[i] = row.Update(row.appid)
	}
	return current, err
}
