// Package repo is what preauth keeps in MySQL: the components with the newest token event taken for
// each, their codes, and the outbox of what has yet to be announced.
//
// It promises that
//   - a component has at most one current code, and a claim id at most one that is not replaced, which
//     the schema itself enforces;
//   - a code given to a claim was never announced, and is given to no other claim;
//   - an event never replaces the code of a newer one, however late or often it is saved;
//   - an announcement is in the outbox if and only if what it announces is committed;
//   - what is saved again, after a lost connection or a lost answer to COMMIT, is saved once.
//
// It never waits for anything but the database, takes its times from the caller, stores no
// component_access_token, and puts no code and no part of a DSN into an error.
//
// The statements are the same for MySQL 8, MariaDB 10.6 and TiDB. Each begins with a comment that
// names it, such as /* repo.lock */, which is how it is told in SHOW PROCESSLIST and in the tests
// that make it fail.
package repo

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"
)

// Repo is the database. It is safe for concurrent use.
type Repo struct{ db *sqlx.DB }

// Open returns a Repo for the server and the database that dsn names; see [Connector] for what it
// may hold. It does not connect, so the server may come later. maxConns bounds the connections;
// those that are idle for some seconds are closed.
func Open(dsn string, maxConns int, options ...Option) (*Repo, error) {
	if maxConns < 1 {
		return nil, fmt.Errorf("repo: open: at most %d connections are allowed: allow 1 at least", maxConns)
	}
	connector, err := Connector(dsn, options...)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(idleTimeout / 2)
	// Short enough that the connections spread again over the servers behind one address.
	db.SetConnMaxLifetime(3 * time.Minute)
	return New(sqlx.NewDb(db, "mysql")), nil
}

// New returns a Repo over connections of the caller's making. They must be as those of [Connector]:
// test tooling wraps that one.
func New(db *sqlx.DB) *Repo { return &Repo{db: db} }

// Close closes the connections.
func (r *Repo) Close() error { return r.db.Close() }

// Limits that a DSN may replace, as timeout, readTimeout and writeTimeout.
const (
	dialTimeout  = 5 * time.Second
	readTimeout  = 15 * time.Second
	writeTimeout = 10 * time.Second
)

// idleTimeout is how long the server waits for the next statement. A host that is gone without a word
// in the middle of a transaction holds its locks that long.
const idleTimeout = 20 * time.Second

// lockTimeout is how long a statement waits for a row. Rows are locked for milliseconds. The wait has
// to end before readTimeout does, or the server would go on waiting for nobody.
const lockTimeout = 5 * time.Second

// Connector returns what [Open] connects with. dsn is one of github.com/go-sql-driver/mysql:
// user:password@tcp(host:3306)/database?option=value. What the statements of this package rely on is
// set whatever the DSN says: times in UTC, utf8mb4, the strict SQL mode, READ COMMITTED. A DSN that
// cannot work is an error, which never repeats any of it.
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
	return readCommitted{connector}, nil
}

// Option is what a DSN cannot say.
type Option func(*mysql.Config) error

// TLS encrypts all connections as config says; where it names no server, the server's certificate has to be for
// the DSN's host. The DSN must not say anything else about TLS: true, or nothing.
func TLS(config *tls.Config) Option {
	return func(cfg *mysql.Config) error {
		switch {
		case cfg.TLSConfig != "" && cfg.TLSConfig != "true":
			return errors.New("its option tls contradicts the certificates: leave it out")
		case cfg.AllowFallbackToPlaintext: // whoever is on the line could say that the server has no TLS
			return errors.New("its option allowFallbackToPlaintext contradicts the certificates: leave it out")
		}
		cfg.TLS = config.Clone() // the driver names the server in it
		return nil
	}
}

func parseDSN(dsn string) (cfg *mysql.Config, err error) {
	const form = "it must read user:password@tcp(host:3306)/database?option=value"
	defer func() {
		if recover() != nil { // the driver panics on an option that it once had
			cfg, err = nil, errors.New(form)
		}
	}()
	cfg, err = mysql.ParseDSN(dsn)
	if err != nil {
		// The driver's own words may quote a part of the password.
		return nil, errors.New(form)
	}
	switch {
	case cfg.DBName == "":
		return nil, errors.New("it names no database: " + form)
	case cfg.Timeout < 0 || cfg.ReadTimeout < 0 || cfg.WriteTimeout < 0:
		return nil, errors.New("timeout, readTimeout and writeTimeout must not be negative")
	}

	cfg.ParseTime, cfg.Loc = true, time.UTC
	// The driver puts the arguments into the statement, which saves a round trip for each.
	cfg.InterpolateParams = true
	cfg.MultiStatements = false
	// A row that an UPDATE matches counts, whether or not it changes.
	cfg.ClientFoundRows = true
	// After a failover the connections to what is now a replica are given up.
	cfg.RejectReadOnly = true
	cfg.Timeout = orDefault(cfg.Timeout, dialTimeout)
	cfg.ReadTimeout = orDefault(cfg.ReadTimeout, readTimeout)
	cfg.WriteTimeout = orDefault(cfg.WriteTimeout, writeTimeout)
	cfg.Logger = &mysql.NopLogger{} // whatever it would write comes back as an error too
	cfg.Params = maps.Clone(cfg.Params)
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	cfg.Params["wait_timeout"] = seconds(idleTimeout)
	cfg.Params["innodb_lock_wait_timeout"] = seconds(lockTimeout)
	// A server with a lax mode would cut a long value short instead of refusing it.
	cfg.Params["sql_mode"] = "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
	if err := cfg.Apply(mysql.Charset("utf8mb4", "")); err != nil {
		return nil, errors.New("the driver refuses its options")
	}
	return cfg, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// readCommitted sets the isolation level once for each connection, so that no transaction has to.
// MySQL and MariaDB name the variable differently; the statement is the same.
type readCommitted struct{ driver.Connector }

func (c readCommitted) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	execer, ok := conn.(driver.ExecerContext)
	if !ok {
		err = errors.New("the driver's connection executes no statement")
	} else {
		_, err = execer.ExecContext(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", nil)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
