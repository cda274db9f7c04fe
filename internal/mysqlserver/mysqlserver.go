// Package mysqlserver gives `preauth dev` and the tests a MySQL-protocol server: one that a DSN names,
// or a private one that it starts itself.
//
// A private server is the first that this machine has or can have of
//
//   - mariadbd (MariaDB 10.6 or newer) or mysqld (MySQL 8) from PATH or the directories where systems
//     keep them; both are started with a data directory of their own, never with the system's;
//   - TiDB with its built-in store, built from the nested module devdb. The first build takes about
//     five minutes; the binary stays in the user's cache directory.
//
// A private server listens on a loopback address, takes the user root without a password, and has
// durable settings, so that what it acknowledged is still there after [Server.Kill]. It ends with the
// process that started it: on Linux in every case, elsewhere MariaDB and MySQL stay behind if that
// process is killed before [Server.Close].
//
// A package's tests start a server of their own, so that they share nothing:
//
//	func TestMain(m *testing.M) {
//		server, err := mysqlserver.Start(context.Background(), mysqlserver.TestOptions())
//		if err != nil {
//			log.Fatal(err)
//		}
//		code := m.Run()
//		if err := server.Close(); err != nil {
//			log.Fatal(err)
//		}
//		os.Exit(code)
//	}
package mysqlserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/loopback"
)

// Engine names the program behind a server.
type Engine string

// The engines. The empty Engine in [Options] means the first that works, in this order.
const (
	MariaDB Engine = "mariadb"
	MySQL   Engine = "mysql"
	TiDB    Engine = "tidb"
)

var (
	// ErrNotFound means that an engine is neither installed nor can be built.
	ErrNotFound = errors.New("not found on this machine; Debian and Ubuntu have MariaDB in the package mariadb-server-core")
	// ErrPortTaken means that another process listens on the address asked for.
	ErrPortTaken = errors.New("address is taken by another process")
	// ErrInUse means that another process runs a server on the same Dir.
	ErrInUse = errors.New("directory is in use by another process")
	// ErrOtherEngine means that Dir holds data which an engine other than the one asked for has made.
	ErrOtherEngine = errors.New("directory holds the data of another engine")
	// ErrExternal means that a server named by a DSN can be used but neither killed nor started.
	ErrExternal = errors.New("server was not started here")
)

// Options say which server to use. The zero value starts a temporary private one.
type Options struct {
	// DSN names a running server to use instead of a private one, in the form of go-sql-driver/mysql:
	// user:password@tcp(host:port)/. A database in it is ignored. The other fields but Log are then
	// without effect.
	DSN string
	// Engine is the engine to start. Empty: the one whose data Dir holds, else the first that works.
	Engine Engine
	// Dir keeps the data between runs; it is made if missing, and one server at a time may use it.
	// Each engine's data is in a subdirectory with its name. Empty: a temporary directory that
	// [Server.Close] removes.
	Dir string
	// Listen is the loopback address host:port to listen on. Empty, or with port 0: a free port.
	Listen string
	// Arguments are more of them for the program, such as --ssl-cert=FILE. TiDB takes none.
	Arguments []string
	// Log takes lines for the person who waits: which server was chosen, what is being built and how
	// long it takes. Nil: they are dropped.
	Log func(format string, args ...any)

	// searchDirs replaces the directories where programs are looked for.
	searchDirs []string
}

// The environment variables that [TestOptions] reads.
const (
	EnvTestDSN    = "PREAUTH_TEST_DSN"
	EnvTestEngine = "PREAUTH_TEST_ENGINE"
)

// TestOptions returns the options for a package's tests. PREAUTH_TEST_DSN names a server to use;
// PREAUTH_TEST_ENGINE (mariadb, mysql or tidb) chooses the engine of a private one. Progress goes to
// standard error.
//
// Call it from TestMain, outside the time that `go test -timeout` measures: a first build of TiDB is
// long. The go command itself ends a test binary one minute after that time.
func TestOptions() Options {
	return Options{
		DSN:    os.Getenv(EnvTestDSN),
		Engine: Engine(os.Getenv(EnvTestEngine)),
		Log: func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, format+"\n", args...)
		},
	}
}

// Server is a MySQL-protocol server. Its methods may be called from several goroutines.
type Server struct {
	config  *mysql.Config // without a database
	version string        // what SELECT VERSION() answers
	private *private      // nil for a server named by a DSN
}

