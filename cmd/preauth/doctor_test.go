package main

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/doctor"
	"preauth/internal/loopback"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/repo"
	"preauth/wechat/wechattest"
)

// clinic is everything that a service needs, in good health, and the settings that name it.
type clinic struct {
	t       *testing.T
	nats    *natsserver.Server
	monitor string // URL
	js      jetstream.JetStream
	root    *sql.DB // of the service's database
	name    string  // of that
	user    string  // the service's there
	wechat  *wechattest.Server
	args    map[string]string
	mysql   *mysqlserver.Server
	files   certificates
	stop    func() int // of a replica that a case has started
}

// rights is a configuration of nats-server in which the service has the rights on NATS and the
// account has the limits of JetStream. A test may do everything.
func rights(permissions, limits string) string {
	return fmt.Sprintf(`
accounts: {
  A: {
    jetstream: %s
    users: [
      {user: service, password: %s, permissions: {%s}}
      {user: a, password: a}
    ]
  }
}
no_auth_user: a
`, limits, secret, permissions)
}

// overTLS has the configurations of nats-server with a certificate that differs from a good one.
var overTLS = map[string]func(*x509.Certificate){
	"TLS": lasting, "TLS, expires soon": func(*x509.Certificate) {}, "TLS, for another host": func(c *x509.Certificate) { lasting(c); forAnotherHost(c) },
}

func lasting(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 6, 0) }

const allRights = `publish: ">", subscribe: ">"`

// newClinic starts all parts. config is added to nats-server's.
func newClinic(t *testing.T, on *mysqlserver.Server, config string, syncAlways bool) *clinic {
	t.Helper()
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	c := &clinic{t: t, monitor: "http://" + address, wechat: newWeChat(t, ""), mysql: on}
	if change, isTLS := overTLS[config]; isTLS {
		c.files = newCertificates(t)
		c.files.issue(t, "server", x509.ExtKeyUsageServerAuth, change)
		config = fmt.Sprintf("tls: {cert_file: %q, key_file: %q}", c.files.serverCert, c.files.serverKey)
	}
	c.nats, err = natsserver.Start(natsserver.Options{SyncAlways: syncAlways, Config: c.configured(config)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.nats.Close(); err != nil {
			t.Error(err)
		}
	})
	c.name = fmt.Sprintf("doctor_%d_%d", os.Getpid(), time.Now().UnixNano())
	c.user = fmt.Sprintf("u%d", time.Now().UnixNano())
	c.openDatabase()
	c.args = map[string]string{
		"nats-url": c.nats.URL(), "nats-monitor": c.monitor, "mysql-dsn": c.dsn(c.mysql.Addr()), "wechat-url": c.wechat.URL(),
	}
	if strings.Contains(config, "service") {
		c.args["nats-user"], c.args["nats-password"] = "service", secret
	}
	return c
}

// configured adds the monitoring endpoint.
func (c *clinic) configured(config string) string {
	return "http: " + strings.TrimPrefix(c.monitor, "http://") + "\n" + config
}

func (c *clinic) dsn(address string) string {
	return fmt.Sprintf("%s:%s@tcp(%s)/%s", c.user, secret, address, c.name)
}

func schemaApplied(c *clinic) {
	if status, _, stderr := do(c.t, "schema", "apply", "--mysql-dsn="+apptest.MySQL.DSN(c.name)); status != 0 {
		c.t.Fatal(stderr)
	}
}

