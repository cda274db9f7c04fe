package mysqlserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	name  Engine
	title string // for people
	// locate returns the program's path, or an error that wraps ErrNotFound.
	locate func(ctx context.Context, opts Options) (string, error)
	// initialize fills an empty directory with the system tables. Nil: the program does so itself.
	initialize func(ctx context.Context, program, data string) error
	arguments  func(data, address string) []string
}

// order is the order of choice.
var order = []Engine{MariaDB, MySQL, TiDB}

var engines = map[Engine]*engine{
	MariaDB: {
		name:       MariaDB,
		title:      "MariaDB",
		locate:     locateMariaDB,
		initialize: initializeMariaDB,
		arguments:  mysqldArguments,
	},
	// Written after MySQL's manual: no MySQL was at hand to try it with.
	MySQL: {
		name:       MySQL,
		title:      "MySQL",
		locate:     locateMySQL,
		initialize: initializeMySQL,
		arguments:  func(data, address string) []string { return append(mysqldArguments(data, address), "--mysqlx=OFF") },
	},
	TiDB: {
		name:      TiDB,
		title:     "TiDB",
		locate:    buildTiDB,
		arguments: func(data, address string) []string { return []string{"-data", data, "-listen", address} },
	},
}

// choose returns the engines to try, the named one alone if there is a name.
func choose(name Engine) ([]*engine, error) {
	if name == "" {
		var all []*engine
		for _, name := range order {
			all = append(all, engines[name])
		}
		return all, nil
	}
	if e, ok := engines[name]; ok {
		return []*engine{e}, nil
	}
	return nil, fmt.Errorf("database engine %q: choose one of %q, or none for the first that works", name, order)
}

// systemDirs are where systems keep a server that is not on the PATH of every user.
var systemDirs = []string{
	"/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin", "/usr/local/libexec",
	"/usr/local/mysql/bin", "/opt/homebrew/bin", "/opt/homebrew/opt/mariadb/bin", "/opt/homebrew/opt/mysql/bin",
}

// programs returns the executable files of a name, in the order of the directories.
func (o Options) programs(name string) []string {
	dirs := o.searchDirs
	if dirs == nil {
		dirs = append(filepath.SplitList(os.Getenv("PATH")), systemDirs...)
	}
	var found []string
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue // as package exec does, which would look through PATH instead
		}
		path, err := exec.LookPath(filepath.Join(dir, name))
		if err == nil && !slices.Contains(found, path) {
			found = append(found, path)
		}
	}
	return found
}

func locateMariaDB(ctx context.Context, opts Options) (string, error) {
	if found := opts.programs("mariadbd"); len(found) > 0 {
		return found[0], nil
	}
	return locateMysqld(ctx, opts, true)
}

func locateMySQL(ctx context.Context, opts Options) (string, error) {
	return locateMysqld(ctx, opts, false)
}

// locateMysqld finds a program with the name that both use.
func locateMysqld(ctx context.Context, opts Options, wantMariaDB bool) (string, error) {
	for _, path := range opts.programs("mysqld") {
		version, err := exec.CommandContext(ctx, path, "--no-defaults", "--version").Output()
		if err == nil && bytes.Contains(version, []byte("MariaDB")) == wantMariaDB {
			return path, nil
		}
	}
	return "", ErrNotFound
}

// storageArguments have to be the same whenever a data directory is used.
func storageArguments(data string) []string {
	arguments := []string{
		"--no-defaults",
		"--datadir=" + data,
		"--tmpdir=" + filepath.Dir(data), // a server that starts deletes what looks like its leftovers there
		"--innodb-buffer-pool-size=64M",
	}
	if os.Geteuid() == 0 {
		arguments = append(arguments, "--user=root") // otherwise both refuse to run as root
	}
	return arguments
}

func mysqldArguments(data, address string) []string {
	host, port, _ := net.SplitHostPort(address)
	return append(storageArguments(data),
		"--bind-address="+host,
		"--port="+port,
		"--socket=", // none: its path would be too long in many a temporary directory
		"--pid-file="+filepath.Join(data, "server.pid"),
		"--character-set-server=utf8mb4",
		"--innodb-flush-log-at-trx-commit=1",
		"--performance-schema=OFF",
		"--max-connections=500",
	)
}

// initializeMariaDB does what the script mariadb-install-db does, which Debian splits over two packages
// and which changes the owner of system files when root runs it. The help texts and the schema sys are
// left out.
func initializeMariaDB(ctx context.Context, program, data string) error {
	share, err := shareDirectory(ctx, program)
	if err != nil {
		return err
	}
	// The server reads one statement per line, so each of these is on its own.
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
	command := exec.CommandContext(ctx, program, append(storageArguments(data),
		"--bootstrap",
		"--enforce-storage-engine=",
		"--max-allowed-packet=8M",
		"--innodb-log-file-size=32M", // kept from then on; the default of 96M is written in full
	)...)
	command.Stdin = io.MultiReader(statements...)
	return runQuietly(command)
}

// shareDirectory asks the server where the files that belong to it are.
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
	return "", fmt.Errorf("%s --verbose --help: no character-sets-dir, beside which its system tables are", program)
}

func initializeMySQL(ctx context.Context, program, data string) error {
	return runQuietly(exec.CommandContext(ctx, program, append(storageArguments(data), "--initialize-insecure")...))
}

// runQuietly runs a command whose output is of interest only when it fails.
func runQuietly(command *exec.Cmd) error {
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command.Path, err, lastLines(string(output)))
	}
	return nil
}

// lastLines returns the end of a log, as much as an error can carry.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
