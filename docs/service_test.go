package docs_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // for database/sql
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/consumer"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/repo"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// mysql is the database server of these tests.
var mysql *mysqlserver.Server

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "nats" { // see linkNATS
		if err := natsCLI(os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	status := 1
	var err error
	if mysql, err = mysqlserver.Start(context.Background(), mysqlserver.TestOptions()); err == nil {
		status = m.Run()
		err = mysql.Close()
	}
	if err == nil && status == 0 {
		err = leak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// patience is how long a test waits for something that has to happen. No machine is that slow.
const patience = 2 * time.Minute

// service is the service as operation.md sets it up: on a NATS server with the permissions of
// deploy/nats, and on a database with the grants of the page.
type service struct {
	nats     *server.Server
	keys     map[string]nats.Option // how each role of deploy/nats logs in
	database *sql.DB                // as root
	repo     *repo.Repo             // as the service
	wechat   *wechattest.Server
	registry *prometheus.Registry
	log      *lockedBuffer
}

func start(t *testing.T, change ...func(*consumer.Config)) *service {
	t.Helper()
	s := &service{}
	s.startNATS(t)
	s.run(t, change...)
	return s
}

// run runs the service beside a NATS server that has been started.
func (s *service) run(t *testing.T, change ...func(*consumer.Config)) {
	t.Helper()
	s.registry, s.log = prometheus.NewRegistry(), &lockedBuffer{}
	s.repo = s.openDatabase(t)
	var err error
	if s.wechat, err = wechattest.Start(wechattest.Options{AnyToken: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.wechat.Close)
	api, err := wechat.New(wechat.Config{BaseURLs: []string{s.wechat.URL()}, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)

	log := slog.New(slog.NewTextHandler(s.log, nil))
	cfg := consumer.Config{AckWait: 5 * time.Second, RequestTimeout: patience / 2, Shutdown: patience / 2}
	for _, each := range change {
		each(&cfg)
	}
	running, err := consumer.New(cfg, s.connect(t, "preauth"), s.repo, api, log, s.registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- running.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", s.log)
		}
	})
	eventually(t, "ready", func() bool { return running.Ready() == nil })
}

// startNATS starts a server with the accounts and permissions of deploy/nats.
func (s *service) startNATS(t *testing.T) {
	t.Helper()
	const rules = "deploy/nats/accounts.conf"
	s.keys = map[string]nats.Option{}
	var admin string
	for _, variable := range regexp.MustCompile(`\$(NKEY_([A-Z]+))`).FindAllStringSubmatch(read(t, rules), -1) {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(variable[1], public)
		s.keys[strings.ToLower(variable[2])] = nats.Nkey(public, pair.Sign)
		admin = public // the last
	}
	options, err := server.ProcessConfigFile(filepath.Join(root, rules))
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port = "127.0.0.1", server.RANDOM_PORT
	options.JetStream, options.StoreDir = true, t.TempDir()
	options.NoLog, options.NoSigs = true, true
	options.NoAuthUser = admin // for programs without keys
	if s.nats, err = server.NewServer(options); err != nil {
		t.Fatal(err)
	}
	go s.nats.Start()
	t.Cleanup(func() {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
	})
	if !s.nats.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not start")
	}
}

// connect returns a connection of one of the roles. The test fails if the server refuses anything.
func (s *service) connect(t *testing.T, role string) *nats.Conn {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(s.nats.ClientURL(), s.keys[role], nats.Timeout(patience), nats.CustomInboxPrefix("_INBOX."+role),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("as %s: %v", role, err) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// openDatabase makes a database and opens it as the user that operation.md creates.
func (s *service) openDatabase(t *testing.T) *repo.Repo {
	t.Helper()
	// Other names than the page's, which may exist on a server that a DSN names.
	name := fmt.Sprintf("docs_%d", os.Getpid())
	own := strings.NewReplacer(" preauth.", " "+name+".", "'preauth'@", "'"+name+"'@")
	if err := mysql.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mysql.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	asRoot, err := repo.Open(mysql.DSN(name), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := asRoot.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := asRoot.Close(); err != nil {
		t.Fatal(err)
	}
	if s.database, err = sql.Open("mysql", mysql.DSN(name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.database.Close() })
	for _, statement := range statements(t, "MySQL") {
		if _, err := s.database.ExecContext(t.Context(), own.Replace(statement)); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	t.Cleanup(func() {
		if _, err := s.database.ExecContext(context.Background(), "DROP USER '"+name+"'@'%'"); err != nil {
			t.Error(err)
		}
	})
	db, err := repo.Open(fmt.Sprintf("%s:choose-another@tcp(%s)/%s", name, mysql.Addr(), name), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// statements returns the SQL statements that operation.md shows below a heading; below all but
// "MySQL", which has the grants, if it is "".
func statements(t *testing.T, heading string) []string {
	t.Helper()
	var all []string
	for _, block := range blocks(t, "docs/operation.md", "sql") {
		if heading == "" && block.heading != "MySQL" || heading == block.heading {
			for statement := range strings.SplitSeq(block.text, ";\n") {
				if strings.TrimSpace(statement) != "" {
					all = append(all, statement)
				}
			}
		}
	}
	return all
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

// lockedBuffer is a log that several goroutines write to.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// The permissions of deploy/nats and the grants of operation.md are enough: the service and the
// programs around it do all their work, and nobody is refused anything (see connect).
func TestPermissionsAreEnough(t *testing.T) {
	var now clock
	s := start(t, func(c *consumer.Config) { c.Now = now.Now })
	publisher, err := preauth.NewClient(s.connect(t, "tokens"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := preauth.NewClient(s.connect(t, "client"))
	if err != nil {
		t.Fatal(err)
	}
	asSubscriber := s.connect(t, "subscriber")
	subscriber, err := preauth.NewClient(asSubscriber)
	if err != nil {
		t.Fatal(err)
	}
	updates := make(chan preauth.Update, 10)
	if _, err := subscriber.Subscribe(func(u preauth.Update) { updates <- u }, func(error) {}); err != nil {
		t.Fatal(err)
	}
	if err := asSubscriber.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience) // for all the steps
	defer cancel()
	if err := publisher.Announce(ctx, preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret("first")}); err != nil {
		t.Fatal(err)
	}
	var first preauth.Update
	select {
	case first = <-updates:
	case <-ctx.Done():
		t.Fatal("no update came")
	}
	found, err := subscriber.Lookup(ctx, preauth.LookupRequest{AppID: appID, MinRevision: first.Revision})
	if err != nil || found.Revision != first.Revision {
		t.Errorf("looked up %+v, %v", found, err)
	}

	// A look-up that makes a code; a claim of a spare and claims that make a code, with their resolves.
	now.advance(time.Minute)
	found, err = client.Lookup(ctx, preauth.LookupRequest{AppID: appID, MinTTL: first.ExpiresAt.Sub(first.IssuedAt) - 50*time.Second})
	if err != nil || found.Revision != 2 {
		t.Fatalf("on demand is made %+v, %v", found, err)
	}
	for _, id := range []string{"visitor 1", "visitor 2", "visitor 3"} {
		claim, err := client.Claim(ctx, preauth.ClaimRequest{AppID: appID, ClaimID: id})
		if err != nil {
			t.Fatal(err)
		}
		if claimed, err := client.Resolve(ctx, claim.PreAuthCode); err != nil || claimed.ClaimID != id {
			t.Errorf("resolved %+v, %v", claimed, err)
		}
	}

	eventually(t, "a spare is there again", func() bool {
		spares, err := s.repo.CountSpares(ctx, []string{appID}, time.Now())
		return err == nil && spares[appID] == 1
	})

	// An event that takes so long that the service sends two heartbeats.
	asAdmin := s.connect(t, "admin")
	signs := make(chan string, 100)
	if _, err := asAdmin.Subscribe("$JS.ACK.>", func(msg *nats.Msg) { signs <- string(msg.Data) }); err != nil {
		t.Fatal(err)
	}
	hold := wechattest.NewHold()
	s.wechat.Next(appID, wechattest.Fault{HoldAnswer: hold})
	if err := publisher.Announce(ctx, preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret("second")}); err != nil {
		t.Fatal(err)
	}
	for seen := 0; seen < 2; {
		select {
		case sign := <-signs:
			if sign == "+WPI" {
				seen++
			}
		case <-ctx.Done():
			t.Fatal("the service sends no heartbeats")
		}
	}
	// Meanwhile a message that is no update makes the publisher ask the stream for the last one.
	admin, err := jetstream.New(asAdmin, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Publish(ctx, "preauth.updated."+appID, []byte("another's")); err != nil {
		t.Fatal(err)
	}
	hold.Release()
	eventually(t, "revision 3 is announced", func() bool { return s.announced(ctx, admin) == 3 })

	// A failure.
	if _, err := admin.Publish(ctx, "component.token.updated", []byte("not JSON")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failure is announced", func() bool {
		stream, err := admin.Stream(ctx, "PREAUTH_FAILED")
		return err == nil && stream.CachedInfo().State.Msgs == 1
	})
	eventually(t, "the outbox is empty", func() bool {
		var rows int
		return s.database.QueryRowContext(ctx, "SELECT COUNT(*) FROM outbox").Scan(&rows) == nil && rows == 0
	})

	// The purge, which the service does every ten minutes.
	if purged, err := s.repo.Purge(ctx, time.Now().Add(24*time.Hour), 100); err != nil || purged == 0 {
		t.Errorf("%d codes purged, %v", purged, err)
	}

	// Deleted streams are created again.
	if err := admin.DeleteStream(ctx, "PREAUTH"); err != nil {
		t.Fatal(err)
	}
	if err := admin.DeleteStream(ctx, "COMPONENT_TOKENS"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the streams are there and filled", func() bool {
		stream, err := admin.Stream(ctx, "COMPONENT_TOKENS")
		if err != nil {
			return false
		}
		_, err = stream.Consumer(ctx, fmt.Sprintf("preauth-%d", stream.CachedInfo().Created.UnixMicro()))
		return err == nil && s.announced(ctx, admin) == 3
	})
}

// The stream that operation.md has an operator create for the KV bucket is the one that the service
// creates.
func TestBucketThatYouCreateYourself(t *testing.T) {
	s := &service{}
	s.startNATS(t)
	_, shown, _ := strings.Cut(read(t, "docs/operation.md"), "cat >kv.json <<'EOF'\n")
	shown, _, _ = strings.Cut(shown, "EOF\n")
	decoder := json.NewDecoder(strings.NewReader(shown))
	decoder.DisallowUnknownFields()
	var config jetstream.StreamConfig
	if err := decoder.Decode(&config); err != nil {
		t.Fatalf("%v in %s", err, shown)
	}
	admin, err := jetstream.New(s.connect(t, "admin"), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	created, err := admin.CreateStream(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	documented := created.CachedInfo().Config

	s.run(t, func(c *consumer.Config) { c.Bucket, c.StreamMaxBytes = "preauth", config.MaxBytes })
	s.announce(t, appID, "token", time.Hour)
	as, err := jetstream.New(s.connect(t, "component"), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := as.KeyValue(t.Context(), "preauth")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the code is in the bucket", func() bool {
		entry, err := bucket.Get(t.Context(), appID)
		return err == nil && strings.Contains(string(entry.Value()), `"revision":1,`)
	})

	if err := admin.DeleteStream(t.Context(), config.Name); err != nil {
		t.Fatal(err)
	}
	var own jetstream.StreamConfig
	eventually(t, "the service creates the stream", func() bool {
		stream, err := admin.Stream(t.Context(), config.Name)
		if err == nil {
			own = stream.CachedInfo().Config
		}
		return err == nil
	})
	// The page cannot say when the stream is created.
	own.FirstSeq, own.Description, documented.Description = documented.FirstSeq, "", ""
	if !reflect.DeepEqual(own, documented) {
		t.Errorf("operation.md has\n%+v\nthe service creates\n%+v", documented, own)
	}
}

// announced returns the revision of the component's last update in the stream, 0 if there is none.
func (s *service) announced(ctx context.Context, js jetstream.JetStream) uint64 {
	stream, err := js.Stream(ctx, "PREAUTH")
	if err != nil {
		return 0
	}
	msg, err := stream.GetLastMsgForSubject(ctx, "preauth.updated."+appID)
	if err != nil {
		return 0
	}
	update, err := preauth.ParseUpdate(msg.Data)
	if err != nil {
		return 0
	}
	return update.Revision
}

// The statements of operation.md work on the tables.
func TestStatementsOfOperation(t *testing.T) {
	s := start(t)
	client, err := preauth.NewClient(s.connect(t, "tokens"))
	if err != nil {
		t.Fatal(err)
	}
	s.wechat.Next(appID, wechattest.Error(48001, ""))
	if err := client.Announce(t.Context(), preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret("token")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failure is recorded", func() bool {
		var class string
		err := s.database.QueryRowContext(t.Context(), "SELECT failure FROM component WHERE appid = ?", appID).Scan(&class)
		return err == nil && strings.Contains(class, "configuration")
	})
	all := statements(t, "")
	for _, statement := range all {
		rows, err := s.database.QueryContext(t.Context(), statement)
		if err != nil {
			t.Errorf("%s: %v", statement, err)
			continue
		}
		for rows.Next() { // to the end, where an error may come
		}
		if err := rows.Err(); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
		rows.Close()
	}
	if len(all) != 10 {
		t.Errorf("operation.md shows %d statements, want 10", len(all))
	}
}

// A status gives each component the state that the contract defines.
func TestComponentStates(t *testing.T) {
	s := &service{}
	db := s.openDatabase(t)
	const alive, dead = "UTC_TIMESTAMP(6) + INTERVAL 1 HOUR", "UTC_TIMESTAMP(6) - INTERVAL 1 SECOND"
	code := func(left int) string { // of a code that lives for 1,000 s
		return fmt.Sprintf("UTC_TIMESTAMP(6) + INTERVAL %d SECOND", left)
	}
	for name, c := range map[string]struct{ token, failure, code, state string }{
		"a token and a new code":                  {alive, "NULL", code(999), "valid"},
		"a little more than the renewal lead":     {alive, "NULL", code(260), "valid"},
		"a little less than the renewal lead":     {alive, "NULL", code(240), "expiring"},
		"the code has expired":                    {alive, "NULL", code(-1), "expiring"},
		"no code and no failure yet":              {alive, "NULL", "", "expiring"},
		"a failure and a new code":                {alive, "'{}'", code(999), "failing"},
		"a failure and no code":                   {alive, "'{}'", "", "failing"},
		"the token has expired, the code has not": {dead, "NULL", code(999), "no token"},
		"the token has expired, and a failure":    {dead, "'{}'", code(-1), "no token"},
		"no token was ever taken":                 {"NULL", "NULL", "", "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, statement := range []string{
				"DELETE FROM pre_auth_code", "DELETE FROM component",
				"INSERT INTO component (appid, token_expires_at, failure, created_at, updated_at) VALUES ('wx1', " + c.token + ", " + c.failure +
					", UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
			} {
				if _, err := s.database.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			if c.code != "" {
				_, err := s.database.ExecContext(t.Context(), "INSERT INTO pre_auth_code (appid, revision, code, cause, token_fingerprint, issued_at, expires_at) "+
					"VALUES ('wx1', 1, 'code', 'token', '', "+c.code+" - INTERVAL 1000 SECOND, "+c.code+")")
				if err != nil {
					t.Fatal(err)
				}
			}
			status, ok, err := db.Status(t.Context(), "wx1", time.Now())
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			if state := strings.ReplaceAll(string(status.State), "_", " "); state != c.state {
				t.Errorf("the component is %q, want %q", state, c.state)
			}
			if !strings.Contains(read(t, contract), "\n| "+c.state+" | ") {
				t.Errorf("the contract has no row for the state %q", c.state)
			}
		})
	}
}

// operation.md has a row for each metric, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	s := start(t)
	descriptions := make(chan *prometheus.Desc, 1000)
	s.registry.Describe(descriptions)
	close(descriptions)
	registered := map[string]bool{}
	name := regexp.MustCompile(`fqName: "(\w+)"`)
	for description := range descriptions {
		registered[name.FindStringSubmatch(description.String())[1]] = true
	}
	documented := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| `(preauth_\\w+)(?:\\{\\w+\\})?` \\| \\S.* \\| \\S.* \\|$")
	for _, found := range row.FindAllStringSubmatch(read(t, "docs/operation.md"), -1) {
		documented[found[1]] = true
	}
	for name := range registered {
		if !documented[name] {
			t.Errorf("%s is not documented", name)
		}
	}
	for name := range documented {
		if !registered[name] {
			t.Errorf("%s is documented and does not exist", name)
		}
	}
	if len(registered) == 0 {
		t.Errorf("registered are %v", slices.Sorted(maps.Keys(registered)))
	}
}
