// Package repo keeps the state of preauth in MySQL: the components with the newest token event of each,
// their codes, and the outbox of pending announcements.
//
// It promises that
//   - a component has at most one current code, and a claim id at most one live code; the schema itself
//     enforces both;
//   - a claimed code was never announced, and no other claim gets it;
//   - an event never replaces the code of a newer event, however late or often it is saved;
//   - an announcement is in the outbox if and only if the code or failure that it announces is committed;
//   - an outcome that is saved again, after a lost connection or a lost answer to COMMIT, is saved once.
//
// It waits for nothing but the database, takes times from the caller, stores no component_access_token,
// and puts no code and no part of a DSN into an error.
//
// The statements are the same for MySQL 8, MariaDB 10.6 and TiDB. Each begins with its name in a
// comment, such as /* repo.lock */. SHOW PROCESSLIST shows it, and tests use it to make one statement
// fail.
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

// Open returns a Repo for the database that dsn names; [Connector] says what a DSN may hold. It does not
// connect, so the server may start later. maxConns bounds the connections; idle ones are closed after
// some seconds.
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

// New returns a Repo over the caller's connections. They must come from [Connector], which tests wrap.
func New(db *sqlx.DB) *Repo { return &Repo{db: db} }

// Close closes the connections.
func (r *Repo) Close() error { return r.db.Close() }

// Defaults of the DSN's parameters timeout, readTimeout and writeTimeout.
const (
	dialTimeout  = 5 * time.Second
	readTimeout  = 15 * time.Second
	writeTimeout = 10 * time.Second
)

// idleTimeout is how long the server waits for the next statement. A host that vanishes in the middle of
// a transaction holds its locks that long.
const idleTimeout = 20 * time.Second

// lockTimeout is how long a statement waits for a row lock. Rows are locked for milliseconds. The wait
// must end before readTimeout, or the server would wait on for a client that gave up.
const lockTimeout = 5 * time.Second

// Connector returns the connector that [Open] uses. dsn has the form of github.com/go-sql-driver/mysql:
// user:password@tcp(host:3306)/database?option=value. The settings that the statements rely on are set
// whatever the DSN says: times in UTC, utf8mb4, the strict SQL mode, READ COMMITTED. The error for a
// DSN that cannot work repeats no part of it.
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

// Option changes what a DSN cannot express.
type Option func(*mysql.Config) error

// TLS encrypts all connections with config. If config names no server, the server's certificate must be
// for the DSN's host. The DSN's parameter tls must be true or missing.
func TLS(config *tls.Config) Option {
	return func(cfg *mysql.Config) error {
		switch {
		case cfg.TLSConfig != "" && cfg.TLSConfig != "true":
			return errors.New("its option tls contradicts the certificates: leave it out")
		case cfg.AllowFallbackToPlaintext: // a man in the middle could claim that the server has no TLS
			return errors.New("its option allowFallbackToPlaintext contradicts the certificates: leave it out")
		}
		cfg.TLS = config.Clone() // the driver sets its ServerName
		return nil
	}
}

func parseDSN(dsn string) (cfg *mysql.Config, err error) {
	const form = "it must read user:password@tcp(host:3306)/database?option=value"
	defer func() {
		if recover() != nil { // the driver panics on some options that it no longer has
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
	// The driver puts the arguments into the statement, which saves a round trip.
	cfg.InterpolateParams = true
	cfg.MultiStatements = false
	// A row that an UPDATE matches counts, even if it does not change.
	cfg.ClientFoundRows = true
	// After a failover, connections to a server that is now a replica are closed.
	cfg.RejectReadOnly = true
	cfg.Timeout = orDefault(cfg.Timeout, dialTimeout)
	cfg.ReadTimeout = orDefault(cfg.ReadTimeout, readTimeout)
	cfg.WriteTimeout = orDefault(cfg.WriteTimeout, writeTimeout)
	cfg.Logger = &mysql.NopLogger{} // its messages are returned as errors too
	cfg.Params = maps.Clone(cfg.Params)
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	cfg.Params["wait_timeout"] = seconds(idleTimeout)
	cfg.Params["innodb_lock_wait_timeout"] = seconds(lockTimeout)
	// In a lax mode the server would truncate a long value instead of refusing it.
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

// readCommitted sets the isolation level once for each connection. MySQL and MariaDB name the variable
// differently, but the statement is the same.
type readCommitted struct{ driver.Connector }

func (c readCommitted) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	execer, ok := conn.(driver.ExecerContext)
	if !ok {
		err = errors.New("the driver's connection cannot execute statements")
	} else {
		_, err = execer.ExecContext(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", nil)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
