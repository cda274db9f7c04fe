package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"reflect"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
)

// Operations are named by the caller, such as "repo: claim". The name begins the error of what
// fails.
//
// Package sqlx expands lists, and reads and writes rows. A slice among the arguments of a statement
// stands for all its items: "IN (?)" takes a []string. It must not be empty. A []byte is one value.
// The fields of a row name their columns in `db` tags.

// MaxIn bounds the values to put into one IN list.
const MaxIn = 500

// ErrDuplicate means that a unique key already has the value.
var ErrDuplicate = errors.New("a unique key already has the value")

// Exec runs a statement that is a transaction of its own. It returns how many rows the statement
// inserted, deleted or matched, whether or not it changed them. The error is [ErrUnavailable] or
// [ErrDuplicate] where that applies. A statement whose answer was lost is run again.
func (db *DB) Exec(ctx context.Context, operation, statement string, args ...any) (rows int64, err error) {
	err = db.do(ctx, operation, func(conn *sqlx.Conn) error {
		result, err := exec(ctx, conn, statement, args)
		if isServerError(err, duplicateEntry) {
			return ErrDuplicate
		}
		if err != nil {
			return err
		}
		rows, err = result.RowsAffected()
		return err
	})
	return rows, err
}

// Insert runs an INSERT that is a transaction of its own; see [Tx.Insert].
func (db *DB) Insert(ctx context.Context, operation, statement string, rows any) error {
	return db.do(ctx, operation, func(conn *sqlx.Conn) error { return insert(ctx, conn, statement, rows) })
}

// Query returns the rows of a query that is a transaction of its own. A Row is a struct, or the value
// of the only column. Right after a failover the rows may be what the old primary last knew.
func Query[Row any](ctx context.Context, db *DB, operation, statement string, args ...any) (rows []Row, err error) {
	err = db.do(ctx, operation, func(conn *sqlx.Conn) error {
		rows, err = query[Row](ctx, conn, statement, args)
		return err
	})
	return rows, err
}

// Define runs a statement that creates or alters a table, or does nothing if that was done before.
// The error shows the server's words, so the statement must hold no data.
func (db *DB) Define(ctx context.Context, operation, statement string) error {
	err := retry(ctx, func() error {
		_, err := db.db.ExecContext(ctx, statement)
		if isServerError(err, defined...) { // another client was faster
			return nil
		}
		return err
	})
	return describe(ctx, operation, err, err)
}

// Tx is a transaction.
type Tx struct{ tx *sqlx.Tx }

// Transaction runs f in a transaction, and commits it unless f returns an error. f is called again
// if the transaction failed and may succeed now, also if a unique key had a value, and if the answer
// to COMMIT was lost: the transaction before may then have been committed.
func (db *DB) Transaction(ctx context.Context, operation string, f func(tx *Tx) error) error {
	return db.do(ctx, operation, func(conn *sqlx.Conn) error {
		tx, err := conn.BeginTxx(ctx, nil)
		if err != nil {
			return err
		}
		if err := f(&Tx{tx}); err != nil {
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
	})
}

// Exec runs a statement.
func (tx *Tx) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := exec(ctx, tx.tx, statement, args)
	return err
}

// Insert inserts rows, a slice of structs, if there are any. The statement names the fields of one,
// as in "VALUES (:appid, :created_at)".
func (tx *Tx) Insert(ctx context.Context, statement string, rows any) error {
	return insert(ctx, tx.tx, statement, rows)
}

// Select returns the rows of a query in a transaction; see [Query].
func Select[Row any](ctx context.Context, tx *Tx, statement string, args ...any) ([]Row, error) {
	return query[Row](ctx, tx.tx, statement, args)
}

// Split calls f with all items, or, if a packet is too large for the server, with ever smaller
// pieces.
func Split[Item any](items []Item, f func([]Item) error) error {
	err := f(items)
	if len(items) < 2 || !isPacketTooLarge(err) {
		return err
	}
	half := len(items) / 2
	if err := Split(items[:half], f); err != nil {
		return err
	}
	return Split(items[half:], f)
}

// do runs one operation on a connection until it succeeds or fails for good. f must be safe to
// repeat. The error names the operation, wraps [ErrUnavailable] where that applies, and quotes no
// data.
func (db *DB) do(ctx context.Context, operation string, f func(conn *sqlx.Conn) error) error {
	ctx, endSpan := startSpan(ctx, operation)
	err := retry(ctx, func() error {
		conn, err := db.db.Connx(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		err = f(conn)
		if _, refused := errors.AsType[*mysql.MySQLError](err); refused && !isServerError(err, keepsConnection...) {
			discard(conn)
		}
		if isServerError(err, readOnly...) {
			db.discardIdle()
		}
		return err
	})
	endSpan(err)
	return describe(ctx, operation, err, redact(err))
}

// keepsConnection holds the numbers of the server errors after which a connection is used again.
// Any other may be due to the server behind it or to its session's settings: the server may have
// become a replica, or binlog_format may have been mended for new sessions.
var keepsConnection = []uint16{duplicateEntry, 1205, 1213, 8002, 9007}

// discard closes a connection instead of putting it back into the pool.
func discard(conn *sqlx.Conn) { _ = conn.Raw(func(any) error { return driver.ErrBadConn }) }

// discardIdle closes the connections that nobody uses. After a failover they lead to the old primary,
// and a retry would meet one after the other.
func (db *DB) discardIdle() {
	db.db.SetMaxIdleConns(0)
	db.db.SetMaxIdleConns(db.maxIdle)
}

func exec(ctx context.Context, on sqlx.ExecerContext, statement string, args []any) (sql.Result, error) {
	statement, args, err := sqlx.In(statement, args...)
	if err != nil {
		return nil, err
	}
	return on.ExecContext(ctx, statement, args...)
}

func insert(ctx context.Context, on sqlx.ExecerContext, statement string, rows any) error {
	if reflect.ValueOf(rows).Len() == 0 {
		return nil
	}
	statement, args, err := sqlx.Named(statement, rows)
	if err != nil {
		return errors.New("the statement names a field that the rows lack") // sqlx's error shows a row
	}
	_, err = on.ExecContext(ctx, statement, args...)
	return err
}

func query[Row any](ctx context.Context, on sqlx.QueryerContext, statement string, args []any) ([]Row, error) {
	statement, args, err := sqlx.In(statement, args...)
	if err != nil {
		return nil, err
	}
	var rows []Row
	if err := sqlx.SelectContext(ctx, on, &rows, statement, args...); err != nil {
		return nil, err
	}
	return rows, nil
}
