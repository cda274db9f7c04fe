package main

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
	"preauth/repo"
)

// rig is what all programs of a row share: nats-server, the database and the stand-in for WeChat, each
// a process of its own, and this process's connections to them.
type rig struct {
	dir     string
	preauth string // the binary

	natsURL, dsn string
	nats         *process
	wechat       *process
	mysql        *mysqlserver.Server
	mysqlPID     int
	control      string // the stand-in's address for this command
	wechatURL    string

	nc *nats.Conn
	js jetstream.JetStream
	db *sql.DB
	// repo seeds what the programs find.
	repo *repo.Repo
}

// database is the one that all programs use.
const database = "preauth"

// connections is how many connections to the database each program may have: the default of preauth.
const connections = 16

// idleTime is after how long an idle connection to the database is closed, sooner than the database does.
const idleTime = 10 * time.Second

// newRig builds the programs and starts what they share, with the data in a new directory in dir.
func newRig(ctx context.Context, dir string) (_ *rig, err error) {
	r := &rig{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.dir, err = os.MkdirTemp(dir, "preauth-bench-"); err != nil {
		return nil, err
	}
	root, err := build(ctx, r.dir)
	if err != nil {
		return nil, err
	}
	r.preauth = filepath.Join(r.dir, "preauth")
	if err := r.startNATS(ctx, filepath.Join(root, "deploy", "nats", "nats.conf")); err != nil {
		return nil, err
	}
	if err := r.startDatabase(ctx); err != nil {
		return nil, err
	}
	return r, r.startWeChat(ctx)
}

// build builds preauth as for production, and nats-server in the version of go.mod. It returns the
// project's directory.
func build(ctx context.Context, dir string) (root string, err error) {
	run := func(args ...string) (string, error) {
		output, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, output)
		}
		return strings.TrimSpace(string(output)), nil
	}
	if root, err = run("list", "-m", "-f", "{{.Dir}}", "preauth"); err != nil {
		return "", err
	}
	if _, err = run("-C", root, "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "./cmd/preauth"); err != nil {
		return "", err
	}
	_, err = run("build", "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2")
	return root, err
}

// startNATS starts nats-server with the deployment's configuration, except for addresses and directory.
func (r *rig) startNATS(ctx context.Context, configuration string) error {
	address, _, err := loopback.Address("")
	if err != nil {
		return err
	}
	monitor, _, err := loopback.Address("")
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(address)
	_, monitorPort, _ := net.SplitHostPort(monitor)
	text, err := os.ReadFile(configuration)
	if err != nil {
		return err
	}
	const directory = "store_dir: /data"
	if !bytes.Contains(text, []byte(directory)) {
		return fmt.Errorf("%s does not say %s", configuration, directory)
	}
	text = bytes.Replace(text, []byte(directory), []byte("store_dir: "+strconv.Quote(filepath.Join(r.dir, "nats"))), 1)
	own := filepath.Join(r.dir, "nats.conf")
	if err := os.WriteFile(own, text, 0o600); err != nil {
		return err
	}
	r.nats, err = start(r.dir, "nats-server", nil, filepath.Join(r.dir, "nats-server"), "-c", own, "-a", host, "-p", port, "-m", monitorPort)
	if err != nil {
		return err
	}
	r.natsURL = "nats://" + address
	err = eventually(ctx, time.Minute, func() error {
		r.nc, err = nats.Connect(r.natsURL, nats.MaxReconnects(-1))
		return err
	})
	if err != nil {
		return errors.Join(err, r.nats.failure())
	}
	r.js, err = jetstream.New(r.nc, jetstream.WithPublishAsyncMaxPending(4096))
	return err
}

