// Package mysqlserver gives preauth-dev and the tests a MySQL-protocol server: one that a DSN
// names, or a private one that it starts.
//
// A private server is the first of these that the machine has:
//
//   - mariadbd (MariaDB 10.6 or newer) or mysqld (MySQL 8 or newer), on the PATH or where systems
//     keep them, with a data directory of its own and never the system's;
//   - devdb, which is TiDB with its built-in store. Build it once with "go -C test/devdb install".
//
// A private server listens on a loopback address, accepts the user root without a password, and has
// durable settings, so that what it acknowledged is still there after [Server.Kill]. It ends with
// the process that started it: on Linux in every case, elsewhere MariaDB and MySQL stay behind if
// that process is killed before [Server.Close].
package mysqlserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/loopback"
)

// Engine names the program behind a server.
type Engine string

// The engines, in the order in which [Start] tries them.
const (
	MariaDB Engine = "mariadb"
	MySQL   Engine = "mysql"
	TiDB    Engine = "tidb"
)

var (
	// ErrNotFound means that the machine has no program for the engine.
	ErrNotFound = errors.New("no database server found: in the project's directory, run \"go -C test/devdb install\", " +
		"which builds TiDB in about five minutes; or install MariaDB (on Debian and Ubuntu, the package mariadb-server-core)")
	// ErrInUse means that another process runs a server on the same Dir.
	ErrInUse = errors.New("directory is in use by another process")
)

// Options say which server to use. The zero value starts a temporary private one.
type Options struct {
	// DSN names a running server to use instead of a private one, in the form of go-sql-driver/mysql:
	// user:password@tcp(host:port)/. A database in it is ignored, and so are the other fields except
	// Log.
	DSN string
	// Engine is the engine to start. Empty: the one whose data Dir contains, else the first that
	// works.
	Engine Engine
	// Dir keeps the data between runs, in a subdirectory for each engine. It is created if missing.
	// Only one server at a time may use it. Empty: a temporary directory, which [Server.Close]
	// removes.
	Dir string
	// Arguments are passed to mariadbd or mysqld, such as --ssl-cert=FILE.
	Arguments []string
	// Log receives lines for a person who waits, such as which server was chosen. Nil drops them.
	Log func(format string, args ...any)

	// searchDirs replaces the directories where programs are looked for.
	searchDirs []string
}

// The environment variables that [TestOptions] reads.
const (
	EnvTestDSN    = "PREAUTH_TEST_DSN"
	EnvTestEngine = "PREAUTH_TEST_ENGINE"
)

// TestOptions returns the options for a package's tests. PREAUTH_TEST_DSN names a server to use,
// and PREAUTH_TEST_ENGINE (mariadb, mysql or tidb) the engine of a private one. Progress goes to
// standard error.
func TestOptions() Options {
	return Options{
		DSN:    os.Getenv(EnvTestDSN),
		Engine: Engine(os.Getenv(EnvTestEngine)),
		Log: func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, format+"\n", args...)
		},
	}
}

// Server is a MySQL-protocol server. It is safe for concurrent use.
type Server struct {
	config  *mysql.Config // without a database
	version string        // the result of SELECT VERSION()
	engine  *engine

	// Of a private server. A server that a DSN names has no dir.
	program   string
	arguments []string
	dir       *directory
	mu        sync.Mutex
	process   *process
	closed    bool
}

// Start returns a server that answers queries, after about a second. Canceling ctx ends only the
// wait.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = func(string, ...any) {}
	}
	start := startPrivate
	if opts.DSN != "" {
		start = connect
	}
	server, err := start(ctx, opts)
	if err != nil {
		return nil, err
	}
	opts.Log("database: %s", server)
	return server, nil
}

// connect returns the server that a DSN names.
func connect(ctx context.Context, opts Options) (*Server, error) {
	config, err := mysql.ParseDSN(opts.DSN)
	if err != nil {
		// The driver's error may repeat the password.
		return nil, errors.New("the DSN of the database server is invalid; it looks like user:password@tcp(host:3306)/")
	}
	config.DBName = ""
	server := &Server{config: config}
	if server.version, _, err = server.identify(ctx); err != nil {
		return nil, fmt.Errorf("database server at %s: %w", config.Addr, err)
	}
	switch {
	case strings.Contains(server.version, "TiDB"):
		server.engine = find(TiDB)
	case strings.Contains(server.version, "MariaDB"):
		server.engine = find(MariaDB)
	default:
		server.engine = find(MySQL)
	}
	return server, nil
}

// startPrivate starts the first engine that works. If several may be used, one that fails is
// skipped: some systems forbid their mysqld to use other data directories than its own.
func startPrivate(ctx context.Context, opts Options) (*Server, error) {
	dir, err := openDirectory(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("directory of the database server: %w", err)
	}
	candidates, err := candidates(opts.Engine, dir)
	if err != nil {
		return nil, errors.Join(err, dir.close())
	}
	var problems []error
	for _, e := range candidates {
		program, err := e.locate(ctx, opts)
		if err != nil {
			continue
		}
		server, err := startEngine(ctx, opts, e, program, dir)
		if err == nil {
			return server, nil
		}
		problems = append(problems, fmt.Errorf("start %s: %w", e.title, err))
		if ctx.Err() != nil {
			break
		}
		opts.Log("%s does not work here: %v", e.title, err)
	}
	if len(problems) == 0 {
		problems = append(problems, ErrNotFound)
	}
	return nil, errors.Join(append(problems, dir.close())...)
}