// openDatabase makes a database with the schema, and the account that docs/operation.md describes.
func (c *clinic) openDatabase() {
	t, on := c.t, c.mysql
	t.Helper()
	if err := on.CreateDatabase(t.Context(), c.name); err != nil {
		t.Fatal(err)
	}
	db, err := repo.Open(on.DSN(c.name), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.root, err = sql.Open("mysql", on.DSN(c.name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, statement := range []string{"DROP DATABASE IF EXISTS " + c.name, "DROP USER '" + c.user + "'@'%'"} {
			if _, err := c.root.ExecContext(context.Background(), statement); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
		}
		c.root.Close()
	})
	c.exec("CREATE USER '" + c.user + "'@'%' IDENTIFIED BY '" + secret + "'")
	for table, granted := range map[string]string{
		"component": "SELECT, INSERT, UPDATE", "pre_auth_code": "SELECT, INSERT, UPDATE, DELETE",
		"outbox": "SELECT, INSERT, UPDATE, DELETE", "stream_set": "SELECT, INSERT, UPDATE", "schema_version": "SELECT",
	} {
		c.exec(fmt.Sprintf("GRANT %s ON %s.%s TO '%s'@'%%'", granted, c.name, table, c.user))
	}
}

func (c *clinic) exec(statements ...string) {
	c.t.Helper()
	for _, statement := range statements {
		if _, err := c.root.ExecContext(c.t.Context(), statement); err != nil {
			c.t.Fatalf("%s: %v", statement, err)
		}
	}
}

// reload changes nats-server's configuration.
func (c *clinic) reload(config string) {
	c.t.Helper()
	if err := c.nats.Reload(c.configured(config)); err != nil {
		c.t.Fatal(err)
	}
}

// streams returns what makes streams as nobody's service would.
func (c *clinic) streams() jetstream.JetStream {
	c.t.Helper()
	if c.js == nil {
		js, err := jetstream.New(connect(c.t, c.nats.URL()))
		if err != nil {
			c.t.Fatal(err)
		}
		c.js = js
	}
	return c.js
}

func (c *clinic) create(config jetstream.StreamConfig) {
	c.t.Helper()
	if _, err := c.streams().CreateStream(c.t.Context(), config); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clinic) remove(stream string) {
	c.t.Helper()
	if err := c.streams().DeleteStream(c.t.Context(), stream); err != nil {
		c.t.Fatal(err)
	}
}

// arguments are those of the settings, with more of a test.
func (c *clinic) arguments(command string, more ...string) []string {
	args := []string{command}
	for _, name := range slices.Sorted(maps.Keys(c.args)) {
		args = append(args, "--"+name+"="+c.args[name])
	}
	return append(args, more...)
}

// serve runs the service with the settings until it is ready.
func (c *clinic) serve() (stop func() int) {
	c.t.Helper()
	service, admin := serve(c.t, c.arguments("serve")[1:]...)
	awaitReady(c.t, admin)
	return service.Stop
}

// examine runs doctor and returns its findings, and what it prints if it refuses its settings.
func (c *clinic) examine() (findings []doctor.Finding, refused string) {
	c.t.Helper()
	status, out, stderr := do(c.t, c.arguments("doctor", "--json")...)
	if status == 2 {
		return nil, stderr
	}
	var answer struct{ Checks []doctor.Finding }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		c.t.Fatalf("status %d: %v\n%s%s", status, err, out, stderr)
	}
	hasProblem := slices.ContainsFunc(answer.Checks, func(f doctor.Finding) bool { return f.Result == doctor.Problem })
	if (status == 1) != hasProblem {
		c.t.Errorf("status %d with a problem: %v", status, hasProblem)
	}
	return answer.Checks, ""
}

// isClean requires that doctor finds nothing to change.
func (c *clinic) isClean(when string) {
	c.t.Helper()
	findings, refused := c.examine()
	if refused != "" {
		c.t.Errorf("%s: refused: %s", when, refused)
	}
	for _, f := range findings {
		if f.Result != doctor.OK && f.Result != doctor.Skipped {
			c.t.Errorf("%s: %+v", when, f)
		}
	}
}

// ownMySQL starts a database server whose settings a test may change.
func ownMySQL(t *testing.T, arguments ...string) *mysqlserver.Server {
	t.Helper()
	options := mysqlserver.TestOptions()
	options.DSN, options.Engine, options.Arguments = "", mysqlserver.MariaDB, arguments
	database, err := mysqlserver.Start(t.Context(), options)
	if err != nil {
		t.Skip("no database server of its own:", err)
	}
	t.Cleanup(func() {
		if err := database.Close(); err != nil {
			t.Error(err)
		}
	})
	return database
}

// between returns the URL of an HTTP server that answers for another one, with changed answers.
func between(t *testing.T, target string, change func(*http.Response) error) string {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, ModifyResponse: change,
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// set changes a setting.
func set(name, value string) func(*clinic) { return func(c *clinic) { c.args[name] = value } }

// unset takes a setting away.
func unset(name string) func(*clinic) { return func(c *clinic) { delete(c.args, name) } }

// replaceBody changes the body of an answer.
func replaceBody(r *http.Response, change func(string) string) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	text := change(string(body))
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	r.Header.Set("Content-Length", strconv.Itoa(len(text)))
	return nil
}

func rightDSN(c *clinic) { c.args["mysql-dsn"] = c.dsn(c.mysql.Addr()) }

// awaitReplica waits until a replica answers requests.
func awaitReplica(c *clinic) {
	client, err := preauth.NewClient(connect(c.t, c.nats.URL()))
	if err != nil {
		c.t.Fatal(err)
	}
	apptest.Eventually(c.t, "a replica answers", func() bool {
		replicas, err := client.Replicas(c.t.Context())
		return err == nil && len(replicas) > 0
	})
}

// renewCertificate gives nats-server a good certificate.
func (c *clinic) renewCertificate() {
	c.t.Helper()
	c.files.issue(c.t, "server", x509.ExtKeyUsageServerAuth, lasting)
	if err := c.nats.Restart(); err != nil {
		c.t.Fatal(err)
	}
}

// changeUpdates changes the stream of updates.
func (c *clinic) changeUpdates(change func(*jetstream.StreamConfig)) {
	c.t.Helper()
	updates, err := c.streams().Stream(c.t.Context(), "PREAUTH")
	if err != nil {
		c.t.Fatal(err)
	}
	config := updates.CachedInfo().Config
	change(&config)
	if _, err := c.js.UpdateStream(c.t.Context(), config); err != nil {
		c.t.Fatal(err)
	}
}