// private is what is known of a server started here.
type private struct {
	engine  *engine
	program string
	dir     *directory
	address string
	more    []string // arguments

	mu      sync.Mutex
	process *process
	closed  bool
}

// Start returns a server that answers queries. It takes about a second, and minutes the first time
// that TiDB has to be built; ctx ends the wait, and has no effect on the server once Start returned.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = func(string, ...any) {}
	}
	if opts.DSN != "" {
		return connect(ctx, opts)
	}
	if _, _, err := loopback.Address(opts.Listen); err != nil {
		return nil, fmt.Errorf("database server: %w", err)
	}
	dir, err := openDirectory(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("directory of the database server: %w", err)
	}
	server, err := startPrivate(ctx, opts, dir)
	if err != nil {
		return nil, errors.Join(err, dir.close())
	}
	opts.Log("database: %s", server)
	return server, nil
}

// connect returns the server that a DSN names.
func connect(ctx context.Context, opts Options) (*Server, error) {
	config, err := mysql.ParseDSN(opts.DSN)
	if err != nil {
		// The driver's error may repeat the password.
		return nil, errors.New("DSN of the database server cannot be read; it looks like user:password@tcp(host:3306)/")
	}
	config.DBName = ""
	server := &Server{config: config}
	if server.version, _, err = server.identify(ctx); err != nil {
		return nil, fmt.Errorf("database server at %s: %w", config.Addr, err)
	}
	opts.Log("database: %s", server)
	return server, nil
}

// startPrivate starts the first candidate that works. With several, one that fails is passed over:
// some systems have a mysqld that may not use a data directory of its own.
func startPrivate(ctx context.Context, opts Options, dir *directory) (*Server, error) {
	candidates, err := choose(opts.Engine)
	if err != nil {
		return nil, err
	}
	if made := dir.madeBy(); made != nil {
		if !slices.Contains(candidates, made) {
			return nil, fmt.Errorf("%w: %s holds data made by %s, and the engine asked for is %s; choose another directory",
				ErrOtherEngine, dir.path, made.title, candidates[0].title)
		}
		candidates = []*engine{made}
	}
	var problems []error
	for _, e := range candidates {
		server, err := startEngine(ctx, opts, e, dir)
		if err == nil {
			return server, nil
		}
		problems = append(problems, fmt.Errorf("start %s: %w", e.title, err))
		if errors.Is(err, ErrPortTaken) || ctx.Err() != nil {
			break
		}
		if len(candidates) > 1 && !errors.Is(err, ErrNotFound) {
			opts.Log("%s cannot be used here: %v", e.title, err)
		}
	}
	return nil, errors.Join(problems...)
}

func startEngine(ctx context.Context, opts Options, e *engine, dir *directory) (_ *Server, err error) {
	program, err := e.locate(ctx, opts)
	if err != nil {
		return nil, err
	}
	fresh, err := dir.create(ctx, e, program)
	if err != nil {
		return nil, err
	}
	if fresh {
		// Data that never held anything must not bind the next start to this engine.
		defer func() {
			if err != nil {
				err = errors.Join(err, dir.discard(e))
			}
		}()
	}
	// A port that was free a moment ago may be taken by now.
	const attempts = 5
	for attempt := 1; ; attempt++ {
		address, free, err := loopback.Address(opts.Listen)
		if err != nil {
			return nil, err
		}
		config := mysql.NewConfig()
		config.User, config.Net, config.Addr = "root", "tcp", address
		server := &Server{config: config, private: &private{engine: e, program: program, dir: dir, address: address, more: opts.Arguments}}
		server.version, err = server.run(ctx)
		if err == nil {
			return server, nil
		}
		if !free || !errors.Is(err, ErrPortTaken) || attempt == attempts {
			return nil, err
		}
	}
}

// run starts the process and waits until it answers. The caller holds mu or is alone.
func (s *Server) run(ctx context.Context) (version string, err error) {
	p := s.private
	process, err := startProcess(p.program, append(p.engine.arguments(p.dir.data(p.engine), p.address), p.more...), p.dir)
	if err != nil {
		return "", err
	}
	if version, err = s.awaitReady(ctx, process); err != nil {
		process.kill()
		return "", err
	}
	p.process = process
	return version, nil
}

