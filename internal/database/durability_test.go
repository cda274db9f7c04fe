package database_test

import (
	"database/sql"
	"os"
	"slices"
	"strings"
	"testing"

	"preauth/internal/database"
	"preauth/internal/mysqlserver"
)

// ownServer starts a server for one test, with more arguments.
func ownServer(t *testing.T, arguments ...string) (db *database.DB, raw *sql.DB) {
	t.Helper()
	if os.Getenv(mysqlserver.EnvTestDSN) != "" || server.Engine() == mysqlserver.TiDB {
		t.Skip("it needs a server of its own, with arguments that TiDB does not take")
	}
	return open(t, startServer(t, arguments...).DSN("own"))
}

// startServer starts a server for one test, with the database "own".
func startServer(t *testing.T, arguments ...string) *mysqlserver.Server {
	t.Helper()
	s, err := mysqlserver.Start(t.Context(), mysqlserver.Options{Engine: server.Engine(), Arguments: arguments})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.CreateDatabase(t.Context(), "own"); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDurability(t *testing.T) {
	settingsOf := func(warnings []database.Warning) string {
		var text []string
		for _, w := range warnings {
			text = append(text, w.Setting+"="+w.Value)
			if w.Advice == "" {
				t.Errorf("%s: no advice", w.Setting)
			}
		}
		slices.Sort(text)
		return strings.Join(text, " ")
	}
	t.Run("a safe server", func(t *testing.T) {
		db, raw := ownServer(t, "--log-bin", "--server-id=1", "--sync-binlog=1")
		if warnings, err := db.Durability(t.Context()); err != nil || len(warnings) != 0 {
			t.Errorf("%+v, %v", warnings, err)
		}
		// Each setting by itself, on a running server.
		exec(t, raw, "SET GLOBAL sync_binlog = 0")
		exec(t, raw, "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
		warnings, err := db.Durability(t.Context())
		if got := settingsOf(warnings); err != nil || got != "innodb_flush_log_at_trx_commit=0 sync_binlog=0" {
			t.Errorf("%s, %v", got, err)
		}
	})
	t.Run("an unsafe server", func(t *testing.T) {
		db, _ := ownServer(t, "--innodb-flush-log-at-trx-commit=2", "--skip-innodb-doublewrite", "--skip-log-bin", "--sync-binlog=0")
		warnings, err := db.Durability(t.Context())
		if got := settingsOf(warnings); err != nil || got != "innodb_doublewrite=OFF innodb_flush_log_at_trx_commit=2" {
			t.Errorf("%s, %v", got, err)
		}
	})
}
