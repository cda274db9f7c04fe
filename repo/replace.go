package repo

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
)

// replacement makes a code current that the caller knows the predecessor of. Its UPDATE locks, compares and writes what
// apply decides elsewhere: the component's revision is still the one that the caller believes in, and the event is newer
// by its sequence and not older by its time. Otherwise it matches nothing, and the server refuses the new code for want of
// its component. The component's row comes first, as in all transactions.
//
// It is no INSERT … SELECT, which holds a lock on the whole table in MariaDB, and so would have others wait for it.
const replacement = `/* repo.replace */ START TRANSACTION;
/* repo.replace */ UPDATE component AS c FORCE INDEX (PRIMARY)
STRAIGHT_JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
SET c.revision = :revision, c.token_sequence = :sequence, c.token_time = :time, c.token_fingerprint = :fingerprint,
	c.token_expires_at = :token_expires_at, c.attempts = 0, c.due_at = :due_at, c.lease = NULL, c.failure = NULL,
	c.updated_at = :at, p.deleted_at = :at
WHERE c.appid = :appid AND c.revision = :replaces AND c.token_stream = :stream AND c.token_stream_created = :stream_created
	AND c.token_sequence < :sequence AND c.token_time <= :time;
/* repo.replace */ INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at)
VALUES (IF(ROW_COUNT() > 0, :appid, NULL), :revision, :code, :cause, :fingerprint, :issued_at, :expires_at);
/* repo.replace */ INSERT INTO outbox (message_id, appid, revision, created_at) VALUES (:message_id, :appid, :revision, :at)`

// replace commits a lone outcome in two round trips, which is what somebody who waits for its code waits for. It reports
// false, and has changed nothing, where the server refuses that: the outcome is not as replacement wants it, or something
// between here and the server takes no several statements. The long way then tells what is wrong, if anything is.
func (r *Repo) replace(ctx context.Context, o Outcome, result *Result) (replaced bool, err error) {
	p, saved := plan{at: o.At, holders: map[string]string{}}, Result{}
	p.replaceCode(&component{Component: Component{AppID: o.AppID, Revision: o.Replaces}}, o, 1, &saved)
	code, position := p.codes[0], o.Token.Position
	statements, args, err := sqlx.Named(replacement, map[string]any{
		"appid": o.AppID, "replaces": o.Replaces, "revision": code.Revision, "at": o.At, "due_at": null(o.DueAt),
		"stream": position.Stream, "stream_created": position.StreamCreated, "sequence": position.Sequence, "time": position.Time,
		"fingerprint": code.Fingerprint, "token_expires_at": null(o.Token.ExpiresAt),
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
	if _, err := conn.ExecContext(ctx, statements, args...); err != nil {
		_, refused := errors.AsType[*mysql.MySQLError](err)
		if refused && !passes(err) && !isServerError(err, duplicateEntry) {
			err = nil
		}
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
