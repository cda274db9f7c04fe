// Package database runs statements on a server that speaks MySQL's protocol: MySQL 8, MariaDB 10.6
// and TiDB. It knows nothing of the tables.
//
// It promises that
//   - a session holds the variables on which the tables' promises rest, or is not used;
//   - what fails and may succeed soon is repeated for a moment, and is [ErrUnavailable] after that;
//   - an error holds nothing of the data, and of a DSN only the names of parameters.
//
// Each statement begins with its name in a comment, such as /* database.session */. SHOW
// PROCESSLIST shows it, and tests use it to make one statement fail.
package database

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
)

// DB is a database on a server. It is safe for concurrent use.
type DB struct {
	db      *sqlx.DB
	maxIdle int
}

// Open returns the DB that dsn names; [Connector] says what a DSN may hold. It does not connect, so
// the server may start later. maxConns bounds the connections; idle ones are closed after some
// seconds.
func Open(dsn string, maxConns int, options ...Option) (*DB, error) {
	if maxConns < 1 {
		return nil, fmt.Errorf("database: open: at most %d connections are allowed: allow at least 1", maxConns)
	}
	connector, err := Connector(dsn, options...)
	if err != nil {
		return nil, err
	}
	return New(sql.OpenDB(connector), maxConns), nil
}

// New returns a DB over at most maxConns of the caller's connections. They must come from
// [Connector], which tests wrap.
func New(db *sql.DB, maxConns int) *DB {
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(idleTimeout / 2)
	// Short enough that the connections soon spread over all servers behind the address again.
	db.SetConnMaxLifetime(3 * time.Minute)
	return &DB{sqlx.NewDb(db, "mysql"), maxConns}
}

// Close closes the connections.
func (db *DB) Close() error { return db.db.Close() }

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
		return nil, fmt.Errorf("database: the MySQL DSN: %w", err)
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, errors.New("database: the MySQL DSN: the driver refuses its options")
	}
	return sessions{connector}, nil
}
