package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"reflect"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// Operations are named by the caller, such as "repo: claim". The name begins the error of what
// fails.
//
// A slice among the arguments of a statement stands for all its items, each with a placeholder of
// its own: "IN (?)" takes a []string, and "VALUES ?" takes a [][]any, a slice of rows. An empty slice
// means that there are no rows, and the statement is not run. A []byte is one value.

// MaxIn bounds the values to put into one IN list.
const MaxIn = 500

// ErrDuplicate means that a unique key already has the value.
var ErrDuplicate = errors.New("a unique key already has the value")

// Exec runs a statement that is a transaction of its own. It returns how many rows the statement
// inserted, deleted or matched, whether or not it changed them. The error is [ErrUnavailable] or
// [ErrDuplicate] where that applies. A statement whose answer was lost is run again.
func (db *DB) Exec(ctx context.Context, operation, statement string, args ...any) (rows int64, err error) {
	err = db.do(ctx, operation, func(conn *sql.Conn) error {
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

// Query returns the rows of a query that is a transaction of its own. fields points to the fields of
// a row, in the order of the query's columns.
func Query[Row any](ctx context.Context, db *DB, operation string, fields func(*Row) []any, statement string, args ...any) (rows []Row, err error) {
	err = db.do(ctx, operation, func(conn *sql.Conn) error {
		rows, err = query(ctx, conn, fields, statement, args)
		return err
	})
	return rows, err
}

// Value is the field of rows that are one value.
func Value[T any](value *T) []any { return []any{value} }

// OrZero reads a column into a field. NULL becomes the zero value. A []byte needs no OrZero, and may
// not have it: the driver uses its memory again.
func OrZero[T any](field *T) sql.Scanner { return orZero[T]{field} }

type orZero[T any] struct{ field *T }

// Scan implements [sql.Scanner].
func (z orZero[T]) Scan(value any) error {
	if same, ok := value.(T); ok {
		*z.field = same
		return nil
	}
	var null sql.Null[T]
	err := null.Scan(value)
	*z.field = null.V
	return err
}

// Set calls set with the value of a column, or with the zero value for NULL. A []byte is valid until
// set returns.
func Set[T any](set func(T)) sql.Scanner { return setter[T](set) }

type setter[T any] func(T)

// Scan implements [sql.Scanner].
func (set setter[T]) Scan(column any) error {
	var value T
	err := OrZero(&value).Scan(column)
	set(value)
	return err
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
type Tx struct{ tx *sql.Tx }

// Transaction runs f in a transaction, and commits it unless f returns an error. f is called again
// if the transaction failed and may succeed now, also if a unique key had a value, and if the answer
// to COMMIT was lost: the transaction before may then have been committed.
func (db *DB) Transaction(ctx context.Context, operation string, f func(tx *Tx) error) error {
	return db.do(ctx, operation, func(conn *sql.Conn) error {
		tx, err := conn.BeginTx(ctx, nil)
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

// Select returns the rows of a query in a transaction; see [Query].
func Select[Row any](ctx context.Context, tx *Tx, fields func(*Row) []any, statement string, args ...any) ([]Row, error) {
	return query(ctx, tx.tx, fields, statement, args)
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
func (db *DB) do(ctx context.Context, operation string, f func(conn *sql.Conn) error) error {
	err := retry(ctx, func() error {
		conn, err := db.db.Conn(ctx)
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
func discard(conn *sql.Conn) { _ = conn.Raw(func(any) error { return driver.ErrBadConn }) }

// runner is a connection, or a transaction on one.
type runner interface {
	ExecContext(ctx context.Context, statement string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

func exec(ctx context.Context, on runner, statement string, args []any) (sql.Result, error) {
	statement, args, isEmpty := expand(statement, args)
	if isEmpty {
		return driver.RowsAffected(0), nil
	}
	return on.ExecContext(ctx, statement, args...)
}

func query[Row any](ctx context.Context, on runner, fields func(*Row) []any, statement string, args []any) ([]Row, error) {
	statement, args, isEmpty := expand(statement, args)
	if isEmpty {
		return nil, nil
	}
	found, err := on.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }()
	var rows []Row
	for found.Next() {
		var row Row
		if err := found.Scan(fields(&row)...); err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, found.Err()
}

// expand gives each item of a slice among the arguments a placeholder of its own. It reports whether
// a slice is empty.
func expand(statement string, args []any) (expanded string, values []any, isEmpty bool) {
	var text strings.Builder
	for _, arg := range args {
		before, after, _ := strings.Cut(statement, "?")
		list := placeholders(arg, &values)
		isEmpty = isEmpty || list == ""
		text.WriteString(before + list)
		statement = after
	}
	return text.String() + statement, values, isEmpty
}

// placeholders appends the values of an argument, and returns their placeholders.
func placeholders(arg any, values *[]any) string {
	list := reflect.ValueOf(arg)
	if _, isBytes := arg.([]byte); isBytes || list.Kind() != reflect.Slice {
		*values = append(*values, arg)
		return "?"
	}
	each := make([]string, list.Len())
	for i := range each {
		item := list.Index(i).Interface()
		each[i] = placeholders(item, values)
		if _, isRow := item.([]any); isRow {
			each[i] = "(" + each[i] + ")"
		}
	}
	return strings.Join(each, ", ")
}
