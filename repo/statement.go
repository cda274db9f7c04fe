package repo

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"
)

// maxIn bounds the values in one IN list. Longer lists are split.
const maxIn = 500

// errDuplicate means that a unique key already has the value.
var errDuplicate = errors.New("a unique key already has the value")

// exec runs a statement that is a transaction of its own. It returns how many rows the statement
// inserted, deleted or matched, whether or not it changed them.
func (r *Repo) exec(ctx context.Context, operation, statement string, args ...any) (rows int64, err error) {
	err = do(ctx, operation, func() error {
		result, err := execIn(ctx, r.db, statement, args...)
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

// selectIn replaces what into points to by the rows that a query returns. The slices among the arguments
// are expanded.
func selectIn[Row any](ctx context.Context, db sqlx.QueryerContext, into *[]Row, statement string, args ...any) error {
	statement, args, err := sqlx.In(statement, args...)
	if err != nil {
		return err
	}
	*into = nil
	return sqlx.SelectContext(ctx, db, into, statement, args...)
}
