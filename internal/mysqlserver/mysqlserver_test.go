package mysqlserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/leak"
)

// ownerDir makes the test binary a process that starts a server on the directory and waits to be
// killed.
const ownerDir = "PREAUTH_MYSQLSERVER_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		ownServer(dir)
	}
	_ = mysql.SetLogger(&mysql.NopLogger{}) // it prints each connection that a kill breaks
	leak.VerifyTestMain(m)
}

// underTest is the engine that most tests are about: the one that [EnvTestEngine] names, or the one
// that Start chooses.
func underTest() Engine {
	if named := TestOptions().Engine; named != "" {
		return named
	}
	for _, e := range engines {
		if _, err := e.locate(context.Background(), Options{}); err == nil {
			return e.name
		}
	}
	return TiDB
}

// need returns the path of an engine's program, and skips the test where there is none.
func need(t *testing.T, name Engine) string {
	t.Helper()
	program, err := find(name).locate(t.Context(), Options{})
	if err != nil {
		t.Skip(err)
	}
	return program
}

// within returns a context that ends the waits of a test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, opts Options) *Server {
	t.Helper()
	if opts.Log == nil {
		opts.Log = t.Logf
	}
	s, err := Start(within(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openTable creates a table with one column of numbers.
func openTable(t *testing.T, s *Server) *sql.DB {
	t.Helper()
	if err := s.CreateDatabase(within(t), "kept"); err != nil {
		t.Fatal(err)
	}
	db := open(t, s)
	if _, err := db.ExecContext(within(t), "CREATE TABLE IF NOT EXISTS numbers (n INT PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	return db
}

func open(t *testing.T, s *Server) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", s.DSN("kept"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func insert(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	if _, err := db.ExecContext(within(t), "INSERT INTO numbers VALUES (?)", n); err != nil {
		t.Fatal(err)
	}
}

func numbers(t *testing.T, db *sql.DB) []int {
	t.Helper()
	rows, err := db.QueryContext(within(t), "SELECT n FROM numbers ORDER BY n")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []int
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func pid(s *Server) int { return s.process.command.Process.Pid }

// temporaryDirectory gives the test its own directory for temporary files.
func temporaryDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	engine := underTest()
	temporary := temporaryDirectory(t)
	s := start(t, Options{Engine: engine})
	insert(t, openTable(t, s), 1)
	if len(entries(t, temporary)) == 0 || !alive(pid(s)) {
		t.Fatal("neither directory nor process is where the test looks for it")
	}

	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left := entries(t, temporary); len(left) > 0 {
		t.Errorf("files left: %q", left)
	}
	if alive(pid(s)) {
		t.Errorf("process %d is still there", pid(s))
	}
	if err := s.Restart(within(t)); err == nil {
		t.Error("a closed server started again")
	}
	if err := s.Kill(); err != nil {
		t.Errorf("kill a closed server: %v", err)
	}
}

func TestKillLosesNothingThatWasAcknowledged(t *testing.T) {
	engine := underTest()
	s := start(t, Options{Engine: engine})
	db := openTable(t, s)
	address := s.Addr()

	for round := range 3 {
		// Given writers that are in the middle of their work,
		var mu sync.Mutex
		var acknowledged []int
		enough := make(chan struct{})
		var writers sync.WaitGroup
		for writer := range 4 {
			writers.Go(func() {
				for i := 0; ; i++ {
					n := round*1_000_000 + i*4 + writer
					if _, err := db.Exec("INSERT INTO numbers VALUES (?)", n); err != nil {
						return
					}
					mu.Lock()
					if acknowledged = append(acknowledged, n); len(acknowledged) == 100 {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		select {
		case <-enough:
		case <-within(t).Done():
			t.Fatal("the writers did not get on")
		}

		// when the server is killed and started again,
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		writers.Wait()
		if alive(pid(s)) {
			t.Fatalf("process %d survived", pid(s))
		}
		if err := s.Restart(within(t)); err != nil {
			t.Fatal(err)
		}

		// then every row that it acknowledged is there, at the same address.
		if s.Addr() != address {
			t.Fatalf("moved from %s to %s", address, s.Addr())
		}
		kept := numbers(t, db)
		for _, n := range acknowledged {
			if _, found := slices.BinarySearch(kept, n); !found {
				t.Errorf("round %d: row %d was acknowledged and is lost", round, n)
			}
		}
	}
}

func TestRestartOfARunningServer(t *testing.T) {
	engine := underTest()
	s := start(t, Options{Engine: engine})
	before := pid(s)
	if err := s.Restart(within(t)); err != nil {
		t.Fatal(err)
	}
	if alive(before) || before == pid(s) {
		t.Errorf("process %d went on", before)
	}
	insert(t, openTable(t, s), 1)
}

func TestDirIsKeptBetweenServers(t *testing.T) {
	engine := underTest()
	dir := filepath.Join(t.TempDir(), "made", "if missing")
	first := start(t, Options{Engine: engine, Dir: dir})
	insert(t, openTable(t, first), 1)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	// The engine need not be named again.
	second := start(t, Options{Dir: dir})
	if second.Engine() != engine {
		t.Fatalf("engine %s, want %s, which made the data", second.Engine(), engine)
	}
	if got := numbers(t, open(t, second)); !slices.Equal(got, []int{1}) {
		t.Errorf("rows %v, want the one of the first server", got)
	}
}

func TestDirInUseIsRefused(t *testing.T) {
	engine := underTest()
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Engine: engine, Dir: dir})
	if _, err := Start(within(t), Options{Engine: engine, Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("error %v, want ErrInUse", err)
	}
	if err := s.CreateDatabase(within(t), "kept"); err != nil {
		t.Errorf("the first server was disturbed: %v", err)
	}
}

func TestUnfinishedDataDirectoryIsMadeAgain(t *testing.T) {
	engine := underTest()
	dir := t.TempDir()
	unfinished := filepath.Join(dir, string(engine)+".new")
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(unfinished, "ibdata1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	insert(t, openTable(t, start(t, Options{Engine: engine, Dir: dir})), 1)
}

// ownServer is the process that TestServerEndsWithItsOwner kills.
func ownServer(dir string) {
	s, err := Start(context.Background(), Options{Dir: dir, Engine: TestOptions().Engine})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, pid(s))
	select {}
}

func TestServerEndsWithItsOwner(t *testing.T) {
	engine := underTest()
	// Given a process that owns a server,
	dir := t.TempDir()
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerDir+"="+dir, EnvTestEngine+"="+string(engine))
	owner.Stderr = os.Stderr
	output, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	_, err = fmt.Fscan(output, &child)
	if err != nil {
		t.Fatal(err)
	}
	if !alive(child) {
		t.Fatalf("no process %d", child)
	}

	// when that process is killed,
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()

	// then the server ends too, and the directory can be used again.
	s := start(t, Options{Engine: engine, Dir: dir})
	insert(t, openTable(t, s), 1)
	for deadline := within(t); alive(child); {
		select {
		case <-deadline.Done():
			t.Fatalf("process %d outlived its owner", child)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestAbandonedTemporaryDirectoryIsRemoved(t *testing.T) {
	engine := underTest()
	// Given the directory of a process that was killed an hour ago, and those of one that lives,
	temporary := temporaryDirectory(t)
	abandoned := filepath.Join(temporary, temporaryPrefix+"abandoned")
	if err := os.MkdirAll(filepath.Join(abandoned, "mariadb"), 0o700); err != nil {
		t.Fatal(err)
	}
	living := start(t, Options{Engine: engine})
	hourAgo := time.Now().Add(-time.Hour)
	for _, dir := range []string{abandoned, living.dir.path} {
		if err := os.Chtimes(dir, hourAgo, hourAgo); err != nil {
			t.Fatal(err)
		}
	}

	// when another server starts, then only the first is removed.
	other := start(t, Options{Engine: engine})
	want := []string{filepath.Base(living.dir.path), filepath.Base(other.dir.path)}
	slices.Sort(want)
	if got := entries(t, temporary); !slices.Equal(got, want) {
		t.Errorf("directories %q, want %q", got, want)
	}
}

func TestTakenPortIsRecognized(t *testing.T) {
	engine := underTest()
	s := start(t, Options{Engine: engine})
	dir, err := openDirectory(within(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := dir.close(); err != nil {
			t.Error(err)
		}
	}()
	e := find(engine)
	if err := dir.create(within(t), e, s.program); err != nil {
		t.Fatal(err)
	}
	other := &Server{config: s.config, engine: e, program: s.program, dir: dir}
	if _, err := other.run(within(t)); !errors.Is(err, errPortTaken) {
		t.Errorf("error %v, want errPortTaken", err)
	}
}

func TestServerNamedByDSN(t *testing.T) {
	engine := underTest()
	private := start(t, Options{Engine: engine})
	db := openTable(t, private)
	external := start(t, Options{DSN: private.DSN("ignored") + "?timeout=5s"})

	if external.Engine() != engine || external.String() != private.String()+", not started here" {
		t.Errorf("engine %s, %s; want %s, %s", external.Engine(), external, engine, private)
	}
	if want := private.DSN("kept") + "?timeout=5s"; external.DSN("kept") != want {
		t.Errorf("DSN %q, want %q", external.DSN("kept"), want)
	}
	if external.Kill() == nil || external.Restart(within(t)) == nil {
		t.Error("a server that was not started here can be killed or restarted")
	}
	if err := external.Close(); err != nil {
		t.Error(err)
	}
	insert(t, db, 1)
}

func TestDatabases(t *testing.T) {
	engine := underTest()
	s := start(t, Options{Engine: engine})
	insert(t, openTable(t, s), 1)
	// Creating it again changes nothing.
	if err := s.CreateDatabase(within(t), "kept"); err != nil {
		t.Fatal(err)
	}
	if got := numbers(t, open(t, s)); !slices.Equal(got, []int{1}) {
		t.Errorf("rows %v, want the one that was there", got)
	}
	for range 2 {
		if err := s.DropDatabase(within(t), "kept"); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(t, s).PingContext(within(t)); err == nil {
		t.Error("the database is still there")
	}
	for _, name := range []string{"", "with space", "a`b", "a.b", strings.Repeat("x", 65)} {
		if err := s.CreateDatabase(within(t), name); err == nil {
			t.Errorf("created database %q", name)
		}
	}
}

func TestMariaDBIsDurable(t *testing.T) {
	need(t, MariaDB)
	s := start(t, Options{Engine: MariaDB})
	var flush, doublewrite int
	err := openTable(t, s).QueryRowContext(within(t),
		"SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite").Scan(&flush, &doublewrite)
	if err != nil || flush != 1 || doublewrite != 1 {
		t.Errorf("flush at commit %d, double write %d, %v; want 1 and 1", flush, doublewrite, err)
	}
}

func TestStartRefusesBadOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]Options{
		"unknown engine":           {Engine: "oracle"},
		"directory that is a file": {Dir: file},
		"not a DSN":                {DSN: "user:hunter2/"},
		"DSN where nobody is":      {DSN: "user:hunter2@tcp(127.0.0.1:1)/"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(within(t), opts)
			if err == nil {
				_ = s.Close()
				t.Fatalf("started %s, want an error", s)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestTestOptionsFollowTheEnvironment(t *testing.T) {
	t.Setenv(EnvTestDSN, "user@tcp(127.0.0.1:3306)/")
	t.Setenv(EnvTestEngine, "tidb")
	if got := TestOptions(); got.DSN != "user@tcp(127.0.0.1:3306)/" || got.Engine != TiDB {
		t.Errorf("DSN %q, engine %q", got.DSN, got.Engine)
	}
}

// program creates an executable that prints a version and fails otherwise.
func program(t *testing.T, dir, name, version string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	script := fmt.Sprintf("#!/bin/sh\n[ \"$2\" = --version ] && echo '%s' || exit 1\n", version)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	mariaDBVersion = "mysqld  Ver 10.6.18-MariaDB for Linux on x86_64"
	mySQLVersion   = "/usr/sbin/mysqld  Ver 8.4.2 for Linux on x86_64 (MySQL Community Server - GPL)"
)

func TestProgramsAreFound(t *testing.T) {
	root := t.TempDir()
	maria := program(t, filepath.Join(root, "maria"), "mariadbd", mariaDBVersion)
	alias := program(t, filepath.Join(root, "alias"), "mysqld", mariaDBVersion)
	mySQL := program(t, filepath.Join(root, "mysql"), "mysqld", mySQLVersion)
	tiDB := program(t, filepath.Join(root, "tidb"), "devdb", "")
	broken := program(t, filepath.Join(root, "broken"), "mysqld", mySQLVersion)
	if err := os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	notExecutable := program(t, filepath.Join(root, "not executable"), "mariadbd", mariaDBVersion)
	if err := os.Chmod(notExecutable, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(maria))
	for name, test := range map[string]struct {
		dirs []string
		want map[Engine]string
	}{
		"nothing":                      {dirs: []string{root}},
		"MariaDB":                      {dirs: []string{filepath.Dir(maria)}, want: map[Engine]string{MariaDB: maria}},
		"MariaDB under MySQL's name":   {dirs: []string{filepath.Dir(alias), filepath.Dir(mySQL)}, want: map[Engine]string{MySQL: mySQL}},
		"TiDB":                         {dirs: []string{filepath.Dir(tiDB)}, want: map[Engine]string{TiDB: tiDB}},
		"one that does not run":        {dirs: []string{filepath.Dir(broken), filepath.Dir(mySQL)}, want: map[Engine]string{MySQL: mySQL}},
		"one that is not a program":    {dirs: []string{filepath.Dir(notExecutable)}},
		"a directory that is missing":  {dirs: []string{filepath.Join(root, "missing"), filepath.Dir(maria)}, want: map[Engine]string{MariaDB: maria}},
		"relative directory is unsafe": {dirs: []string{"."}},
	} {
		for _, e := range engines {
			got, err := e.locate(t.Context(), Options{searchDirs: test.dirs})
			if want := test.want[e.name]; got != want || (err != nil) != (want == "") || (err != nil && !errors.Is(err, ErrNotFound)) {
				t.Errorf("%s: %s at %q, %v; want %q", name, e.title, got, err, want)
			}
		}
	}
}

// The go command installs devdb there.
func TestTiDBIsFoundWhereItIsInstalled(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("GOBIN", t.TempDir())
	want := program(t, os.Getenv("GOBIN"), "devdb", "")
	if got, err := find(TiDB).locate(t.Context(), Options{}); got != want {
		t.Errorf("found %q, %v; want %q", got, err, want)
	}
}

func TestMariaDBIsPreferred(t *testing.T) {
	need(t, MariaDB)
	if s := start(t, Options{}); s.Engine() != MariaDB {
		t.Errorf("chose %s", s)
	}
}

func TestAnEngineThatDoesNotWorkIsSkipped(t *testing.T) {
	dirs := []string{t.TempDir()}
	program(t, dirs[0], "mariadbd", mariaDBVersion)
	program(t, dirs[0], "mysqld", mySQLVersion)
	if err := os.Symlink(need(t, TiDB), filepath.Join(dirs[0], "devdb")); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	s := start(t, Options{searchDirs: dirs, Log: func(format string, args ...any) { fmt.Fprintf(&log, format+"\n", args...) }})
	if s.Engine() != TiDB {
		t.Fatalf("chose %s", s)
	}
	for _, want := range []string{"MariaDB does not work here", "MySQL does not work here", "database: TiDB"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log.String())
		}
	}
}

func TestAMachineWithoutAServerIsToldWhatHelps(t *testing.T) {
	temporary := temporaryDirectory(t)
	for _, engine := range []Engine{"", MariaDB, MySQL, TiDB} {
		_, err := Start(within(t), Options{Engine: engine, searchDirs: []string{t.TempDir()}})
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "go -C test/devdb install") || !strings.Contains(err.Error(), "mariadb-server-core") {
			t.Errorf("%s: error %v, want ErrNotFound with the command and the package that help", engine, err)
		}
	}
	if left := entries(t, temporary); len(left) > 0 {
		t.Errorf("files left: %q", left)
	}
}

func TestDevdbEndsInGoodOrder(t *testing.T) {
	program := need(t, TiDB)
	for name, end := range map[string]func(*exec.Cmd, io.Closer) error{
		"when its input closes": func(_ *exec.Cmd, input io.Closer) error { return input.Close() },
		"when it is terminated": func(devdb *exec.Cmd, _ io.Closer) error { return devdb.Process.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			devdb := exec.Command(program, "-data", t.TempDir())
			devdb.Stderr = os.Stderr
			input, err := devdb.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			output, err := devdb.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := devdb.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = devdb.Process.Kill() }()
			var address string
			if _, err := fmt.Fscanf(output, "devdb: ready on %s\n", &address); err != nil {
				t.Fatal(err)
			}
			// An open transaction must not delay it.
			db, err := sql.Open("mysql", "root@tcp("+address+")/mysql")
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			tx, err := db.BeginTx(within(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.ExecContext(within(t), "SELECT * FROM user FOR UPDATE"); err != nil {
				t.Fatal(err)
			}

			if err := end(devdb, input); err != nil {
				t.Fatal(err)
			}
			if err := devdb.Wait(); err != nil {
				t.Errorf("ended with %v, want no error", err)
			}
		})
	}
}
