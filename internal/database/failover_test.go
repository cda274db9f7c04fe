package database_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"preauth/internal/database"
	"preauth/internal/mysqlserver"
)

// After a failover the connections of the pool still lead to the old primary. The first write that
// it refuses ends that connection and all that nobody uses.
func TestARefusedWriteEndsIdleConnections(t *testing.T) {
	if os.Getenv(mysqlserver.EnvTestDSN) != "" || server.Engine() == mysqlserver.TiDB {
		t.Skip("it needs a server of its own, which TiDB cannot make read-only")
	}
	s := startServer(t)
	_, raw := open(t, s.DSN("own"))
	exec(t, raw, "CREATE TABLE item (id INT PRIMARY KEY)")
	exec(t, raw, "CREATE USER app@'%' IDENTIFIED BY 'app'")
	exec(t, raw, "GRANT SELECT, UPDATE ON own.* TO app@'%'")
	db, err := database.Open("app:app@tcp("+s.Addr()+")/own", 20)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fill(t, db, 20)
	exec(t, raw, "SET GLOBAL read_only = ON")
	if _, err := db.Exec(t.Context(), "exec", "/* test.change */ UPDATE item SET id = 2"); !errors.Is(err, database.ErrUnavailable) {
		t.Errorf("err = %v", err)
	}
	// The server takes a moment to notice. After ten seconds they would end in any case.
	open := -1
	for deadline := time.Now().Add(5 * time.Second); open != 0 && time.Now().Before(deadline); {
		if err := raw.QueryRow("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'").Scan(&open); err != nil {
			t.Fatal(err)
		}
	}
	if open != 0 {
		t.Errorf("%d connections are left", open)
	}
}

// fill opens the connections of the pool.
func fill(t *testing.T, db *database.DB, conns int) {
	t.Helper()
	together := make(chan struct{})
	arrived := make(chan error)
	for range conns {
		go func() {
			arrived <- db.Transaction(t.Context(), "fill", func(*database.Tx) error {
				arrived <- nil
				<-together
				return nil
			})
		}()
	}
	for range conns {
		if err := <-arrived; err != nil {
			t.Fatal(err)
		}
	}
	close(together)
	for range conns {
		if err := <-arrived; err != nil {
			t.Fatal(err)
		}
	}
}
