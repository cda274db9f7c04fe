// Command devdb is a MySQL-protocol server for development and tests on a machine without MariaDB
// and MySQL. It is TiDB with its built-in single-process store, pure Go without cgo.
//
// It exists so that preauth-dev and the tests run wherever Go does. It is a module of its own
// because TiDB brings hundreds of modules and a binary of 240 MB, which builds of the service must
// not carry. "go -C test/devdb install" builds it. Package preauth/internal/mysqlserver starts it
// as a child process. It is not for production: it keeps one copy of the data, and has one user,
// root, without a password.
//
// Once it accepts connections, it prints one line on standard output: "devdb: ready on
// 127.0.0.1:PORT". It exits when its standard input ends: the parent holds the other end of a pipe,
// so devdb exits even if the parent is killed. It also exits on SIGTERM and SIGINT. The data
// survives kill -9. SELECT @@datadir returns the directory, so that a parent recognises its own
// server.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/pingcap/tidb/pkg/config"
	"github.com/pingcap/tidb/pkg/ddl"
	"github.com/pingcap/tidb/pkg/domain"
	"github.com/pingcap/tidb/pkg/executor"
	"github.com/pingcap/tidb/pkg/kv"
	"github.com/pingcap/tidb/pkg/resourcemanager"
	"github.com/pingcap/tidb/pkg/server"
	"github.com/pingcap/tidb/pkg/session"
	"github.com/pingcap/tidb/pkg/sessionctx/variable"
	"github.com/pingcap/tidb/pkg/store/mockstore"
	"github.com/pingcap/tidb/pkg/util/logutil"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`address` to listen on; port 0 picks a free port")
	data := flag.String("data", "", "`directory` for the data, created if missing (required)")
	logLevel := flag.String("log-level", "error", "lowest `level` to log: debug, info, warn, error or fatal")
	flag.Parse()
	if err := run(*listen, *data, *logLevel); err != nil {
		fmt.Fprintln(os.Stderr, "devdb:", err)
		os.Exit(1)
	}
}

func run(listen, data, logLevel string) error {
	// TiDB logs to standard output, which is reserved for the ready line.
	out := os.Stdout
	os.Stdout = os.Stderr
	stop := stopped()
	if data == "" || flag.NArg() > 0 {
		return errors.New("usage: devdb -data DIR [-listen HOST:PORT] [-log-level LEVEL]")
	}
	data, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	if err := configure(listen, data, logLevel); err != nil {
		return err
	}

	executor.Start()
	resourcemanager.InstanceResourceManager.Start()
	storage, dom, err := open(filepath.Join(data, "store"))
	if err != nil {
		return fmt.Errorf("open the data in %s: %w", data, err)
	}
	// Despite the name, all this does is make TiDB accept port 0 and tell when it listens.
	server.RunInGoTest = true
	server.RunInGoTestChan = make(chan struct{})
	srv, err := server.NewServer(config.GetGlobalConfig(), server.NewTiDBDriver(storage))
	if err != nil {
		return fmt.Errorf("create the server: %w", err)
	}
	srv.SetDomain(dom)
	dom.InfoSyncer().SetSessionManager(srv)

	failed := make(chan error, 1)
	go func() { failed <- srv.Run(dom) }()
	select {
	case err := <-failed:
		return fmt.Errorf("listen on %s: %w", listen, err)
	case <-server.RunInGoTestChan:
	}
	fmt.Fprintf(out, "devdb: ready on %s\n", srv.ListenAddr())

	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-stop:
	}
	// A shutdown that takes longer is cut short. Acknowledged writes are in the files already.
	time.AfterFunc(10*time.Second, func() {
		fmt.Fprintln(os.Stderr, "devdb: closing took too long, exiting")
		os.Exit(1)
	})
	srv.Close()
	srv.DrainClients(0, time.Second)
	dom.Close()
	ddl.CloseOwnerManager()
	return storage.Close()
}

// stopped returns a channel that is closed when the parent is gone or a signal arrives.
func stopped() <-chan struct{} {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx.Done()
}

// configure sets TiDB's process-wide configuration.
func configure(listen, data, logLevel string) error {
	host, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fmt.Errorf("-listen: port %q must be a number from 0 to 65535", portText)
	}

	// Temporary files are kept in the data directory, so that those of a killed predecessor are
	// removed.
	temp := filepath.Join(data, "tmp")
	if err := cmp.Or(os.RemoveAll(temp), os.MkdirAll(temp, 0o700), os.Setenv("TMPDIR", temp)); err != nil {
		return err
	}

	config.UpdateGlobal(func(c *config.Config) {
		c.Host, c.Port, c.Socket = host, uint(port), ""
		c.AdvertiseAddress = host
		c.TempDir, c.TempStoragePath = temp, filepath.Join(temp, "spill")
		c.Status.ReportStatus = false
		c.Log.Level = logLevel
		c.Log.SlowQueryFile = filepath.Join(temp, "slow.log")
		c.Log.EnableSlowLog.Store(false)
		c.Instance.EnableSlowLog.Store(false)
		// Without it, a statement outside a transaction takes no locks and fails on a conflict.
		c.PessimisticTxn.PessimisticAutoCommit.Store(true)
		c.Performance.RunAutoAnalyze = false
		c.Performance.ForceInitStats = false
	})
	variable.SetSysVar(variable.DataDir, data)
	return logutil.InitLogger(config.GetGlobalConfig().Log.ToLogConfig())
}

// open opens the store, which it creates if missing, and upgrades its system tables.
func open(path string) (kv.Storage, *domain.Domain, error) {
	storage, err := mockstore.NewMockStore(mockstore.WithStoreType(mockstore.EmbedUnistore), mockstore.WithPath(path))
	if err != nil {
		return nil, nil, err
	}
	if err := ddl.StartOwnerManager(context.Background(), storage); err != nil {
		return nil, nil, err
	}
	dom, err := session.BootstrapSession(storage)
	if err != nil {
		return nil, nil, err
	}
	return storage, dom, nil
}