// awaitReady waits until the server answers, and makes sure that it is this process that does.
func (s *Server) awaitReady(ctx context.Context, process *process) (version string, err error) {
	// Recovery of a large data directory after a kill is what may take this long.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	running, ended := context.WithCancel(ctx)
	go func() {
		defer ended()
		select {
		case <-process.exited:
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	p := s.private
	for {
		select {
		case <-process.exited:
			return "", process.failure()
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not answer: %w\n%s", p.program, ctx.Err(), process.logTail())
		case <-tick.C:
		}
		attempt, cancel := context.WithTimeout(running, 2*time.Second)
		version, data, err := s.identify(attempt)
		cancel()
		if err == nil && filepath.Clean(data) == p.dir.data(p.engine) {
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
	config.Logger = &mysql.NopLogger{} // it would print each attempt while the server starts
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// Engine says which engine it is; for a server named by a DSN from what it answers.
func (s *Server) Engine() Engine {
	switch {
	case s.private != nil:
		return s.private.engine.name
	case strings.Contains(s.version, "TiDB"):
		return TiDB
	case strings.Contains(s.version, "MariaDB"):
		return MariaDB
	default:
		return MySQL
	}
}

// Version is what the server answers to SELECT VERSION(), such as "10.11.19-MariaDB" or
// "8.0.11-TiDB-v8.5.1", where 8.0.11 is the MySQL that TiDB speaks like.
func (s *Server) Version() string { return s.version }

// String describes the server for a person: "MariaDB 10.11.19 on 127.0.0.1:20306".
func (s *Server) String() string {
	version := s.version
	if _, tidb, ok := strings.Cut(version, "-TiDB-"); ok {
		version = tidb
	}
	version, _, _ = strings.Cut(version, "-")
	text := fmt.Sprintf("%s %s on %s", engines[s.Engine()].title, version, s.Addr())
	if s.private == nil {
		text += ", not started here"
	}
	return text
}

// Addr is the address the server listens on, host:port. It stays the same over [Server.Restart].
func (s *Server) Addr() string { return s.config.Addr }

// DSN returns the data source name of a database for go-sql-driver/mysql. It has no parameters, but
// for those of [Options].DSN: whoever opens it sets those it needs. The database need not exist; the
// empty name is none.
func (s *Server) DSN(database string) string {
	config := s.config.Clone()
	config.DBName = database
	return config.FormatDSN()
}

var databaseName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// CreateDatabase creates a database, with utf8mb4 compared byte for byte, if it does not exist.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	// The go command takes a cached result for another engine's unless a test itself asks which it is: what TestMain asks
	// does not count.
	_, _ = os.Getenv(EnvTestDSN), os.Getenv(EnvTestEngine)
	return s.exec(ctx, "CREATE DATABASE IF NOT EXISTS `%s` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", name)
}

// DropDatabase drops a database with all it holds, if it exists.
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

// Kill ends the server in the middle of whatever it does (SIGKILL) and returns when it is gone.
// [Server.Restart] starts it again. A server that is down stays down.
func (s *Server) Kill() error {
	if s.private == nil {
		return fmt.Errorf("kill %s: %w", s, ErrExternal)
	}
	s.private.mu.Lock()
	defer s.private.mu.Unlock()
	s.private.process.kill()
	return nil
}

// Restart starts the server again, on the same address and with the same data, and returns when it
// answers. One that still runs is killed first.
func (s *Server) Restart(ctx context.Context) error {
	if s.private == nil {
		return fmt.Errorf("restart %s: %w", s, ErrExternal)
	}
	s.private.mu.Lock()
	defer s.private.mu.Unlock()
	if s.private.closed {
		return fmt.Errorf("restart %s: it was closed", s)
	}
	s.private.process.kill()
	if _, err := s.run(ctx); err != nil {
		return fmt.Errorf("restart %s: %w", s, err)
	}
	return nil
}

// Close stops the server, waits until its process is gone and removes a temporary directory. It does
// nothing for a server named by a DSN. Do not use the server afterwards; a second Close does nothing.
func (s *Server) Close() error {
	if s.private == nil {
		return nil
	}
	s.private.mu.Lock()
	defer s.private.mu.Unlock()
	if s.private.closed {
		return nil
	}
	s.private.closed = true
	if s.private.dir.temporary {
		s.private.process.kill()
	} else {
		s.private.process.stop()
	}
	return s.private.dir.close()
}