// ailment is a fault that is planted, what doctor says of it, and how it is mended as doctor says.
type ailment struct {
	name string // as in docs/doctor.md
	// config is added to the configuration of nats-server.
	config string
	// neverSyncs leaves nats-server at its default.
	neverSyncs bool
	// mysql are arguments for a database server of the case's own.
	mysql []string
	plant func(*clinic)
	// result, check and found are of the finding. For settings that are refused, found is what is
	// said.
	result doctor.Result
	check  string // group and name, joined by ": "
	found  string // a pattern
	do     string // a part of the remedy
	mend   func(*clinic)
}

func ailments() []ailment {
	const publishAll = `subscribe: ">", publish: `
	denied := func(subject string) string { return rights(publishAll+`{deny: "`+subject+`"}`, "enabled") }
	granted := func(c *clinic) { c.reload(rights(allRights, "enabled")) }
	limited := func(limits string) string { return rights(allRights, "{"+limits+"}") }
	dead := "127.0.0.1:1"
	return []ailment{
		{
			name: "two ways to log in to NATS", plant: func(c *clinic) { c.args["nats-user"], c.args["nats-token"] = "me", secret },
			found: "--nats-user and --nats-token cannot be used together", do: "keep one of them",
			mend: func(c *clinic) { unset("nats-user")(c); unset("nats-token")(c) },
		},
		{
			name: "a misspelled variable", plant: func(c *clinic) { c.t.Setenv("PREAUTH_SPARE", "3") },
			found: "no setting reads the variable PREAUTH_SPARE", do: "did you mean PREAUTH_SPARES?",
			mend: func(c *clinic) { c.t.Setenv("PREAUTH_SPARE", "") },
		},
		{
			name: "no time for WeChat's second host", plant: set("wechat-timeout", "5s"),
			result: doctor.Warning, check: "settings: time limits", found: "one call to WeChat may take 5s, and a request 4s", do: "--wechat-timeout",
			mend: set("wechat-timeout", "3s"),
		},

		{
			name: "no NATS server at the address", plant: set("nats-url", "nats://"+dead),
			result: doctor.Problem, check: "NATS: nats://" + dead, found: "no servers available", do: "start nats-server, or correct --nats-url",
			mend: func(c *clinic) { c.args["nats-url"] = c.nats.URL() },
		},
		{
			name: "a host name of NATS that does not exist", plant: set("nats-url", "nats://nats.invalid:4222"),
			result: doctor.Problem, check: "NATS: nats://nats.invalid:4222", found: "lookup nats.invalid", do: "correct the host's name in --nats-url",
			mend: func(c *clinic) { c.args["nats-url"] = c.nats.URL() },
		},
		{
			name: "one of several NATS servers is down", plant: func(c *clinic) { c.args["nats-url"] += ",nats://" + dead },
			result: doctor.Warning, check: "NATS: nats://" + dead, found: "no servers available", do: "start nats-server",
			mend: func(c *clinic) { c.args["nats-url"] = c.nats.URL() },
		},
		{
			name: "a wrong password for NATS", config: rights(allRights, "enabled"), plant: set("nats-password", secret+"-old"),
			result: doctor.Problem, check: "NATS: URL", found: "Authorization Violation", do: "log in as a user that the server knows",
			mend: set("nats-password", secret),
		},
		{
			name: "a certificate of NATS from an unknown authority", config: "TLS",
			result: doctor.Problem, check: "NATS: URL", found: "unknown authority", do: "let --nats-ca ($NATS_CA) name the authority",
			mend: func(c *clinic) { c.args["nats-ca"] = c.files.ca },
		},
		{
			name: "a certificate of NATS for another name", config: "TLS, for another host", plant: func(c *clinic) { c.args["nats-ca"] = c.files.ca },
			result: doctor.Problem, check: "NATS: URL", found: "certificate is valid for|doesn't contain any IP SANs", do: "use a name of the server's certificate that leads to it in --nats-url ($NATS_URL), or have one issued for this name",
			mend: (*clinic).renewCertificate,
		},
		{
			name: "a certificate of NATS that expires soon", config: "TLS, expires soon", plant: func(c *clinic) { c.args["nats-ca"] = c.files.ca },
			result: doctor.Warning, check: "NATS: TLS", found: "certificate expires at ", do: "renew the certificate",
			mend: (*clinic).renewCertificate,
		},
		{
			name: "TLS to a NATS server that has none", plant: func(c *clinic) { c.args["nats-url"] = strings.Replace(c.nats.URL(), "nats://", "tls://", 1) },
			result: doctor.Problem, check: "NATS: TLS URL", found: "secure connection not available", do: "write nats:// instead of tls://",
			mend: func(c *clinic) { c.args["nats-url"] = c.nats.URL() },
		},
		{
			name: "no right to announce updates", config: denied("preauth.updated.*"),
			result: doctor.Problem, check: "NATS: right to announce", found: `refused to publish on preauth\.updated\.\*$`, do: "allow the service's user to publish on preauth.updated.*", mend: granted,
		},
		{
			name: "no right to take look-ups", config: rights(`publish: ">", subscribe: {deny: "preauth.lookup.>"}`, "enabled"),
			result: doctor.Problem, check: "NATS: right to take requests", found: `refused to subscribe to preauth\.lookup\.>$`, do: "allow the service's user to subscribe to preauth.lookup.>", mend: granted,
		},
		{
			name: "no right to hear failures for the page", config: rights(`publish: ">", subscribe: {deny: "preauth.failed"}`, "enabled"),
			result: doctor.Warning, check: "NATS: right to hear what the page shows", found: `refused to subscribe to preauth\.failed: the service works`, do: "allow the service's user to subscribe to preauth.failed", mend: granted,
		},
		{
			name: "no right to answer", config: rights(publishAll+`{deny: ["_INBOX.>", "_R_.>"]}`, "enabled"),
			result: doctor.Warning, check: "NATS: right to answer", found: "nobody gets an answer", do: "allow the service's user to publish on _INBOX.>, _R_.>", mend: granted,
		},
		{
			name: "the inbox prefix of another role", config: rights(`publish: ">", subscribe: ["preauth.>", "$SRV.>", "_INBOX.preauth.>"]`, "enabled"),
			result: doctor.Problem, check: "NATS: right to receive replies", found: `refused to subscribe to _INBOX\.`, do: "--nats-inbox-prefix",
			mend: set("nats-inbox-prefix", "_INBOX.preauth"),
		},
		{
			name: "a small limit of messages", config: "max_payload: 1024",
			result: doctor.Problem, check: "NATS: message size", found: "at most 1024 bytes", do: "raise max_payload",
			mend: func(c *clinic) { c.reload("") },
		},

		{
			name: "an account without JetStream", config: rights(allRights, "disabled"),
			result: doctor.Problem, check: "JetStream: enabled", found: "JetStream not enabled for account", do: "enable it, name its domain", mend: granted,
		},
		{
			name: "a JetStream domain that is not there", plant: set("nats-js-domain", "hub"),
			result: doctor.Problem, check: "JetStream: enabled", found: "no responders", do: "name its domain with --nats-js-domain",
			mend: unset("nats-js-domain"),
		},
		{
			name: "no right to take token events", config: denied("$JS.API.CONSUMER.MSG.NEXT.COMPONENT_TOKENS.*"),
			result: doctor.Problem, check: "JetStream: right to use the streams", found: `MSG\.NEXT\.COMPONENT_TOKENS\.\*$`, do: "allow the service's user to publish on $JS.API.CONSUMER.MSG.NEXT.COMPONENT_TOKENS.*", mend: granted,
		},
		{
			name: "a missing stream that the service may not create", config: denied("$JS.API.STREAM.CREATE.PREAUTH"),
			result: doctor.Problem, check: "JetStream: right to create streams", found: `STREAM\.CREATE\.PREAUTH, and the stream is missing`, do: "create the stream", mend: granted,
		},
		{
			name: "a stream of tokens that is a work queue",
			plant: func(c *clinic) {
				c.create(jetstream.StreamConfig{Name: "WORK", Subjects: []string{"component.>"}, Retention: jetstream.WorkQueuePolicy})
			},
			result: doctor.Problem, check: "JetStream: token stream", found: "WORK: messages go away when they are acknowledged", do: "take its subjects away, or create it anew",
			mend: func(c *clinic) { c.remove("WORK") },
		},
		{
			name: "two streams that share the token subjects",
			plant: func(c *clinic) {
				for _, token := range []string{"A", "B"} {
					c.create(jetstream.StreamConfig{Name: token, Subjects: []string{"component.token.updated." + token}})
				}
			},
			result: doctor.Problem, check: "JetStream: token stream", found: "streams A and B share the subjects", do: "let one stream cover them all",
			mend: func(c *clinic) { c.remove("A"); c.remove("B") },
		},
		{
			name:   "a stream PREAUTH of somebody else",
			plant:  func(c *clinic) { c.create(jetstream.StreamConfig{Name: "PREAUTH", Subjects: []string{"else.>"}}) },
			result: doctor.Problem, check: "JetStream: update stream", found: "it does not take the subjects that it has to", do: "remove it if nobody needs it, or name another one in the settings",
			mend: func(c *clinic) { c.remove("PREAUTH") },
		},
		{
			name:   "another stream that takes the failures",
			plant:  func(c *clinic) { c.create(jetstream.StreamConfig{Name: "ALL", Subjects: []string{"preauth.failed.>"}}) },
			result: doctor.Problem, check: "JetStream: failure stream", found: "the stream ALL takes preauth.failed.* already", do: "take the subject from that stream",
			mend: func(c *clinic) { c.remove("ALL") },
		},
		{
			name: "an age limit of the codes",
			plant: func(c *clinic) {
				c.serve()()
				c.changeUpdates(func(config *jetstream.StreamConfig) { config.MaxAge = time.Hour })
			},
			result: doctor.Warning, check: "JetStream: update stream", found: "max age is 1h0m0s, after which messages vanish that have to stay", do: "nats stream edit PREAUTH",
			mend: func(c *clinic) { c.changeUpdates(func(config *jetstream.StreamConfig) { config.MaxAge = 0 }) },
		},
		{
			name: "replicas without a cluster", plant: set("stream-replicas", "3"),
			result: doctor.Problem, check: "JetStream: replicas", found: "--stream-replicas is 3, and the server is in no cluster", do: "leave out --stream-replicas",
			mend: unset("stream-replicas"),
		},
		{
			name: "an account that requires max_bytes", config: limited("max_bytes_required: true, max_store: 100M"),
			result: doctor.Problem, check: "JetStream: limits of the account", found: "requires max_bytes", do: "--stream-max-bytes",
			mend: set("stream-max-bytes", "1000000"),
		},
		{
			name: "too few streams in the account", config: limited("max_streams: 2"),
			result: doctor.Problem, check: "JetStream: limits of the account", found: "0 streams of 2 are there, and 6 are missing", do: "raise max_streams", mend: granted,
		},
		{
			name: "too little room in the account", config: limited("max_store: 1M"),
			result: doctor.Problem, check: "JetStream: limits of the account", found: "room for 1000000 bytes of file storage", do: "give the account more room", mend: granted,
		},
		{
			name: "NATS does not sync what it acknowledges", neverSyncs: true,
			result: doctor.Warning, check: "JetStream: sync", found: "before it syncs what is in COMPONENT_TOKENS", do: "set sync_interval to always",
			mend: func(c *clinic) {
				c.nats.Stop()
				c.reload("jetstream: {sync_interval: always}")
				if err := c.nats.Restart(); err != nil {
					c.t.Fatal(err)
				}
			},
		},
		{
			name: "a monitoring address of another server", plant: func(c *clinic) { c.args["nats-monitor"] = c.wechat.URL() },
			result: doctor.Warning, check: "JetStream: sync", found: "no nats-server answers there", do: "the address of nats-server's http_port",
			mend: func(c *clinic) { c.args["nats-monitor"] = c.monitor },
		},

		{
			name: "no database server at the address", plant: func(c *clinic) { c.args["mysql-dsn"] = c.dsn(dead) },
			result: doctor.Problem, check: "MySQL: connection", found: "connection refused", do: "start the server, or correct --mysql-dsn",
			mend: rightDSN,
		},
		{
			name: "a wrong password for MySQL", plant: func(c *clinic) { c.args["mysql-dsn"] = strings.Replace(c.args["mysql-dsn"], secret, secret+"-old", 1) },
			result: doctor.Problem, check: "MySQL: connection", found: "Access denied", do: "correct user and password in --mysql-dsn",
			mend: rightDSN,
		},
		{
			name: "a database that does not exist", plant: func(c *clinic) { c.args["mysql-dsn"] += "_2" },
			result: doctor.Problem, check: "MySQL: connection", found: "denied|Unknown database", do: "create the database",
			mend: rightDSN,
		},
		{
			name: "no schema", plant: func(c *clinic) { c.exec("DROP TABLE schema_version, stream_set, outbox, pre_auth_code, component") },
			result: doctor.Problem, check: "MySQL: schema", found: "is missing", do: "preauth schema apply",
			mend: schemaApplied,
		},
		{
			name: "a schema of an older release", plant: func(c *clinic) {
				c.exec("ALTER TABLE outbox DROP COLUMN traceparent", "DELETE FROM schema_version WHERE version > 3")
			},
			result: doctor.Problem, check: "MySQL: schema", found: "migration 4 is missing", do: "run `preauth schema apply`",
			mend: schemaApplied,
		},
		{
			name: "a schema of a newer release", plant: func(c *clinic) {
				c.exec("INSERT INTO schema_version (version, oldest_program, name, applied_at) VALUES (1000, 1000, 'later', '2026-01-01')")
			},
			result: doctor.Problem, check: "MySQL: schema", found: "the database has version 1000", do: "run a newer release of preauth here",
			mend: func(c *clinic) { c.exec("DELETE FROM schema_version WHERE version = 1000") }, // there is no newer one
		},
		{
			name: "a unique key that was dropped", plant: func(c *clinic) { c.exec("ALTER TABLE pre_auth_code DROP KEY current_code") },
			result: doctor.Problem, check: "MySQL: schema", found: "lacks the unique key current_code", do: "preauth schema print",
			mend: func(c *clinic) { c.exec("ALTER TABLE pre_auth_code ADD UNIQUE KEY current_code (appid, slot)") },
		},
		{
			name: "a right on a table that is missing", plant: func(c *clinic) { c.exec("REVOKE DELETE ON " + c.name + ".outbox FROM '" + c.user + "'@'%'") },
			result: doctor.Problem, check: "MySQL: rights", found: "the account lacks DELETE on outbox$", do: "GRANT DELETE ON ",
			mend: func(c *clinic) { c.exec("GRANT DELETE ON " + c.name + ".outbox TO '" + c.user + "'@'%'") },
		},
		{
			name: "small packets of MySQL", mysql: []string{"--max-allowed-packet=1M"},
			result: doctor.Warning, check: "MySQL: limits", found: "max_allowed_packet is 1048576 bytes", do: "set max_allowed_packet to 16 MiB or more",
			mend: func(c *clinic) { c.exec("SET GLOBAL max_allowed_packet = 16777216") },
		},
		{
			name: "fewer connections than a replica uses", mysql: []string{"--max-connections=12"},
			result: doctor.Warning, check: "MySQL: limits", found: "max_connections is 12, and a replica uses up to 16", do: "raise max_connections of the server",
			mend: func(c *clinic) { c.exec("SET GLOBAL max_connections = 100") },
		},
		{
			name: "a database server that takes no writes", mysql: []string{"--read-only=1"},
			result: doctor.Problem, check: "MySQL: schema", found: "read-only", do: "let the DSN name the primary",
			mend: func(c *clinic) { c.exec("SET GLOBAL read_only = 0") },
		},
		{
			name: "MySQL does not sync what it commits", mysql: []string{"--innodb-flush-log-at-trx-commit=2"},
			result: doctor.Warning, check: "MySQL: durability", found: "innodb_flush_log_at_trx_commit is 2", do: "set it to 1",
			mend: func(c *clinic) { c.exec("SET GLOBAL innodb_flush_log_at_trx_commit = 1") },
		},
		{
			name: "a database of another service",
			plant: func(c *clinic) {
				c.exec("INSERT INTO stream_set (id, token_stream, update_stream, failure_stream, account, since) VALUES (1, 'T', 'U', 'F', '', '2026-01-01')")
			},
			result: doctor.Problem, check: "MySQL: owner", found: "the database belongs to other streams", do: "preauth schema adopt",
			mend: func(c *clinic) {
				if status, _, stderr := do(c.t, "schema", "adopt", "--mysql-dsn="+c.args["mysql-dsn"]); status != 0 {
					c.t.Fatal(stderr)
				}
			},
		},

		{
			name: "WeChat cannot be reached", plant: set("wechat-url", "http://"+dead),
			result: doctor.Problem, check: "WeChat: " + dead, found: "connection refused", do: "let firewalls pass connections to it",
			mend: func(c *clinic) { c.args["wechat-url"] = c.wechat.URL() },
		},
		{
			name: "something else answers for WeChat",
			plant: func(c *clinic) {
				portal := httptest.NewServer(http.RedirectHandler("/login", http.StatusFound))
				c.t.Cleanup(portal.Close)
				c.args["wechat-url"] = portal.URL
			},
			result: doctor.Problem, check: "WeChat: URL", found: "a redirect", do: "something else than WeChat answers",
			mend: func(c *clinic) { c.args["wechat-url"] = c.wechat.URL() },
		},
		{
			name: "an address that WeChat does not allow",
			plant: func(c *clinic) {
				c.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{ErrCode: 61004} })
			},
			result: doctor.Problem, check: "WeChat: URL", found: "errcode 61004.*127.0.0.1", do: "add the address to the component's IP allow-list",
			mend: func(c *clinic) { c.wechat.Every(nil) },
		},

		{
			name: "this machine's clock differs from WeChat's",
			plant: func(c *clinic) {
				c.args["wechat-url"] = between(c.t, c.wechat.URL(), func(r *http.Response) error {
					r.Header.Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
					return nil
				})
			},
			result: doctor.Warning, check: "clocks: WeChat", found: "(1h0m|59m5).*s ahead of this machine", do: "set this machine's clock",
			mend: func(c *clinic) { c.args["wechat-url"] = c.wechat.URL() },
		},
		{
			name: "the clock of MySQL's machine", mysql: []string{"--init-connect=SET timestamp = UNIX_TIMESTAMP() - 3600"},
			result: doctor.Warning, check: "clocks: MySQL", found: "behind this machine", do: "set the clock of MySQL's machine",
			mend: func(c *clinic) { c.exec("SET GLOBAL init_connect = ''") },
		},
		{
			name: "the clock of NATS's machine",
			plant: func(c *clinic) {
				now := regexp.MustCompile(`"now": *"[^"]*"`)
				c.args["nats-monitor"] = between(c.t, c.monitor, func(r *http.Response) error {
					return replaceBody(r, func(body string) string { return now.ReplaceAllString(body, `"now":"2026-01-01T00:00:00Z"`) })
				})
			},
			result: doctor.Warning, check: "clocks: NATS", found: "behind this machine", do: "set the clock of NATS's machine",
			mend: func(c *clinic) { c.args["nats-monitor"] = c.monitor },
		},

		{
			name: "a replica that is not ready",
			plant: func(c *clinic) {
				working := c.args["mysql-dsn"]
				c.args["mysql-dsn"] = c.dsn(dead)
				service, _ := serve(c.t, c.arguments("serve")[1:]...)
				c.args["mysql-dsn"] = working
				service.Err.Await(c.t, `"msg":"MySQL away"`)
				awaitReplica(c)
				c.stop = service.Stop
			},
			result: doctor.Problem, check: "service: replicas", found: "1 of 1 are not ready: .*MySQL: ", do: `docs/operation.md says under "Not ready"`,
			mend: func(c *clinic) { c.stop(); c.serve() },
		},
	}
}

