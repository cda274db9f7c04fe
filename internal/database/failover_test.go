package database_test

import (
	"database/sql"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"preauth/internal/database"
	"preauth/internal/mysqlserver"
)

// After a failover the connections of the pool still lead to the old primary, which lacks what was
// committed since. The first write that it refuses ends all of them.
func TestARefusedWriteEndsIdleConnections(t *testing.T) {
	old, next := primary(t), primary(t)
	address := forward(t, old.addr)
	db, err := database.Open("app:app@tcp("+address.listener.Addr().String()+")/own", 8)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fill(t, db, 8)

	exec(t, old.raw, "SET GLOBAL read_only = ON")
	exec(t, next.raw, "INSERT INTO item (id) VALUES (1)")
	address.target.Store(&next.addr)

	look := func() []int {
		t.Helper()
		ids, err := database.Query[int](t.Context(), db, "query", "/* test.items */ SELECT id FROM item WHERE id = ?", 1)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if ids := look(); len(ids) > 0 {
		t.Fatalf("the old primary does not answer: %v", ids)
	}
	if rows, err := db.Exec(t.Context(), "exec", "/* test.change */ UPDATE item SET id = 2 WHERE id = 1"); err != nil || rows != 1 {
		t.Errorf("%d rows, %v", rows, err)
	}
	exec(t, next.raw, "UPDATE item SET id = 1")
	if ids := look(); !slices.Equal(ids, []int{1}) {
		t.Errorf("an idle connection to the old primary is left: %v", ids)
	}
}

type primaryServer struct {
	addr string
	raw  *sql.DB
}

// primary starts a server with a table, and with a user who may not write while it is read-only.
func primary(t *testing.T) primaryServer {
	t.Helper()
	if os.Getenv(mysqlserver.EnvTestDSN) != "" || server.Engine() == mysqlserver.TiDB {
		t.Skip("it needs servers of its own, which TiDB cannot make read-only")
	}
	s := startServer(t)
	_, raw := open(t, s.DSN("own"))
	exec(t, raw, "CREATE TABLE item (id INT PRIMARY KEY)")
	exec(t, raw, "CREATE USER app@'%' IDENTIFIED BY 'app'")
	exec(t, raw, "GRANT SELECT, UPDATE ON own.* TO app@'%'")
	return primaryServer{s.Addr(), raw}
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

// forwarder is an address that leads to a server. Connections stay with the server that they were
// made to.
type forwarder struct {
	listener net.Listener
	target   atomic.Pointer[string]
}

func forward(t *testing.T, target string) *forwarder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{listener: listener}
	f.target.Store(&target)
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", *f.target.Load())
			if err != nil {
				near.Close()
				continue
			}
			go func() {
				defer far.Close()
				_, _ = io.Copy(far, near)
			}()
			go func() {
				defer near.Close()
				_, _ = io.Copy(near, far)
			}()
		}
	}()
	t.Cleanup(func() { listener.Close() })
	return f
}
