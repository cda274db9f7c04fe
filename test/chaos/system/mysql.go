package system

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/go-sql-driver/mysql"

	"preauth/internal/mysqlserver"
	"preauth/test/chaos/forgetful"
)

// MySQL is the database server.
type MySQL struct {
	*mysqlserver.Server
	// Root connects past the proxies, as the user with all rights.
	Root *sql.DB
	// Dir holds the server's files.
	Dir string

	disk    *forgetful.Disk // nil without Options.Forgetful
	standby *standby        // nil unless the database can fail over
}

const (
	database = "preauth"
	user     = "preauth"
	password = "of-the-service"
)

// grants are the rights that docs/operation.md gives to the service.
var grants = []string{
	"GRANT SELECT, INSERT, UPDATE ON preauth.component TO 'preauth'@'%'",
	"GRANT SELECT, INSERT, UPDATE, DELETE ON preauth.pre_auth_code TO 'preauth'@'%'",
	"GRANT SELECT, INSERT, UPDATE, DELETE ON preauth.outbox TO 'preauth'@'%'",
	"GRANT SELECT, INSERT, UPDATE ON preauth.stream_set TO 'preauth'@'%'",
	"GRANT SELECT ON preauth.schema_version TO 'preauth'@'%'",
}

// startMySQL starts a server with the schema, and with a user that has no more rights than the
// service needs.
func startMySQL(ctx context.Context, opts Options) (_ *MySQL, err error) {
	m := &MySQL{Dir: filepath.Join(opts.Dir, "mysql")}
	if opts.Forgetful {
		if m.disk, err = forgetful.Start(m.Dir, false); err != nil {
			return nil, err
		}
	}
	options := mysqlserver.Options{Engine: opts.Engine, Dir: m.Dir, Arguments: opts.DatabaseArguments, Log: opts.Log}
	if opts.Failover {
		options.Engine, options.Arguments = mysqlserver.MariaDB, append(replicated(1), opts.DatabaseArguments...)
	}
	if m.Server, err = mysqlserver.Start(ctx, options); err != nil {
		return nil, errors.Join(err, closeDisk(m.disk, m.Dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if opts.Failover {
		if m.standby, err = startStandby(ctx, m.Dir, m.Server, opts.Log); err != nil {
			return nil, err
		}
	}
	if err := m.CreateDatabase(ctx, database); err != nil {
		return nil, err
	}
	config, err := mysql.ParseDSN(m.DSN(database))
	if err != nil {
		return nil, err
	}
	config.Addr = m.Name()
	config.ParseTime, config.InterpolateParams, config.Logger = true, true, &mysql.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	m.Root = sql.OpenDB(connector)
	m.Root.SetMaxIdleConns(4)
	if opts.Failover {
		m.Root.SetMaxIdleConns(-1) // one could be to the old primary, which is behind
	}
	if _, err := m.Root.ExecContext(ctx, fmt.Sprintf("CREATE USER '%s'@'%%' IDENTIFIED BY '%s'", user, password)); err != nil {
		return nil, fmt.Errorf("create the service's user: %w", err)
	}
	return m, m.Migrate(ctx, opts.Programs.first())
}

// Migrate lets a program apply its schema, and gives the service's user its rights on the tables.
func (m *MySQL) Migrate(ctx context.Context, preauth string) error {
	apply := exec.CommandContext(ctx, preauth, "schema", "apply")
	apply.Env = []string{"MYSQL_DSN=" + m.DSN(database)}
	if output, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("preauth schema apply: %w\n%s", err, output)
	}
	for _, statement := range grants {
		_, err := m.Root.ExecContext(ctx, statement)
		if missing, ok := errors.AsType[*mysql.MySQLError](err); ok && missing.Number == 1146 {
			continue // an older release has no such table
		}
		if err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// ReadOnly makes the server refuse the service's writes, or accept them again.
func (m *MySQL) ReadOnly(ctx context.Context, on bool) error {
	_, err := m.Root.ExecContext(ctx, "SET GLOBAL read_only = ?", on)
	return err
}

// Close stops the server.
func (m *MySQL) Close() error {
	if m.Root != nil {
		_ = m.Root.Close()
	}
	err := errors.Join(m.Server.Close(), closeDisk(m.disk, m.Dir))
	if m.standby != nil {
		err = errors.Join(err, m.standby.close())
	}
	return err
}

// Name is the address under which the primary is found.
func (m *MySQL) Name() string {
	if m.standby != nil {
		return m.standby.name.addr()
	}
	return m.Addr()
}

// dsnThrough returns the DSN by which a replica reaches the server through its proxy.
func dsnThrough(p *Proxy) string {
	return fmt.Sprintf("%s:%s@tcp(%s)/%s", user, password, p.Addr, database)
}

// CanBeReadOnly reports whether the server has the variable read_only and obeys it.
func (m *MySQL) CanBeReadOnly() bool { return m.Engine() != mysqlserver.TiDB }