// Each fault is found, with what to change, and nothing is left to find once that is changed.
func TestDoctorFindsPlantedFaults(t *testing.T) {
	for _, a := range ailments() {
		t.Run(a.name, func(t *testing.T) {
			if a.name != "a misspelled variable" { // which the other cases must not see
				t.Parallel()
			}
			on := apptest.MySQL
			if a.mysql != nil {
				on = ownMySQL(t, a.mysql...)
			}
			c := newClinic(t, on, a.config, !a.neverSyncs)
			if a.plant != nil {
				a.plant(c)
			}
			findings, refused := c.examine()
			if a.check == "" {
				if !regexp.MustCompile(a.found).MatchString(refused) || !strings.Contains(refused, a.do) {
					t.Errorf("refused: %q, want %q and %q", refused, a.found, a.do)
				}
			} else {
				c.finds(findings, a)
			}
			a.mend(c)
			c.isClean("mended")
		})
	}
}

// docs/doctor.md has the faults, in this order, with what doctor says of them.
func TestPlantedFaultsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	all := ailments()
	_, table, _ := strings.Cut(string(page), "| fault | result | check | doctor says | do |\n|---|---|---|---|---|\n")
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if len(rows) != len(all) || !strings.Contains(string(page), fmt.Sprintf("these %d faults", len(all))) {
		t.Fatalf("the page has %d rows, want %d, and their number before the table", len(rows), len(all))
	}
	for i, a := range all {
		cells := strings.Split(strings.Trim(rows[i], "| "), " | ")
		if len(cells) != 5 {
			t.Errorf("%q has %d columns", rows[i], len(cells))
			continue
		}
		result, check := string(a.result), "`"+a.check+"`"
		if a.check == "" {
			result, check = "exit status 2", ""
		}
		if cells[0] != a.name || cells[1] != result || cells[2] != check || !regexp.MustCompile(a.found).MatchString(cells[3]) || !strings.Contains(cells[4], a.do) {
			t.Errorf("%q is not about %q", rows[i], a.name)
		}
	}
}

