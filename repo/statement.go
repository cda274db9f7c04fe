package repo

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
)

// maxIn bounds the values in one IN list. Longer lists are split.
const maxIn = 500

// errDuplicate means that a unique key already has the value.
var errDuplicate = errors.New("a unique key already has the value")

// do runs one operation on a connection until it succeeds or fails for good. f must be safe to
// repeat. The error names the operation, wraps [ErrUnavailable] where that applies, and quotes no
// data.
func (r *Repo) do(ctx context.Context, operation string, f func(conn *sqlx.Conn) error) error {
	err := retry(ctx, func() error {
		conn, err := r.db.Connx(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		err = f(conn)
		if _, refused := errors.AsType[*mysql.MySQLError](err); refused && !isServerError(err, keepsConnection...) {
			discard(conn)
		}
		return err
	})
	return describe(ctx, operation, err, redact(err))
}

// keepsConnection holds the numbers of the server errors after which a connection is used again.
// Any other may be due to the server behind it or to its session's settings: the server may have
// become a replica, or binlog_format may have been mended for new sessions.
var keepsConnection = []uint16{duplicateEntry, 1205, 1213, 8002, 9007}

// discard closes a connection instead of putting it back into the pool.
func discard(conn *sqlx.Conn) { _ = conn.Raw(func(any) error { return driver.ErrBadConn }) }

// transaction runs f in a transaction, which it commits unless f returns an error.
func transaction(ctx context.Context, conn *sqlx.Conn, f func(tx *sqlx.Tx) error) error {
	tx, err := conn.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		if tx.Rollback() != nil {
			discard(conn) // the next BEGIN on it would commit what was not rolled back
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		discard(conn)
		return err
	}
	return nil
}

// exec runs a statement that is a transaction of its own. It returns how many rows the statement
// inserted, deleted or matched, whether or not it changed them.
func (r *Repo) exec(ctx context.Context, operation, statement string, args ...any) (rows int64, err error) {
	err = r.do(ctx, operation, func(conn *sqlx.Conn) error {
		result, err := execIn(ctx, conn, statement, args...)
		if isServerError(err, duplicateEntry) {
			return errDuplicate
		}
		if err != nil {
			return err
		}
		rows, err = result.RowsAffected()
		return err
	})
	return rows, err
}

// execIn runs a statement with the slices among its arguments expanded.
func execIn(ctx context.Context, db sqlx.ExecerContext, statement string, args ...any) (sql.Result, error) {
	statement, args, err := sqlx.In(statement, args...)
	if err != nil {
		return nil, err
	}
	return db.ExecContext(ctx, statement, args...)
}

// insert inserts rows, if there are any. The statement names their columns.
func insert[Row any](ctx context.Context, db sqlx.ExecerContext, statement string, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	statement, args, err := sqlx.Named(statement, rows)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement, args...)
	return err
}

// query runs a query that is a transaction of its own. The slices among the arguments are expanded.
func query[Row any](ctx context.Context, r *Repo, operation, statement string, args ...any) (rows []Row, err error) {
	err = r.do(ctx, operation, func(conn *sqlx.Conn) error {
		return selectIn(ctx, conn, &rows, statement, args...)
	})
	return rows, err
}

// selectIn replaces what into points to by the rows that a query returns. The slices among the
// arguments are expanded.
func selectIn[Row any](ctx context.Context, db sqlx.QueryerContext, into *[]Row, statement string, args ...any) error {
	statement, args, err := sqlx.In(statement, args...)
	if err != nil {
		return err
	}
	*into = nil
	return sqlx.SelectContext(ctx, db, into, statement, args...)
}

// split calls f with all items, or, if a packet is too large for the server, with ever smaller
// pieces.
func split[Item any](items []Item, f func([]Item) error) error {
	err := f(items)
	if len(items) < 2 || !isPacketTooLarge(err) {
		return err
	}
	half := len(items) / 2
	if err := split(items[:half], f); err != nil {
		return err
	}
	return split(items[half:], f)
}