func startEngine(ctx context.Context, opts Options, e *engine, program string, dir *directory) (*Server, error) {
	if err := dir.create(ctx, e, program, opts.Arguments...); err != nil {
		return nil, err
	}
	// Another process may take a free port before the server does.
	const attempts = 5
	for attempt := 1; ; attempt++ {
		address, _, err := loopback.Address("")
		if err != nil {
			return nil, err
		}
		config := mysql.NewConfig()
		config.User, config.Net, config.Addr = "root", "tcp", address
		server := &Server{config: config, engine: e, program: program, arguments: opts.Arguments, dir: dir}
		server.version, err = server.run(ctx)
		if err == nil {
			return server, nil
		}
		if !errors.Is(err, errPortTaken) || attempt == attempts {
			return nil, err
		}
	}
}

// run starts the process and waits until it answers. The caller holds mu or is alone.
func (s *Server) run(ctx context.Context) (version string, err error) {
	process, err := startProcess(s.program, append(s.engine.arguments(s.dir.data(s.engine), s.Addr()), s.arguments...), s.dir)
	if err != nil {
		return "", err
	}
	if version, err = s.awaitReady(ctx, process); err != nil {
		process.kill()
		return "", err
	}
	s.process = process
	return version, nil
}

// awaitReady waits until the server answers. Its data directory shows that the answer comes from
// this process and not from another one on the same port.
func (s *Server) awaitReady(ctx context.Context, process *process) (version string, err error) {
	// The recovery of a large data directory after a kill may take long.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-process.exited:
			return "", process.failure()
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not answer: %w\n%s", s.program, ctx.Err(), process.logTail())
		case <-tick.C:
		}
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		version, data, err := s.identify(attempt)
		cancel()
		if err == nil && filepath.Clean(data) == s.dir.data(s.engine) {
			return version, nil
		}
	}
}

// identify asks the server for its version and its data directory.
func (s *Server) identify(ctx context.Context) (version, data string, err error) {
	db, err := s.open()
	if err != nil {
		return "", "", err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, "SELECT VERSION(), @@datadir").Scan(&version, &data)
	return version, data, err
}

func (s *Server) open() (*sql.DB, error) {
	config := s.config.Clone()
	config.Logger = &mysql.NopLogger{} // drops the failed attempts while the server starts
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// Engine returns the server's engine.
func (s *Server) Engine() Engine { return s.engine.name }

// String describes the server for a person: "MariaDB 10.11.19 on 127.0.0.1:20306".
func (s *Server) String() string {
	version := s.version // such as 10.11.19-MariaDB, or 8.0.11-TiDB-v8.5.1 for a TiDB that speaks like MySQL 8.0.11
	if _, tidb, ok := strings.Cut(version, "-TiDB-"); ok {
		version = tidb
	}
	version, _, _ = strings.Cut(version, "-")
	text := fmt.Sprintf("%s %s on %s", s.engine.title, version, s.Addr())
	if s.dir == nil {
		text += ", not started here"
	}
	return text
}

// Addr is the address the server listens on, host:port. [Server.Restart] keeps it.
func (s *Server) Addr() string { return s.config.Addr }

// DSN returns the data source name of a database, in the form of go-sql-driver/mysql. It has no
// parameters but those of [Options].DSN. The database need not exist; the empty name stands for
// none.
func (s *Server) DSN(database string) string {
	config := s.config.Clone()
	config.DBName = database
	return config.FormatDSN()
}

var databaseName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// CreateDatabase creates a database with a binary utf8mb4 collation, unless it exists.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	// The go command caches test results by the variables that the test itself reads, not those that
	// TestMain reads. Without this, a result for one engine would be taken for another's.
	_, _ = os.Getenv(EnvTestDSN), os.Getenv(EnvTestEngine)
	return s.exec(ctx, "CREATE DATABASE IF NOT EXISTS `%s` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", name)
}

// DropDatabase drops a database and everything in it, if it exists.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	return s.exec(ctx, "DROP DATABASE IF EXISTS `%s`", name)
}

func (s *Server) exec(ctx context.Context, statement, database string) error {
	if !databaseName.MatchString(database) {
		return fmt.Errorf("database name %q: use 1 to 64 letters, digits and underscores", database)
	}
	db, err := s.open()
	if err != nil {
		return err
	}
	defer db.Close()
	statement = fmt.Sprintf(statement, database)
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// Kill ends the server with SIGKILL and returns when it is gone. [Server.Restart] starts it again.
// Killing a server that does not run does nothing.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil {
		return fmt.Errorf("kill %s: only a private server can be killed", s)
	}
	s.process.kill()
	return nil
}

// Restart kills the server if it runs, starts it on the same address with the same data, and
// returns when it answers.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil || s.closed {
		return fmt.Errorf("restart %s: only a private server that is not closed can be restarted", s)
	}
	s.process.kill()
	if _, err := s.run(ctx); err != nil {
		return fmt.Errorf("restart %s: %w", s, err)
	}
	return nil
}

// Close stops a private server, waits until its process is gone and removes a temporary directory.
// A second Close does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil || s.closed {
		return nil
	}
	s.closed = true
	if s.dir.temporary {
		s.process.kill()
	} else {
		s.process.stop()
	}
	return s.dir.close()
}
