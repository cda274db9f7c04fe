package repo

import (
	"context"
	"database/sql/driver"

	"github.com/jmoiron/sqlx"
)

// replacement makes a code current that the caller knows the predecessor of. Its UPDATE locks, compares and writes what
// apply decides elsewhere: the component's revision is still the one that the caller believes in, and the event is newer
// by its sequence and not older by its time. Otherwise it changes nothing, and so nothing is inserted. The component's
// row comes first, as in all transactions.
const replacement = `/* repo.replace */ START TRANSACTION;
UPDATE component AS c FORCE INDEX (PRIMARY)
STRAIGHT_JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
SET c.revision = :revision, c.token_sequence = :sequence, c.token_time = :time, c.token_fingerprint = :fingerprint,
	c.token_expires_at = :token_expires_at, c.attempts = 0, c.due_at = :due_at, c.lease = NULL, c.failure = NULL,
	c.updated_at = :at, p.deleted_at = :at
WHERE c.appid = :appid AND c.revision = :replaces AND c.token_stream = :stream AND c.token_stream_created = :stream_created
	AND c.token_sequence < :sequence AND c.token_time <= :time;
INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at)
SELECT :appid, :revision, :code, :cause, :fingerprint, :issued_at, :expires_at FROM DUAL WHERE ROW_COUNT() > 0;
INSERT INTO outbox (message_id, appid, revision, created_at)
SELECT :message_id, :appid, :revision, :at FROM DUAL WHERE ROW_COUNT() > 0`

// replace commits a lone outcome in two round trips, which is what somebody who waits for its code waits for. It reports
// false, and has changed nothing, unless the outcome is as replacement wants it.
func (r *Repo) replace(ctx context.Context, o Outcome, result *Result) (replaced bool, err error) {
	p, saved := plan{at: o.At, holders: map[string]string{}}, Result{}
	p.replaceCode(&component{Component: Component{AppID: o.AppID, Revision: o.Replaces}}, o, 1, &saved)
	code, position := p.codes[0], o.Token.Position
	statements, args, err := sqlx.Named(replacement, map[string]any{
		"appid": o.AppID, "replaces": o.Replaces, "revision": code.Revision, "at": o.At, "due_at": null(o.DueAt),
		"stream": position.Stream, "stream_created": position.StreamCreated, "sequence": position.Sequence, "time": position.Time,
		"fingerprint": code.Fingerprint, "token_expires_at": o.Token.ExpiresAt,
		"code": code.Code, "cause": code.Cause, "issued_at": code.IssuedAt, "expires_at": code.ExpiresAt,
		"message_id": code.announcement.MessageID,
	})
	if err != nil {
		return false, err
	}
	conn, err := r.db.Connx(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		if !replaced {
			rollBack(ctx, conn)
		}
		_ = conn.Close()
	}()
	inserted, err := conn.ExecContext(ctx, statements, args...)
	if err != nil {
		return false, err
	}
	if rows, err := inserted.RowsAffected(); err != nil || rows == 0 { // by the last statement
		return false, err
	}
	if _, err := conn.ExecContext(ctx, "/* repo.commit */ COMMIT"); err != nil {
		return false, err
	}
	*result = saved
	return true, nil
}

// rollBack leaves no transaction behind on a connection, even where ctx has ended.
func rollBack(ctx context.Context, conn *sqlx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if _, err := conn.ExecContext(ctx, "/* repo.rollback */ ROLLBACK"); err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // closes it, and the server rolls back
	}
}
