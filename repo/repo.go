// Package repo keeps the state of preauth in MySQL: the components with the newest token event of
// each, their codes, and the outbox of pending announcements.
//
// It promises that
//   - a component has at most one current code, and a claim id at most one live code; the schema
//     itself enforces both;
//   - a claimed code was never announced, and no other claim gets it;
//   - a code that an account authorized with is given to nobody;
//   - an event never replaces the code of a newer event, however late or often it is saved;
//   - an announcement is in the outbox if and only if the code or failure that it announces is
//     committed;
//   - an outcome that is saved again, after a lost connection or a lost answer to COMMIT, is saved
//     once.
//
// It waits for nothing but the database, takes times from the caller, stores no
// component_access_token, and puts no code into an error. Package database runs its statements, which
// are the same for MySQL 8, MariaDB 10.6 and TiDB.
package repo

import (
	"context"

	"preauth/internal/database"
)

// ErrUnavailable marks an error that passes by itself. The operation may or may not have been
// applied. Repeat the same call: it applies nothing twice, and its answer is right. Any other error
// of the database means a missing or older schema, a missing privilege or a bug.
var ErrUnavailable = database.ErrUnavailable

// Repo is the database. It is safe for concurrent use.
type Repo struct{ db *database.DB }

// Open returns a Repo for the database that dsn names, see [database.Open].
func Open(dsn string, maxConns int, options ...database.Option) (*Repo, error) {
	db, err := database.Open(dsn, maxConns, options...)
	if err != nil {
		return nil, err
	}
	return New(db), nil
}

// New returns a Repo for a database.
func New(db *database.DB) *Repo { return &Repo{db: db} }

// Close closes the connections.
func (r *Repo) Close() error { return r.db.Close() }

// Durability returns the server's settings that can lose an acknowledged commit, see
// [database.DB.Durability]. After such a loss a claimed code is given to somebody else.
func (r *Repo) Durability(ctx context.Context) ([]database.Warning, error) {
	return r.db.Durability(ctx)
}

// Connection returns what the server says of itself, see [database.DB.Connection].
func (r *Repo) Connection(ctx context.Context) (database.Connection, error) {
	return r.db.Connection(ctx)
}
