// Package repo keeps the state of preauth in MySQL: the components with the newest token event of
// each, their codes, and the outbox of pending announcements.
//
// It promises that
//   - a component has at most one current code, and a claim id at most one live code; the schema
//     itself enforces both;
//   - a claimed code was never announced, and no other claim gets it;
//   - an event never replaces the code of a newer event, however late or often it is saved;
//   - an announcement is in the outbox if and only if the code or failure that it announces is
//     committed;
//   - an outcome that is saved again, after a lost connection or a lost answer to COMMIT, is saved
//     once.
//
// It waits for nothing but the database, takes times from the caller, stores no
// component_access_token, and puts no code, and of a DSN only the names of parameters, into an
// error.
//
// The statements are the same for MySQL 8, MariaDB 10.6 and TiDB. Each begins with its name in a
// comment, such as /* repo.lock */. SHOW PROCESSLIST shows it, and tests use it to make one
// statement fail.
package repo

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
)

// Repo is the database. It is safe for concurrent use.
type Repo struct{ db *sqlx.DB }

// Open returns a Repo for the database that dsn names; [Connector] says what a DSN may hold. It
// does not connect, so the server may start later. maxConns bounds the connections; idle ones are
// closed after some seconds.
func Open(dsn string, maxConns int, options ...Option) (*Repo, error) {
	if maxConns < 1 {
		return nil, fmt.Errorf("repo: open: at most %d connections are allowed: allow at least 1", maxConns)
	}
	connector, err := Connector(dsn, options...)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(idleTimeout / 2)
	// Short enough that the connections soon spread over all servers behind the address again.
	db.SetConnMaxLifetime(3 * time.Minute)
	return New(sqlx.NewDb(db, "mysql")), nil
}

// New returns a Repo over the caller's connections. They must come from [Connector], which tests
// wrap.
func New(db *sqlx.DB) *Repo { return &Repo{db: db} }

// Close closes the connections.
func (r *Repo) Close() error { return r.db.Close() }

// Connector returns the connector that [Open] uses. dsn has the form of
// github.com/go-sql-driver/mysql: user:password@tcp(host:3306)/database?option=value. Its
// parameters may say how to reach the server (TLS, time-outs, authentication) and nothing else: the
// service sets all variables of a session itself, and uses no session that does not hold them. The
// error for a DSN that cannot work repeats no part of it but a parameter's name.
func Connector(dsn string, options ...Option) (driver.Connector, error) {
	cfg, err := parseDSN(dsn)
	for _, option := range options {
		if err == nil {
			err = option(cfg)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("repo: the MySQL DSN: %w", err)
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, errors.New("repo: the MySQL DSN: the driver refuses its options")
	}
	return sessions{connector}, nil
}
