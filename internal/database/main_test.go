package database_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"testing"

	"preauth/internal/database"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
)

// server is shared by the package's tests, and so is its database "test".
var server *mysqlserver.Server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		ctx := context.Background()
		var err error
		if server, err = mysqlserver.Start(ctx, mysqlserver.TestOptions()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := 1
		err = errors.Join(server.DropDatabase(ctx, "test"), server.CreateDatabase(ctx, "test"))
		if err == nil {
			code = m.Run()
			err = errors.Join(server.DropDatabase(ctx, "test"), server.Close(), leak.Find())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// open opens a database twice: as a program does, and past package database.
func open(t *testing.T, dsn string) (db *database.DB, raw *sql.DB) {
	t.Helper()
	db, err := database.Open(dsn, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if raw, err = sql.Open("mysql", dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return db, raw
}

func exec(t *testing.T, raw *sql.DB, statement string) {
	t.Helper()
	if _, err := raw.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