// finds requires the finding of a fault.
func (c *clinic) finds(findings []doctor.Finding, a ailment) {
	c.t.Helper()
	host, err := url.Parse(c.args["wechat-url"])
	if err != nil {
		c.t.Fatal(err)
	}
	check := strings.NewReplacer("NATS: URL", "NATS: "+c.nats.URL(), "NATS: TLS URL", "NATS: "+c.args["nats-url"], "WeChat: URL", "WeChat: "+host.Host).Replace(a.check)
	for _, f := range findings {
		if f.Group+": "+f.Check != check {
			continue
		}
		if f.Result != a.result || !regexp.MustCompile(a.found).MatchString(f.Found) || !strings.Contains(f.Do, a.do) {
			c.t.Errorf("found %+v, want the %s %q and %q", f, a.result, a.found, a.do)
		}
		return
	}
	c.t.Errorf("no finding of %s: %+v", check, findings)
}

// A healthy service has nothing to skip either, and what doctor does reaches nobody.
func TestDoctorOfAHealthyService(t *testing.T) {
	t.Parallel()
	c := newClinic(t, apptest.MySQL, "", true)
	c.isClean("before the first start")
	names := c.streams().StreamNames(t.Context())
	for name := range names.Name() {
		t.Errorf("a stream %s was created", name)
	}
	for _, table := range []string{"stream_set", "outbox", "component", "pre_auth_code"} {
		var rows int
		if err := c.root.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&rows); err != nil || rows > 0 {
			t.Errorf("%s: %d rows, %v", table, rows, err)
		}
	}

	stop := c.serve()
	nc := connect(t, c.nats.URL())
	updates := subscribe(t, nc, "preauth.updated")
	if err := nc.Publish("component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	nextUpdate(t, updates, "wx1")
	issued := len(c.wechat.Issued("wx1"))
	heard := subscribe(t, nc, ">")
	findings, _ := c.examine()
	for _, f := range findings {
		if f.Result != doctor.OK {
			t.Errorf("%+v", f)
		}
	}
	contract := regexp.MustCompile(`^(component|preauth\.(lookup|claim|resolve|renew|failed|authorized))\b|^preauth\.updated\._`)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for n, _, err := heard.Pending(); n > 0 && err == nil; n, _, err = heard.Pending() {
		msg, err := heard.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if contract.MatchString(msg.Subject) || msg.Header.Get("Nats-Trace-Dest") != "" {
			t.Errorf("a message on %s: %q %v", msg.Subject, msg.Data, msg.Header)
		}
	}
	for name, want := range map[string]uint64{"PREAUTH": 1, "PREAUTH_FAILED": 0, "PREAUTH_AUTHORIZED": 0, "COMPONENT_TOKENS": 1, "COMPONENT_AUTHORIZED": 0} {
		stream, err := c.streams().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().State.Msgs; got != want {
			t.Errorf("%s has %d messages, want %d", name, got, want)
		}
	}
	if n := len(c.wechat.Issued("wx1")); n > issued+1 { // a spare may have been made meanwhile
		t.Errorf("%d codes were made, and %d before", n, issued)
	}

	// What people read.
	status, out, _ := do(t, c.arguments("doctor")...)
	for _, want := range []string{"settings\n  ok       time limits\nNATS\n", "\nJetStream\n  ok       enabled\n", "\nservice\n  ok       replicas: 1, ready\n", ", warnings: 0, problems: 0, skipped: 0\n"} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("status %d, %q is not in\n%s", status, want, out)
		}
	}
	for line := range strings.Lines(out) {
		if len([]rune(strings.TrimRight(line, "\n"))) > chartWidth {
			t.Errorf("longer than a screen: %s", line)
		}
	}
	stop()
}