// startDatabase starts MariaDB or MySQL with innodb_flush_log_at_trx_commit=1, or TiDB where neither is
// installed.
func (r *rig) startDatabase(ctx context.Context) (err error) {
	if r.mysql, err = mysqlserver.Start(ctx, mysqlserver.Options{Dir: filepath.Join(r.dir, "mysql")}); err != nil {
		return err
	}
	if err := r.mysql.CreateDatabase(ctx, database); err != nil {
		return err
	}
	r.dsn = r.mysql.DSN(database)
	connector, err := repo.Connector(r.dsn)
	if err != nil {
		return err
	}
	r.db = sql.OpenDB(connector)
	r.db.SetConnMaxIdleTime(idleTime)
	if r.repo, err = repo.Open(r.dsn, 4); err != nil {
		return err
	}
	if r.mysql.Engine() != mysqlserver.TiDB {
		// A private server is started small. Nothing measured here is about reading from the disk.
		for _, setting := range []string{"innodb_buffer_pool_size = 1073741824", "innodb_log_file_size = 536870912"} {
			if _, err := r.db.ExecContext(ctx, "SET GLOBAL "+setting); err != nil && strings.Contains(setting, "pool") {
				return err // only newer versions can change the size of the log while they run
			}
		}
		var file string
		if err := r.db.QueryRowContext(ctx, "SELECT @@pid_file").Scan(&file); err != nil {
			return err
		}
		if text, err := os.ReadFile(file); err == nil {
			r.mysqlPID, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
	}
	return r.repo.ApplySchema(ctx)
}

func (r *rig) startWeChat(ctx context.Context) (err error) {
	if r.wechat, err = r.startOwn("wechat"); err != nil {
		return err
	}
	addresses, err := r.wechat.await(ctx, readyLine)
	if err != nil {
		return err
	}
	r.wechatURL, r.control, _ = strings.Cut(addresses, " ")
	return nil
}

// startOwn starts one of this command's own programs.
func (r *rig) startOwn(name string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(r.dir, name, r.environment(), self, append([]string{programCommand, name}, args...)...)
}

// environment says to every program where things are, in the variables of preauth.
func (r *rig) environment() []string {
	return []string{
		"NATS_URL=" + r.natsURL, "MYSQL_DSN=" + r.dsn, "PREAUTH_WECHAT_URL=" + r.wechatURL,
		"MYSQL_CONNECTIONS=" + strconv.Itoa(connections),
	}
}

func (r *rig) close() error {
	var errs []error
	if r.nc != nil {
		r.nc.Close()
	}
	if r.repo != nil {
		errs = append(errs, r.repo.Close(), r.db.Close())
	}
	for _, p := range []*process{r.wechat, r.nats} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	if r.mysql != nil {
		errs = append(errs, r.mysql.Close())
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}

// delay sets the time that WeChat's stand-in takes to answer.
func (r *rig) delay(ctx context.Context, d time.Duration) error {
	_, err := r.ask(ctx, "delay?for="+d.String())
	return err
}

// calls returns how many calls of WeChat there were.
func (r *rig) calls(ctx context.Context) (int, error) {
	text, err := r.ask(ctx, "calls")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(text))
}

func (r *rig) ask(ctx context.Context, what string) (string, error) {
	return get(ctx, "http://"+r.control+"/"+what)
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return string(text), err
}

// program is one of the programs that are compared, while it runs.
type program struct {
	*process
	admin string // of preauth, where its metrics are
}

// startPreauth starts the service as an operator would, with settings in variables, and returns when
// it is ready.
func (r *rig) startPreauth(ctx context.Context, variables ...string) (*program, error) {
	admin, _, err := loopback.Address("")
	if err != nil {
		return nil, err
	}
	environment := append(r.environment(), "PREAUTH_ADMIN_LISTEN="+admin)
	p, err := start(r.dir, "preauth", append(environment, variables...), r.preauth, "serve")
	if err != nil {
		return nil, err
	}
	err = eventually(ctx, 2*time.Minute, func() error {
		select {
		case <-p.exited:
			return nil
		default:
		}
		_, err := get(ctx, "http://"+admin+"/readyz")
		return err
	})
	select {
	case <-p.exited:
		return nil, p.failure()
	default:
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preauth is not ready: %w", err), p.stop(), p.failure())
	}
	return &program{process: p, admin: admin}, nil
}

// startYardstick starts another program and returns when it is ready.
func (r *rig) startYardstick(ctx context.Context, name string, args ...string) (*program, error) {
	p, err := r.startOwn(name, args...)
	if err != nil {
		return nil, err
	}
	admin, err := p.await(ctx, readyLine)
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return &program{process: p, admin: admin}, nil
}

// metric returns the sum of the samples of one of preauth's metrics, over all labels that match.
func (p *program) metric(ctx context.Context, name string) (float64, error) {
	text, err := get(ctx, "http://"+p.admin+"/metrics")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			fields := strings.Fields(line)
			value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				return 0, err
			}
			sum += value
		}
	}
	return sum, nil
}

// eventually repeats a call until it succeeds.
func eventually(ctx context.Context, limit time.Duration, call func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		err := call()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("within %v: %w", limit, cmp.Or(last, err))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// usage is the processor time that everybody has used up to a moment.
type usage struct {
	at                                   time.Time
	program, nats, mysql, wechat, loader time.Duration
}

func (r *rig) usage(p *program) usage {
	return usage{
		at: time.Now(), program: cpu(p.command.Process.Pid), nats: cpu(r.nats.command.Process.Pid),
		mysql: cpu(r.mysqlPID), wechat: cpu(r.wechat.command.Process.Pid), loader: cpu(os.Getpid()),
	}
}

// spent is the processor time that everybody has used within a time.
type spent struct {
	usage
	elapsed time.Duration
}

func (u usage) since(earlier usage) spent {
	return spent{elapsed: u.at.Sub(earlier.at), usage: usage{
		program: u.program - earlier.program, nats: u.nats - earlier.nats, mysql: u.mysql - earlier.mysql,
		wechat: u.wechat - earlier.wechat, loader: u.loader - earlier.loader,
	}}
}

// perEvent says how many microseconds of processor time each took for one event or request.
func (s spent) perEvent(n int) string {
	each := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / float64(max(1, n)) }
	return fmt.Sprintf("CPU µs each: program %.1f, nats-server %.1f, database %.1f, WeChat %.1f, load generator %.1f (%.0f %% of a core)",
		each(s.program), each(s.nats), each(s.mysql), each(s.wechat), each(s.loader), 100*float64(s.loader)/float64(max(s.elapsed, 1)))
}

// inside says what preauth's own metrics tell of its work so far: the mean times of its parts, and how
// many outcomes one transaction saved.
func (p *program) inside(ctx context.Context) (parts, error) {
	var found parts
	mean := func(name string, per float64) float64 {
		sum, _ := p.metric(ctx, name+"_sum")
		count, _ := p.metric(ctx, name+"_count")
		return sum / max(count, 1) * per
	}
	const ms = 1000
	found.call = mean("preauth_wechat_call_duration_seconds", ms)
	found.transaction = mean("preauth_transaction_duration_seconds", ms)
	found.publish = mean("preauth_publish_duration_seconds", ms)
	found.outcomes = mean("preauth_transaction_outcomes", 1)
	_, err := p.metric(ctx, "preauth_ready")
	return found, err
}

// parts are mean times in milliseconds, and the outcomes of one transaction.
type parts struct{ call, transaction, publish, outcomes float64 }

func (p parts) String() string {
	return fmt.Sprintf("call of WeChat %.2f ms, transaction %.2f ms with %.1f outcomes, publish %.2f ms", p.call, p.transaction, p.outcomes, p.publish)
}
