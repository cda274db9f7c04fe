package mysqlserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
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
	"preauth/internal/loopback"
)

// ownerDir makes the test binary a process that starts a server on the directory and waits to be killed.
const ownerDir = "PREAUTH_MYSQLSERVER_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		ownServer(dir)
	}
	_ = mysql.SetLogger(&mysql.NopLogger{}) // it would print each connection that a kill breaks
	// The build has to happen outside the time that -timeout measures.
	if underTest() == TiDB {
		if _, err := buildTiDB(context.Background(), TestOptions()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	leak.VerifyTestMain(m)
}

// underTest is the engine that most tests are about: the one that [EnvTestEngine] names, or the one
// that Start takes by itself.
func underTest() Engine {
	if named := TestOptions().Engine; named != "" {
		return named
	}
	if _, err := locateMariaDB(context.Background(), Options{}); err == nil {
		return MariaDB
	}
	return TiDB
}

// needMariaDB skips a test where there is none.
func needMariaDB(t *testing.T) {
	t.Helper()
	if _, err := locateMariaDB(t.Context(), Options{}); err != nil {
		t.Skip(err)
	}
}

// needTiDB returns the path of the program, and skips a test where nobody asked to build it.
func needTiDB(t *testing.T) string {
	t.Helper()
	_, program, err := tidbProgram()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("TiDB is not built yet; " + EnvTestEngine + "=tidb builds it")
	}
	return program
}

// within gives a test's waits an end.
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

func pid(s *Server) int { return s.private.process.command.Process.Pid }

// temporaryDirectory makes a directory that is the test's own for temporary files.
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

