package main

import (
	"bytes"
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

	"preauth/internal/database"
	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
)

// rig is what all programs share: nats-server, the database server and the stand-in for WeChat,
// each a process of its own.
type rig struct {
	dir string
	// versions are those of preauth that are measured: the working tree's, and that of -against.
	versions []version

	natsAddress string
	nats        *process
	wechat      *process
	wechatURL   string
	control     string // the stand-in's address for this command
	mysql       *mysqlserver.Server
	mysqlPID    int

	places map[string]*place
}

// version is a built preauth.
type version struct{ name, binary string }

// connections is how many connections to the database each program may have: the default of
// preauth.
const connections = 16

// idleTime is after how long an idle connection to the database is closed, sooner than the database
// does.
const idleTime = 10 * time.Second

// newRig builds the programs and starts what they share, with the data in a new directory in dir.
// against is a revision whose service is built too, or empty.
func newRig(ctx context.Context, dir, against string) (_ *rig, err error) {
	r := &rig{places: map[string]*place{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.dir, err = os.MkdirTemp(dir, "preauth-bench-"); err != nil {
		return nil, err
	}
	root, err := command(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "preauth")
	if err != nil {
		return nil, err
	}
	if err := r.build(ctx, root, against); err != nil {
		return nil, err
	}
	if err := r.startNATS(ctx, filepath.Join(root, "deploy", "nats", "nats.conf")); err != nil {
		return nil, err
	}
	if err := r.startDatabase(ctx); err != nil {
		return nil, err
	}
	return r, r.startWeChat(ctx)
}

// command runs a program to its end and returns what it prints.
func command(ctx context.Context, name string, args ...string) (string, error) {
	output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(string(output)), nil
}

// build builds preauth as for production, and nats-server in the version of go.mod.
func (r *rig) build(ctx context.Context, root, against string) error {
	if err := r.buildPreauth(ctx, "preauth", root); err != nil {
		return err
	}
	if against != "" {
		if err := r.buildRevision(ctx, root, against); err != nil {
			return err
		}
	}
	_, err := command(ctx, "go", "build", "-o", filepath.Join(r.dir, "nats-server"), "github.com/nats-io/nats-server/v2")
	return err
}

func (r *rig) buildPreauth(ctx context.Context, name, root string) error {
	v := version{name, filepath.Join(r.dir, fmt.Sprintf("preauth-%d", len(r.versions)))}
	// Older revisions have a build tag for production, which newer ones do not know.
	_, err := command(ctx, "go", "-C", root, "build", "-trimpath", "-tags", "nodev", "-ldflags", "-s -w", "-o", v.binary, "./cmd/preauth")
	r.versions = append(r.versions, v)
	return err
}

// buildRevision builds the service of a revision, from a git worktree that is removed again.
func (r *rig) buildRevision(ctx context.Context, root, revision string) (err error) {
	tree := filepath.Join(r.dir, "against")
	if _, err := command(ctx, "git", "-C", root, "worktree", "add", "--detach", tree, revision); err != nil {
		return err
	}
	defer func() {
		_, removeErr := command(context.WithoutCancel(ctx), "git", "-C", root, "worktree", "remove", "--force", tree)
		err = errors.Join(err, removeErr)
	}()
	return r.buildPreauth(ctx, "preauth at "+revision, tree)
}

// startNATS starts nats-server with the deployment's configuration, except for addresses and
// directory, and with an account for each place.
func (r *rig) startNATS(ctx context.Context, configuration string) error {
	address, _, err := loopback.Address("")
	if err != nil {
		return err
	}
	monitor, _, err := loopback.Address("")
	if err != nil {
		return err
	}
	r.natsAddress = address
	host, port, _ := net.SplitHostPort(address)
	_, monitorPort, _ := net.SplitHostPort(monitor)
	text, err := os.ReadFile(configuration)
	if err != nil {
		return err
	}
	const directory = "store_dir: /data"
	if !bytes.Contains(text, []byte(directory)) {
		return fmt.Errorf("%s does not contain %q", configuration, directory)
	}
	text = bytes.Replace(text, []byte(directory), []byte("store_dir: "+strconv.Quote(filepath.Join(r.dir, "nats"))), 1)
	own := filepath.Join(r.dir, "nats.conf")
	if err := os.WriteFile(own, append(text, accounts()...), 0o600); err != nil {
		return err
	}
	r.nats, err = start(r.dir, "nats-server", nil, filepath.Join(r.dir, "nats-server"), "-c", own, "-a", host, "-p", port, "-m", monitorPort)
	if err != nil {
		return err
	}
	err = eventually(ctx, time.Minute, func() error {
		nc, err := nats.Connect(r.urlOf(0))
		if err == nil {
			nc.Close()
		}
		return err
	})
	if err != nil {
		return errors.Join(err, r.nats.failure())
	}
	return nil
}

// maxPlaces is how many accounts nats-server has.
const maxPlaces = 16

// accounts is the part of nats-server's configuration with an account for each place.
func accounts() string {
	var text strings.Builder
	text.WriteString("\naccounts {\n")
	for i := range maxPlaces {
		fmt.Fprintf(&text, "  P%d { jetstream: enabled, users: [{ user: %q, password: any }] }\n", i, accountUser(i))
	}
	text.WriteString("}\n")
	return text.String()
}

func accountUser(i int) string { return fmt.Sprintf("place%d", i) }

func (r *rig) urlOf(i int) string { return "nats://" + accountUser(i) + ":any@" + r.natsAddress }

// startDatabase starts MariaDB or MySQL with innodb_flush_log_at_trx_commit=1, or TiDB where
// neither is installed.
func (r *rig) startDatabase(ctx context.Context) (err error) {
	if r.mysql, err = mysqlserver.Start(ctx, mysqlserver.Options{Dir: filepath.Join(r.dir, "mysql")}); err != nil {
		return err
	}
	if r.mysql.Engine() == mysqlserver.TiDB {
		return nil
	}
	const own = "bench"
	if err := r.mysql.CreateDatabase(ctx, own); err != nil {
		return err
	}
	connector, err := database.Connector(r.mysql.DSN(own))
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	// A private server starts small. Nothing measured here is about reading from the disk.
	for _, setting := range []string{"innodb_buffer_pool_size = 1073741824", "innodb_log_file_size = 536870912"} {
		if _, err := db.ExecContext(ctx, "SET GLOBAL "+setting); err != nil && strings.Contains(setting, "pool") {
			return err // only newer versions can change the size of the log while they run
		}
	}
	var file string
	if err := db.QueryRowContext(ctx, "SELECT @@pid_file").Scan(&file); err != nil {
		return err
	}
	if text, err := os.ReadFile(file); err == nil {
		r.mysqlPID, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	return nil
}

func (r *rig) startWeChat(ctx context.Context) (err error) {
	if r.wechat, err = r.startOwn("wechat", nil); err != nil {
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
func (r *rig) startOwn(name string, environment []string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(r.dir, name, environment, self, append([]string{programCommand, name}, args...)...)
}

func (r *rig) close() error {
	var errs []error
	for _, p := range r.places {
		errs = append(errs, p.close())
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

// delay sets how long WeChat's stand-in takes to answer.
func (r *rig) delay(ctx context.Context, d time.Duration) error {
	_, err := r.ask(ctx, "delay?for="+d.String())
	return err
}

// calls returns how many calls WeChat's stand-in has answered.
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
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("within %v: %w", limit, last)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// usage is the processor time that each process has used up to a moment.
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

// spent is the processor time that each process has used within a time.
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

// each returns how many microseconds d is for one of n events or requests.
func each(d time.Duration, n int) float64 {
	return float64(d) / float64(time.Microsecond) / float64(max(1, n))
}

// perEvent says how many microseconds of processor time each process took for one of n events or
// requests.
func (s spent) perEvent(n int) string {
	return fmt.Sprintf("CPU µs each: program %.1f, nats-server %.1f, database %.1f, WeChat %.1f, load generator %.1f (%.0f %% of a core)",
		each(s.program, n), each(s.nats, n), each(s.mysql, n), each(s.wechat, n), each(s.loader, n),
		100*float64(s.loader)/float64(max(s.elapsed, 1)))
}
