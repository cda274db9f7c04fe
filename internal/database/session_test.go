package database_test

import (
	"database/sql/driver"
	"strings"
	"testing"

	"preauth/internal/database"
	"preauth/internal/mysqlserver"
)

// A session that does not hold what was set is not used, and the error says what to change.
func TestASessionThatHoldsSomethingElse(t *testing.T) {
	isolation, readOnly := "transaction_isolation", "transaction_read_only"
	if server.Engine() == mysqlserver.MariaDB {
		isolation, readOnly = "tx_isolation", "tx_read_only"
	}
	for _, assignment := range []string{
		"autocommit = OFF", "completion_type = 'CHAIN'", "character_set_client = 'gbk'", "character_set_results = 'latin1'",
		"collation_connection = 'utf8mb4_general_ci'", "sql_mode = 'ANSI_QUOTES'", "time_zone = '+01:00'", "unique_checks = OFF",
		"sql_select_limit = 9", "innodb_lock_wait_timeout = 77", "wait_timeout = 777",
		isolation + " = 'REPEATABLE-READ'", readOnly + " = ON",
	} {
		if strings.HasPrefix(assignment, readOnly) && server.Engine() == mysqlserver.TiDB {
			continue // it takes no other value
		}
		conn := connect(t)
		if err := database.CheckSession(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.(driver.ExecerContext).ExecContext(t.Context(), "SET "+assignment, nil); err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(strings.Replace(strings.ReplaceAll(assignment, "'", ""), "tx_", "transaction_", 1), " = ")
		if name == "sql_select_limit" {
			value = "" // which may not be among the variables that are left
		}
		err := database.CheckSession(t.Context(), conn)
		if err == nil || !strings.Contains(err.Error(), "the session's "+name+" is \""+value) || !strings.Contains(err.Error(), "proxy") {
			t.Errorf("%s: %v", assignment, err)
		}
	}
}

// connect returns a connection as a DB makes them.
func connect(t *testing.T) driver.Conn {
	t.Helper()
	connector, err := database.Connector(server.DSN("test"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connector.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