// In a cluster, each server is looked at, and streams should have replicas.
func TestDoctorOfACluster(t *testing.T) {
	t.Parallel()
	cluster, err := natsserver.StartCluster(t.Context(), 3, natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	c := newClinic(t, apptest.MySQL, "", true)
	c.args["nats-url"], c.args["stream-replicas"] = cluster.URL(), "3"
	delete(c.args, "nats-monitor")
	c.isClean("with replicas")

	find := func(check string) doctor.Finding {
		t.Helper()
		findings, _ := c.examine()
		for _, f := range findings {
			if f.Group+": "+f.Check == check {
				return f
			}
		}
		t.Errorf("no finding of %s: %+v", check, findings)
		return doctor.Finding{}
	}
	delete(c.args, "stream-replicas")
	if f := find("JetStream: replicas"); f.Result != doctor.Warning || !strings.Contains(f.Found, "alone keeps COMPONENT_TOKENS") || !strings.Contains(f.Do, "--stream-replicas=3") {
		t.Errorf("without replicas: %+v", f)
	}
	cluster.Nodes[0].Stop()
	if f := find("NATS: " + cluster.Nodes[0].URL()); f.Result != doctor.Warning || !strings.Contains(f.Do, "start nats-server") {
		t.Errorf("without one server: %+v", f)
	}
	cluster.Nodes[1].Stop()
	var f doctor.Finding
	apptest.Eventually(t, "the last server notices that it is alone", func() bool {
		f = find("JetStream: enabled")
		return f.Result != doctor.OK
	})
	if f.Result != doctor.Problem || !strings.Contains(f.Do, "a cluster needs most of its servers") {
		t.Errorf("with one server of three: %+v", f)
	}
}

// With the roles of deploy/nats, doctor has what it needs: the service's to try its rights, and the
// operator's to see limits and replicas.
func TestDoctorWithTheRolesOfTheDeployment(t *testing.T) {
	rules := newKeys(t)
	d := deploy(t, rules, "nkeys.conf")
	d.fill(t)
	c := &clinic{t: t, wechat: newWeChat(t, ""), mysql: apptest.MySQL, args: map[string]string{}}
	for role, skipped := range map[string][]string{
		asPreauth:  {"JetStream: sync", "JetStream: limits of the account", "MySQL: owner", "service: replicas", "service: components"},
		asOperator: {"NATS: right to take requests", "NATS: right to announce", "NATS: right to answer", "NATS: right to hear what the page shows", "JetStream: sync", "JetStream: right to use the streams", "MySQL: owner"},
	} {
		c.args = map[string]string{
			"nats-url": d.url, "nats-ca": d.ca, "nats-nkey": filepath.Join(d.keys, role+".nk"), "nats-inbox-prefix": "_INBOX." + role,
			"mysql-dsn": apptest.NewDatabase(t), "wechat-url": c.wechat.URL(),
		}
		findings, _ := c.examine()
		for _, f := range findings {
			name := f.Group + ": " + f.Check
			switch {
			case f.Group == "MySQL", name == "NATS: TLS", role == asOperator && name == "NATS: right to know its account": // without a schema, with a short certificate
			case f.Result == doctor.Skipped && slices.Contains(skipped, name), f.Result == doctor.OK:
			default:
				t.Errorf("%s: %+v", role, f)
			}
		}
	}
}