func TestDirOfAnotherEngineIsRefused(t *testing.T) {
	engine := underTest()
	dir := t.TempDir()
	if err := start(t, Options{Engine: engine, Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
	before := entries(t, dir)
	other := TiDB
	if engine == TiDB {
		other = MariaDB
	}
	_, err := Start(within(t), Options{Engine: other, Dir: dir})
	if !errors.Is(err, ErrOtherEngine) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v, want ErrOtherEngine with the directory", err)
	}
	if after := entries(t, dir); !slices.Equal(before, after) {
		t.Errorf("the directory held %q and now holds %q", before, after)
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
	for _, dir := range []string{abandoned, living.private.dir.path} {
		if err := os.Chtimes(dir, hourAgo, hourAgo); err != nil {
			t.Fatal(err)
		}
	}

	// when another server starts, then only the first is removed.
	other := start(t, Options{Engine: engine})
	want := []string{filepath.Base(living.private.dir.path), filepath.Base(other.private.dir.path)}
	slices.Sort(want)
	if got := entries(t, temporary); !slices.Equal(got, want) {
		t.Errorf("directories %q, want %q", got, want)
	}
}

func TestTakenPortIsAnError(t *testing.T) {
	engine := underTest()
	s := start(t, Options{Engine: engine})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	temporary := temporaryDirectory(t)
	for name, address := range map[string]string{
		"by another server, which answers": s.Addr(),
		"by something that says nothing":   silent.Addr().String(),
	} {
		if _, err := Start(within(t), Options{Engine: engine, Listen: address}); !errors.Is(err, ErrPortTaken) {
			t.Errorf("%s: error %v, want ErrPortTaken", name, err)
		}
		if left := entries(t, temporary); len(left) > 0 {
			t.Errorf("%s: files left: %q", name, left)
		}
	}

	// A directory in which nothing could be kept yet does not belong to the engine.
	dir := t.TempDir()
	if _, err := Start(within(t), Options{Engine: engine, Dir: dir, Listen: s.Addr()}); !errors.Is(err, ErrPortTaken) {
		t.Errorf("error %v, want ErrPortTaken", err)
	}
	if left := entries(t, dir); !slices.Equal(left, []string{lockName, logName}) {
		t.Errorf("the directory holds %q", left)
	}
}

func TestListenOnAGivenPort(t *testing.T) {
	engine := underTest()
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	if s := start(t, Options{Engine: engine, Listen: address}); s.Addr() != address {
		t.Errorf("listens on %s, want %s", s.Addr(), address)
	}
}

func TestServerNamedByDSN(t *testing.T) {
	engine := underTest()
	private := start(t, Options{Engine: engine})
	db := openTable(t, private)
	external := start(t, Options{DSN: private.DSN("ignored") + "?timeout=5s"})

	if external.Engine() != engine || external.Version() != private.Version() {
		t.Errorf("engine %s, version %s; want %s, %s", external.Engine(), external.Version(), engine, private.Version())
	}
	if want := private.DSN("kept") + "?timeout=5s"; external.DSN("kept") != want {
		t.Errorf("DSN %q, want %q", external.DSN("kept"), want)
	}
	if err := external.Kill(); !errors.Is(err, ErrExternal) {
		t.Errorf("kill: %v, want ErrExternal", err)
	}
	if err := external.Restart(within(t)); !errors.Is(err, ErrExternal) {
		t.Errorf("restart: %v, want ErrExternal", err)
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
	needMariaDB(t)
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
		"address of no loopback":   {Listen: "0.0.0.0:3306"},
		"address without port":     {Listen: "127.0.0.1"},
		"directory that is a file": {Dir: file},
		"DSN that is none":         {DSN: "user:hunter2/"},
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

// program makes an executable that prints a version and fails at everything else.
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
	oldMaria := program(t, filepath.Join(root, "old maria"), "mysqld", mariaDBVersion)
	mySQL := program(t, filepath.Join(root, "mysql"), "mysqld", mySQLVersion)
	broken := program(t, filepath.Join(root, "broken"), "mysqld", mySQLVersion)
	if err := os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	notExecutable := program(t, filepath.Join(root, "not executable"), "mariadbd", mariaDBVersion)
	if err := os.Chmod(notExecutable, 0o600); err != nil {
		t.Fatal(err)
	}

	for name, test := range map[string]struct {
		dirs                   []string
		wantMariaDB, wantMySQL string
	}{
		"nothing":                      {dirs: []string{root}},
		"MariaDB":                      {dirs: []string{filepath.Dir(maria)}, wantMariaDB: maria},
		"MariaDB under MySQL's name":   {dirs: []string{filepath.Dir(oldMaria)}, wantMariaDB: oldMaria},
		"MySQL":                        {dirs: []string{filepath.Dir(mySQL)}, wantMySQL: mySQL},
		"both under one name":          {dirs: []string{filepath.Dir(mySQL), filepath.Dir(oldMaria)}, wantMariaDB: oldMaria, wantMySQL: mySQL},
		"MariaDB under both names":     {dirs: []string{filepath.Dir(oldMaria), filepath.Dir(maria)}, wantMariaDB: maria},
		"one that does not run":        {dirs: []string{filepath.Dir(broken), filepath.Dir(mySQL)}, wantMySQL: mySQL},
		"one that is not a program":    {dirs: []string{filepath.Dir(notExecutable)}},
		"directory that is missing":    {dirs: []string{filepath.Join(root, "missing"), filepath.Dir(maria)}, wantMariaDB: maria},
		"relative directory is unsafe": {dirs: []string{"."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(filepath.Dir(maria))
			for _, kind := range []struct {
				locate func(context.Context, Options) (string, error)
				want   string
			}{{locateMariaDB, test.wantMariaDB}, {locateMySQL, test.wantMySQL}} {
				got, err := kind.locate(t.Context(), Options{searchDirs: test.dirs})
				if got != kind.want || (err != nil) != (kind.want == "") || (err != nil && !errors.Is(err, ErrNotFound)) {
					t.Errorf("found %q, %v; want %q", got, err, kind.want)
				}
			}
		})
	}
}

func TestOrderOfChoice(t *testing.T) {
	all, err := choose("")
	if err != nil {
		t.Fatal(err)
	}
	var names []Engine
	for _, e := range all {
		names = append(names, e.name)
	}
	if want := []Engine{MariaDB, MySQL, TiDB}; !slices.Equal(names, want) {
		t.Errorf("order %v, want %v", names, want)
	}
}

func TestMariaDBIsPreferred(t *testing.T) {
	needMariaDB(t)
	if s := start(t, Options{}); s.Engine() != MariaDB {
		t.Errorf("chose %s", s)
	}
}

func TestTiDBStepsInForWhatIsNotThereOrDoesNotWork(t *testing.T) {
	needTiDB(t)
	broken := t.TempDir()
	program(t, broken, "mariadbd", mariaDBVersion)
	program(t, broken, "mysqld", mySQLVersion)
	for name, test := range map[string]struct {
		dir     string
		wantLog []string
	}{
		"no other server":         {dir: t.TempDir()},
		"servers that are broken": {dir: broken, wantLog: []string{"MariaDB cannot be used here", "MySQL cannot be used here"}},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			dir := t.TempDir()
			s := start(t, Options{Dir: dir, searchDirs: []string{test.dir}, Log: func(format string, args ...any) {
				fmt.Fprintf(&log, format+"\n", args...)
			}})
			if s.Engine() != TiDB {
				t.Fatalf("chose %s", s)
			}
			for _, want := range append(test.wantLog, "database: TiDB") {
				if !strings.Contains(log.String(), want) {
					t.Errorf("log lacks %q:\n%s", want, log.String())
				}
			}
			if left := entries(t, dir); !slices.Equal(left, []string{lockName, logName, "tidb"}) {
				t.Errorf("the directory holds %q", left)
			}
		})
	}
}

func TestNamedEngineThatIsNotThereIsAnError(t *testing.T) {
	temporary := temporaryDirectory(t)
	for _, engine := range []Engine{MariaDB, MySQL} {
		_, err := Start(within(t), Options{Engine: engine, searchDirs: []string{t.TempDir()}})
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "mariadb-server-core") {
			t.Errorf("%s: error %v, want ErrNotFound with the package that helps", engine, err)
		}
	}
	if left := entries(t, temporary); len(left) > 0 {
		t.Errorf("files left: %q", left)
	}
}

func TestDevdbEndsInGoodOrder(t *testing.T) {
	program := needTiDB(t)
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
			// A transaction that is open does not hold it up.
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

func TestDevdbIsFoundFromAnyDirectory(t *testing.T) {
	here, err := findDevdb()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	elsewhere, err := findDevdb()
	if err != nil || elsewhere != here {
		t.Errorf("found %q, %v; want %q", elsewhere, err, here)
	}
}

func TestBuildIsKeyedByItsSource(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	hash := func() {
		t.Helper()
		got, err := hashSource(dir)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(seen, got) {
			t.Errorf("hash %s was that of another source", got)
		}
		seen = append(seen, got)
	}
	write("go.mod", "module preauth/test/devdb\n")
	if _, err := hashSource(dir); err == nil {
		t.Error("hash of a module without go.sum")
	}
	write("go.sum", "")
	hash()
	write("go.sum", "sum")
	hash()
	write("main.go", "package main")
	hash()
	write("main.go", "package main // changed")
	hash()
	write("go.mod", "module preauth/test/devdb\n\ngo 1.26\n")
	hash()
}

func TestLockIsHeldByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := lockFile(within(t), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	// While it is held, a second one waits until its context ends,
	ended, cancel := context.WithCancel(t.Context())
	if _, err := lockFile(ended, path, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
	// or until the first gives it up.
	second, err := lockFile(within(t), path, func() { _ = first.Close() })
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
