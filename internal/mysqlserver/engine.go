package mysqlserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/build"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// engine is how to find, prepare and start a server program.
type engine struct {
	name           Engine
	title, program string
	// initialize fills an empty directory with the system tables. Nil: the program does it itself.
	initialize func(ctx context.Context, program, data string, arguments []string) error
	arguments  func(data, address string) []string
}

// engines are in the order in which Start tries them.
var engines = []*engine{
	{MariaDB, "MariaDB", "mariadbd", initializeMariaDB, mysqldArguments},
	{MySQL, "MySQL", "mysqld", initializeMySQL, func(data, address string) []string {
		return append(mysqldArguments(data, address), "--mysqlx=OFF")
	}},
	{TiDB, "TiDB", "devdb", nil, func(data, address string) []string {
		return []string{"-data", data, "-listen", address}
	}},
}

// find returns the engine with a name, or nil.
func find(name Engine) *engine {
	for _, e := range engines {
		if e.name == name {
			return e
		}
	}
	return nil
}

// candidates returns the engines to try: the named one, or the one whose data the directory
// contains, or all.
func candidates(name Engine, dir *directory) ([]*engine, error) {
	if e := find(name); e != nil {
		return []*engine{e}, nil
	}
	if name != "" {
		return nil, fmt.Errorf("database engine %q: choose mariadb, mysql or tidb, or none for the first that works", name)
	}
	for _, e := range engines {
		if _, err := os.Stat(dir.data(e)); err == nil {
			return []*engine{e}, nil
		}
	}
	return engines, nil
}

// locate returns the path of the engine's program, or ErrNotFound.
func (e *engine) locate(ctx context.Context, opts Options) (string, error) {
	dirs := opts.searchDirs
	if dirs == nil {
		dirs = append(filepath.SplitList(os.Getenv("PATH")), systemDirs...)
		// The go command installs there.
		dirs = append(dirs, os.Getenv("GOBIN"))
		for _, path := range filepath.SplitList(build.Default.GOPATH) {
			dirs = append(dirs, filepath.Join(path, "bin"))
		}
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue // LookPath would search the PATH instead
		}
		path, err := exec.LookPath(filepath.Join(dir, e.program))
		if err != nil {
			continue
		}
		if e.name == MySQL { // MariaDB too may have a mysqld
			version, err := exec.CommandContext(ctx, path, "--no-defaults", "--version").Output()
			if err != nil || bytes.Contains(version, []byte("MariaDB")) {
				continue
			}
		}
		return path, nil
	}
	return "", ErrNotFound
}

// systemDirs are where systems keep servers that are not on every user's PATH.
var systemDirs = []string{
	"/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin", "/usr/local/libexec",
	"/usr/local/mysql/bin", "/opt/homebrew/bin", "/opt/homebrew/opt/mariadb/bin", "/opt/homebrew/opt/mysql/bin",
}

// storageArguments must be the same whenever a data directory is used.
func storageArguments(data string) []string {
	arguments := []string{
		"--no-defaults",
		"--datadir=" + data,
		"--tmpdir=" + filepath.Dir(data), // a starting server deletes leftovers there, and must not find another's
		"--innodb-buffer-pool-size=64M",
	}
	if os.Geteuid() == 0 {
		arguments = append(arguments, "--user=root") // without it, both refuse to run as root
	}
	return arguments
}

func mysqldArguments(data, address string) []string {
	host, port, _ := net.SplitHostPort(address)
	return append(storageArguments(data),
		"--bind-address="+host,
		"--port="+port,
		"--socket=", // none: in many temporary directories its path would be too long
		"--pid-file="+filepath.Join(data, "server.pid"),
		"--character-set-server=utf8mb4",
		"--innodb-flush-log-at-trx-commit=1",
		"--performance-schema=OFF",
		"--max-connections=500",
	)
}

// initializeMariaDB does the work of the script mariadb-install-db. Debian splits that script over
// two packages, and when root runs it, it changes the owner of system files. The help texts and the
// schema sys are left out.
func initializeMariaDB(ctx context.Context, program, data string, arguments []string) error {
	share, err := shareDirectory(ctx, program)
	if err != nil {
		return err
	}
	// The server reads one statement a line.
	statements := []io.Reader{strings.NewReader("CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n")}
	for _, part := range []string{"system_tables.sql", "performance_tables.sql", "system_tables_data.sql"} {
		// Newer versions name the files after MariaDB.
		script, err := os.ReadFile(filepath.Join(share, "mysql_"+part))
		if errors.Is(err, fs.ErrNotExist) {
			script, err = os.ReadFile(filepath.Join(share, "mariadb_"+part))
		}
		if err != nil {
			return fmt.Errorf("system tables of %s: %w", program, err)
		}
		statements = append(statements, bytes.NewReader(script), strings.NewReader("\n"))
	}
	command := exec.CommandContext(ctx, program, append(slices.Concat(storageArguments(data), pageSize(arguments)),
		"--bootstrap",
		"--enforce-storage-engine=",
		"--max-allowed-packet=8M",
		"--innodb-log-file-size=32M", // permanent; the default of 96M would be written in full
	)...)
	command.Stdin = io.MultiReader(statements...)
	return runQuietly(command)
}

// shareDirectory asks the server where its files are.
func shareDirectory(ctx context.Context, program string) (string, error) {
	help, err := exec.CommandContext(ctx, program, "--no-defaults", "--verbose", "--help").Output()
	if err != nil {
		return "", fmt.Errorf("%s --verbose --help: %w", program, err)
	}
	for line := range strings.Lines(string(help)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "character-sets-dir" {
			return filepath.Dir(filepath.Clean(fields[1])), nil
		}
	}
	return "", fmt.Errorf("%s --verbose --help: it has no character-sets-dir, beside which the system tables are", program)
}

func initializeMySQL(ctx context.Context, program, data string, arguments []string) error {
	return runQuietly(exec.CommandContext(ctx, program, append(slices.Concat(storageArguments(data), pageSize(arguments)), "--initialize-insecure")...))
}

// pageSize returns the arguments that a data directory is created with for good.
func pageSize(arguments []string) []string {
	return slices.DeleteFunc(slices.Clone(arguments), func(argument string) bool {
		return !strings.HasPrefix(argument, "--innodb-page-size=")
	})
}

// runQuietly runs a command. Its output is part of the error if it fails.
func runQuietly(command *exec.Cmd) error {
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command.Path, err, lastLines(string(output)))
	}
	return nil
}

// lastLines returns the end of a log, short enough for an error.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
