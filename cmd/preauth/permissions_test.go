package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/loopback"
)

// The roles of deploy/nats/accounts.conf.
const (
	asTokens     = "tokens"
	asClient     = "client"
	asSubscriber = "subscriber"
	asComponent  = "component"
	asOperator   = "operator"
	asPreauth    = "preauth"
	asAdmin      = "admin"
)

var roles = []string{asTokens, asClient, asSubscriber, asComponent, asOperator, asPreauth, asAdmin}

// deployment is a server with the files in deploy/nats, and the service connected to it.
type deployment struct {
	url     string
	store   string
	keys    string // the directory that deploy/nats/keys made
	ca      string
	login   func(role string) nats.Option
	service *apptest.Command
	asAdmin *nats.Conn
	heard   chan *nats.Msg // what the admin receives in the account of the streams
	// authorization was reported already: reporting it again changes nothing.
	authorization string
}

// newKeys copies the rules and runs the command that makes the keys and credentials of the roles.
func newKeys(t *testing.T) (rules string) {
	t.Helper()
	rules = t.TempDir()
	// Only the servers' files. Somebody may have made keys beside them.
	configs, err := filepath.Glob("../../deploy/nats/*.conf")
	if err != nil || len(configs) == 0 {
		t.Fatalf("%d files, %v", len(configs), err)
	}
	for _, config := range configs {
		text, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("wx0123456789abcdef"), []byte("wx1")) // the component of the role
		if err := os.WriteFile(filepath.Join(rules, filepath.Base(config)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for the compiler, on a busy machine
	defer cancel()
	command := exec.CommandContext(ctx, "go", "run", ".", "-rules", filepath.Join(rules, "accounts.conf"), filepath.Join(rules, "keys.d"))
	command.Dir = "../../deploy/nats/keys"
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made, err := os.ReadDir(filepath.Join(rules, "keys.d"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range made {
		if info, err := entry.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v; want one for its owner alone", entry.Name(), info.Mode(), err)
		}
	}
	return rules
}

// setVariables sets the variables that the files in deploy/nats read from a server's environment.
func setVariables(t *testing.T, rules, cert, key, ca string) {
	t.Helper()
	env, err := os.ReadFile(filepath.Join(rules, "keys.d", "nkeys.env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(env)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		t.Setenv(name, value)
	}
	t.Setenv("TLS_CERT", cert)
	t.Setenv("TLS_KEY", key)
	t.Setenv("TLS_CA", ca)
	t.Setenv("JETSTREAM_KEY", rand.Text())
}

// startDeployed starts a server with a file of deploy/nats. It changes only addresses and
// directories.
func startDeployed(t *testing.T, file, store string, change ...func(*server.Options)) (broker *server.Server, url string) {
	t.Helper()
	options, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port = "127.0.0.1", server.RANDOM_PORT
	options.StoreDir, options.NoSigs, options.NoLog, options.HTTPPort = store, true, true, 0
	for _, each := range change {
		each(options)
	}
	if broker, err = server.NewServer(options); err != nil {
		t.Fatal(err)
	}
	broker.Start()
	t.Cleanup(func() {
		broker.Shutdown()
		broker.WaitForShutdown()
	})
	if !broker.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return broker, "tls://" + broker.Addr().String()
}

// newAddress returns a free port of the loopback address.
func newAddress(t *testing.T) (host string, port int) {
	t.Helper()
	text, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Fatal(err)
	}
	return address.Addr().String(), int(address.Port())
}

// deploy starts a server with one of the files, and the service with its role's credentials.
func deploy(t *testing.T, rules, config string) *deployment {
	t.Helper()
	files := newCertificates(t)
	d := &deployment{store: t.TempDir(), keys: filepath.Join(rules, "keys.d"), ca: files.ca}
	setVariables(t, rules, files.serverCert, files.serverKey, files.ca)
	_, d.url = startDeployed(t, filepath.Join(rules, config), d.store)
	flag := "--nats-nkey=" + filepath.Join(d.keys, "preauth.nk")
	d.login = func(role string) nats.Option { return nkey(filepath.Join(d.keys, role+".nk")) }
	if config == "operator.conf" {
		flag = "--nats-creds=" + filepath.Join(d.keys, "preauth.creds")
		d.login = func(role string) nats.Option { return nats.UserCredentials(filepath.Join(d.keys, role+".creds")) }
	}
	d.serve(t, flag)
	d.heard = make(chan *nats.Msg, 10000)
	d.asAdmin = d.connect(t, asAdmin)
	for _, subject := range []string{"component.>", "preauth.updated.>", "preauth.updated", "preauth.failed.>", "preauth.failed", "preauth.authorized.>", "preauth.authorized", "$JS.ACK.>"} {
		if _, err := d.asAdmin.ChanSubscribe(subject, d.heard); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.asAdmin.Flush(); err != nil {
		t.Fatal(err)
	}
	return d
}

// serve starts the service. The server must not reject anything that the service does.
func (d *deployment) serve(t *testing.T, args ...string) {
	t.Helper()
	var admin string
	d.service, admin = serve(t, append(args, "--nats-url="+d.url, "--nats-ca="+d.ca, "--nats-inbox-prefix=_INBOX.preauth",
		"--mysql-dsn="+apptest.NewDatabase(t), "--schema-apply", "--wechat-url="+newWeChat(t, "").URL())...)
	awaitReady(t, admin)
	t.Cleanup(func() {
		if log := d.service.Err.String(); strings.Contains(log, "ermissions violation") {
			t.Errorf("the service is refused something:\n%s", log)
		}
	})
}

// connect returns a connection of a role, with the role's inbox.
func (d *deployment) connect(t *testing.T, role string) *nats.Conn {
	t.Helper()
	return connect(t, d.url, nats.RootCAs(d.ca), d.login(role), nats.CustomInboxPrefix("_INBOX."+role),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

// fill makes a token, a code, its authorization and a failure, with each role in its part. It returns
// the name of the service's durable consumer of tokens.
func (d *deployment) fill(t *testing.T) (durable string) {
	t.Helper()
	updates := subscribe(t, d.connect(t, asSubscriber), "preauth.updated.*")
	failures := subscribe(t, d.connect(t, asOperator), "preauth.failed")
	authorized := subscribe(t, d.connect(t, asClient), "preauth.authorized")
	publisher, err := preauth.NewClient(d.connect(t, asTokens))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := publisher.Announce(ctx, preauth.TokenEvent{AppID: "wx1", Token: preauth.NewSecret(secret + "-first")}); err != nil {
		t.Fatal(err)
	}
	event := preauth.AuthorizationEvent{AppID: "wx1", PreAuthCode: nextUpdate(t, updates, "wx1").PreAuthCode, AuthorizerAppID: "wxa"}
	d.authorization = string(event.Encode())
	if err := publisher.AnnounceAuthorization(ctx, event); err != nil {
		t.Fatal(err)
	}
	if msg, err := authorized.NextMsg(patience); err != nil || !strings.Contains(string(msg.Data), `"wxa"`) {
		t.Fatalf("no authorization announced: %v", err)
	}
	var next preauth.Update // what takes the place of the spent code
	for next.Cause != preauth.CauseSpent {
		next = nextUpdate(t, updates, "wx1")
	}
	if err := d.connect(t, asTokens).Publish("component.token.updated.wx9", []byte("no JSON")); err != nil {
		t.Fatal(err)
	}
	if msg, err := failures.NextMsg(patience); err != nil || !strings.Contains(string(msg.Data), `"bad_event"`) {
		t.Fatalf("no failure announced: %v", err)
	}
	js, err := jetstream.New(d.connect(t, asOperator), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, "COMPONENT_TOKENS")
	if err != nil {
		t.Fatal(err)
	}
	durable = fmt.Sprintf("preauth-%d", stream.CachedInfo().Created.UnixMicro())
	d.readBucket(t)
	return durable
}

// readBucket reads the KV bucket with the roles that may, as programs do.
func (d *deployment) readBucket(t *testing.T) {
	t.Helper()
	for _, role := range []string{asSubscriber, asComponent} {
		js, err := jetstream.New(d.connect(t, role), jetstream.WithDefaultTimeout(patience))
		if err != nil {
			t.Fatal(err)
		}
		apptest.Eventually(t, "a code in the bucket for "+role, func() bool {
			kv, err := js.KeyValue(t.Context(), "preauth")
			if err != nil {
				return false
			}
			_, err = kv.Get(t.Context(), "wx1")
			return err == nil
		})
	}
}

// outcome is the result of an attempt.
type outcome string

const (
	done      outcome = "done"
	forbidden outcome = "refused by the server"
)

// attempt is an action, and the roles that may do it.
type attempt struct {
	name string
	by   []string // the roles that may do it
	do   func(t *testing.T, d *deployment, nc *nats.Conn) outcome
}

// verdict returns whether the server rejects what send sends. A rejection arrives before the reply
// to a ping.
func verdict(t *testing.T, nc *nats.Conn, send func() error) outcome {
	t.Helper()
	before := nc.LastError()
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	switch err := nc.LastError(); {
	case errors.Is(err, before):
		return done
	case errors.Is(err, nats.ErrPermissionViolation):
		return forbidden
	default:
		return outcome(err.Error())
	}
}

// publishing is done when the message arrives in the account of the streams.
func publishing(subject string) func(*testing.T, *deployment, *nats.Conn) outcome {
	return func(t *testing.T, d *deployment, nc *nats.Conn) outcome {
		t.Helper()
		text := rand.Text()
		result := verdict(t, nc, func() error { return nc.Publish(subject, []byte(text)) })
		if result == done && d.awaits(func(msg *nats.Msg) bool { return msg.Subject == subject && string(msg.Data) == text }) {
			return done
		}
		if result == done {
			return "taken by the server, and delivered to nobody"
		}
		return result
	}
}

// awaits reports whether a message comes in the account of the streams.
func (d *deployment) awaits(match func(*nats.Msg) bool) bool {
	deadline := time.After(patience)
	for {
		select {
		case msg := <-d.heard:
			if match(msg) {
				return true
			}
		case <-deadline:
			return false
		}
	}
}

// subscribing is done when the subscription receives a message that the admin publishes on another
// subject. Without such a subject, it is done when the server accepts the subscription.
func subscribing(subject, on string) func(*testing.T, *deployment, *nats.Conn) outcome {
	return func(t *testing.T, d *deployment, nc *nats.Conn) outcome {
		t.Helper()
		var sub *nats.Subscription
		result := verdict(t, nc, func() (err error) {
			sub, err = nc.SubscribeSync(subject)
			return err
		})
		defer func() { _ = sub.Unsubscribe() }() // fails if the server rejected it
		if result != done || on == "" {
			return result
		}
		text := rand.Text()
		if err := d.asAdmin.Publish(on, []byte(text)); err != nil {
			t.Fatal(err)
		}
		for {
			msg, err := sub.NextMsg(patience)
			if err != nil {
				return outcome(err.Error())
			}
			if string(msg.Data) == text {
				return done
			}
		}
	}
}

// nobody stands for the reply if there are no responders.
const nobody = "nobody is there"

// requesting is done when a matching reply arrives.
func requesting(subject, body, answer string) func(*testing.T, *deployment, *nats.Conn) outcome {
	return func(t *testing.T, _ *deployment, nc *nats.Conn) outcome {
		t.Helper()
		inbox := subscribe(t, nc, nc.NewInbox())
		defer func() { _ = inbox.Unsubscribe() }()
		result := verdict(t, nc, func() error { return nc.PublishRequest(subject, inbox.Subject, []byte(body)) })
		if result != done {
			return result
		}
		msg, err := inbox.NextMsg(patience)
		text := nobody
		switch {
		case errors.Is(err, nats.ErrNoResponders): // allowed, but there are no responders
		case err != nil:
			return outcome(err.Error())
		default:
			text = msg.Header.Get("Status") + string(msg.Data)
		}
		if !regexp.MustCompile(answer).MatchString(text) {
			return outcome("answered with " + text)
		}
		return done
	}
}

// rollingUp is done when the stream accepts a message that replaces all earlier ones.
func rollingUp(subject, body string) func(*testing.T, *deployment, *nats.Conn) outcome {
	return func(t *testing.T, _ *deployment, nc *nats.Conn) outcome {
		t.Helper()
		inbox := subscribe(t, nc, nc.NewInbox())
		defer func() { _ = inbox.Unsubscribe() }()
		header := nats.Header{jetstream.MsgRollup: {jetstream.MsgRollupAll}}
		result := verdict(t, nc, func() error {
			return nc.PublishMsg(&nats.Msg{Subject: subject, Reply: inbox.Subject, Header: header, Data: []byte(body)})
		})
		if result != done {
			return result
		}
		switch msg, err := inbox.NextMsg(patience); {
		case err != nil:
			return outcome(err.Error())
		case strings.Contains(string(msg.Data), "rollup not permitted"):
			return forbidden
		default:
			return done
		}
	}
}

// attempts lists who may do what. The server must reject everything else.
func (d *deployment) attempts(durable string) []attempt {
	const (
		appid   = "wx1"
		aCode   = `"pre_auth_code":"preauthcode`
		another = `not valid JSON|do(es)? not match|"code":400|"code":404|"code":500` // the request is allowed, but makes no sense
	)
	token := string(tokenEvent(appid, "first")) // a repeated token costs no call
	const stored, storedToo = `"stream":"COMPONENT_TOKENS"`, `"stream":"COMPONENT_AUTHORIZED"`
	all := []attempt{
		{"announce a token", []string{asTokens, asAdmin}, requesting("component.token.updated", token, stored)},
		{"announce a component's token", []string{asTokens, asAdmin}, requesting("component.token.updated."+appid, token, stored)},
		{"empty the token stream with a header", nil, rollingUp("component.token.updated", token)},
		{"report an authorization", []string{asTokens, asAdmin}, requesting("component.authorized", d.authorization, storedToo)},
		{"report a component's authorization", []string{asTokens, asAdmin}, requesting("component.authorized."+appid, d.authorization, storedToo)},
		{"empty the authorization stream with a header", nil, rollingUp("component.authorized", d.authorization)},
		{"forge an update", []string{asAdmin}, publishing("preauth.updated")},
		{"forge a component's update", []string{asPreauth, asAdmin}, publishing("preauth.updated.wx9")},
		{"forge a failure", []string{asAdmin}, publishing("preauth.failed")},
		{"forge a component's failure", []string{asPreauth, asAdmin}, publishing("preauth.failed.wx9")},
		{"forge whose code was used", []string{asAdmin}, publishing("preauth.authorized")},
		{"forge whose code of a component was used", []string{asPreauth, asAdmin}, publishing("preauth.authorized.wx9")},

		{"hear tokens", []string{asAdmin}, subscribing("component.token.updated", "component.token.updated")},
		{"hear a component's tokens", []string{asAdmin}, subscribing("component.token.updated.*", "component.token.updated.wx9")},
		{"hear reports of authorizations", []string{asAdmin}, subscribing("component.authorized", "component.authorized")},
		{"hear reports of a component's authorizations", []string{asAdmin}, subscribing("component.authorized.*", "component.authorized.wx9")},
		{"hear updates", []string{asSubscriber, asPreauth, asAdmin}, subscribing("preauth.updated", "preauth.updated")},
		{"hear a component's updates", []string{asSubscriber, asAdmin}, subscribing("preauth.updated.wx9", "preauth.updated.wx9")},
		{"hear all components' updates", []string{asSubscriber, asAdmin}, subscribing("preauth.updated.*", "preauth.updated.wx9")},
		{"hear the updates of its component", []string{asSubscriber, asComponent, asAdmin}, subscribing("preauth.updated."+appid, "")},
		{"get the code of another component from the bucket", []string{asSubscriber, asAdmin}, requesting("$JS.API.DIRECT.GET.KV_preauth.$KV.preauth.wx7", "", "404")},
		{"write to the bucket", []string{asAdmin}, requesting("$KV.preauth."+appid, "forged", nobody)},
		{"hear failures", []string{asOperator, asPreauth, asAdmin}, subscribing("preauth.failed", "preauth.failed")},
		{"hear a component's failures", []string{asOperator, asAdmin}, subscribing("preauth.failed.wx9", "preauth.failed.wx9")},
		{"hear whose code was used", []string{asClient, asPreauth, asAdmin}, subscribing("preauth.authorized", "preauth.authorized")},
		{"hear whose code of a component was used", []string{asClient, asAdmin}, subscribing("preauth.authorized.wx9", "preauth.authorized.wx9")},
		{"hear whose code of any component was used", []string{asClient, asAdmin}, subscribing("preauth.authorized.*", "preauth.authorized.wx9")},
		{"hear everything of the service", []string{asAdmin}, subscribing("preauth.>", "preauth.updated.wx9")},
		{"hear everything", []string{asAdmin}, subscribing(">", "component.token.updated.wx9")},

		{"look up", []string{asClient, asSubscriber, asAdmin}, requesting("preauth.lookup", `{"component_appid":"`+appid+`"}`, aCode)},
		{"look a component up", []string{asClient, asSubscriber, asAdmin}, requesting("preauth.lookup."+appid, "", aCode)},
		{"claim", []string{asClient, asAdmin}, requesting("preauth.claim", `{"component_appid":"`+appid+`","claim_id":"one"}`, aCode)},
		{"claim of a component", []string{asClient, asAdmin}, requesting("preauth.claim."+appid, `{"claim_id":"one"}`, aCode)},
		{"resolve", []string{asClient, asAdmin}, requesting("preauth.resolve", `{"pre_auth_code":"unknown"}`, `"code":404`)},
		{"ask how components fare", []string{asOperator, asAdmin}, requesting("preauth.status", "", `"summary":`)},
		{"ask how a component fares", []string{asOperator, asAdmin}, requesting("preauth.status."+appid, "", `"state":`)},
		{"have a component worked on", []string{asOperator, asAdmin}, requesting("preauth.renew", `{"component_appid":"wx9"}`, `"code":404`)},
		{"have a named component worked on", []string{asOperator, asAdmin}, requesting("preauth.renew.wx9", "", `"code":404`)},

		{"answer look-ups", []string{asPreauth, asAdmin}, subscribing("preauth.lookup", "preauth.lookup")},
		{"answer look-ups of a component", []string{asPreauth, asAdmin}, subscribing("preauth.lookup.wx9", "preauth.lookup.wx9")},
		{"answer claims", []string{asPreauth, asAdmin}, subscribing("preauth.claim", "preauth.claim")},
		{"answer claims of a component", []string{asPreauth, asAdmin}, subscribing("preauth.claim.wx9", "preauth.claim.wx9")},
		{"answer resolves", []string{asPreauth, asAdmin}, subscribing("preauth.resolve", "preauth.resolve")},
		{"answer requests of operators", []string{asPreauth, asAdmin}, subscribing("preauth.status.wx9", "preauth.status.wx9")},
		{"answer pings", []string{asPreauth, asAdmin}, subscribing("$SRV.PING", "$SRV.PING")},
		{"answer for the token stream", []string{asAdmin}, subscribing("$JS.API.STREAM.INFO.COMPONENT_TOKENS", "")},

		{"hear all answers", []string{asAdmin}, subscribing("_INBOX.>", "")},
		{"hear what crosses accounts", []string{asAdmin}, subscribing("_R_.>", "")},
		{"hear acknowledgements", []string{asAdmin}, subscribing("$JS.ACK.>", "")},
		{"hear the server's events", []string{asAdmin}, subscribing("$JS.EVENT.>", "")},

		{"ping the replicas", []string{asOperator, asAdmin}, requesting("$SRV.PING.preauth", "", `"name":"preauth"`)},
		{"ask the replicas what they are", []string{asOperator, asAdmin}, requesting("$SRV.INFO.preauth", "", `"name":"preauth"`)},
		{"ask the replicas how they do", []string{asOperator, asPreauth, asAdmin}, requesting("$SRV.STATS.preauth", "", `"name":"preauth"`)},
		{"ask what the account uses", []string{asOperator, asAdmin}, requesting("$JS.API.INFO", "", `"streams":6`)},
		{"list the streams", []string{asOperator, asAdmin}, requesting("$JS.API.STREAM.LIST", "", `"total":6`)},
		{"list the streams' names", []string{asOperator, asPreauth, asAdmin}, requesting("$JS.API.STREAM.NAMES", "", `"total":6`)},

		{"acknowledge another's event", []string{asPreauth, asAdmin}, publishing("$JS.ACK.COMPONENT_TOKENS." + durable + ".1.4711.1.1.0")},
		{"acknowledge another's authorization", []string{asPreauth, asAdmin}, publishing("$JS.ACK.COMPONENT_AUTHORIZED.any.1.4711.1.1.0")},
		{"acknowledge on another stream", []string{asAdmin}, publishing("$JS.ACK.PREAUTH_FAILED.any.1.4711.1.1.0")},
		{"take an event away", []string{asPreauth, asAdmin}, requesting("$JS.API.CONSUMER.MSG.NEXT.COMPONENT_TOKENS."+durable, `{"batch":1,"no_wait":true}`, `404|component`)},
		{"take an authorization away", []string{asPreauth, asAdmin}, requesting("$JS.API.CONSUMER.MSG.NEXT.COMPONENT_AUTHORIZED.none", `{"batch":1,"no_wait":true}`, nobody)},
		{"delete the durable", []string{asPreauth, asAdmin}, requesting("$JS.API.CONSUMER.DELETE.COMPONENT_TOKENS.none", "", another)},
		{"delete the durable for authorizations", []string{asAdmin}, requesting("$JS.API.CONSUMER.DELETE.COMPONENT_AUTHORIZED.none", "", another)},
		{"pause the durable", []string{asAdmin}, requesting("$JS.API.CONSUMER.PAUSE.COMPONENT_TOKENS.none", "{}", another)},

		{"create any stream", []string{asAdmin}, requesting("$JS.API.STREAM.CREATE.OTHER", `{"name":"ANOTHER"}`, another)},
		{"ask which account it is in", []string{asPreauth, asAdmin}, requesting("$SYS.REQ.USER.INFO", "", `"account":`)},
		// The admin is not in the system account: there are no responders and no events.
		{"ask the system", []string{asAdmin}, requesting("$SYS.REQ.SERVER.PING", "", nobody)},
		{"hear the system", []string{asAdmin}, subscribing("$SYS.>", "")},
	}
	for _, role := range roles {
		all = append(all, attempt{"hear the answers to " + role, []string{role, asAdmin}, subscribing("_INBOX."+role+".>", "")})
	}
	// The streams: who may read and change each.
	for _, stream := range []struct {
		name, subject           string
		read, get, direct, info []string
	}{
		{
			name: "COMPONENT_TOKENS", subject: "component.token.updated",
			read: []string{asPreauth, asAdmin}, get: []string{asAdmin}, direct: []string{asAdmin}, info: []string{asOperator, asPreauth, asAdmin},
		},
		{
			name: "PREAUTH", subject: "preauth.updated." + appid,
			read: []string{asPreauth, asAdmin}, get: []string{asAdmin}, direct: []string{asPreauth, asAdmin}, info: []string{asOperator, asPreauth, asAdmin},
		},
		{
			name: "PREAUTH_FAILED", subject: "preauth.failed.wx9",
			read: []string{asAdmin}, get: []string{asOperator, asAdmin}, direct: []string{asAdmin}, info: []string{asOperator, asPreauth, asAdmin},
		},
		{
			name: "COMPONENT_AUTHORIZED", subject: "component.authorized",
			read: []string{asPreauth, asAdmin}, get: []string{asAdmin}, direct: []string{asAdmin}, info: []string{asOperator, asPreauth, asAdmin},
		},
		{
			name: "PREAUTH_AUTHORIZED", subject: "preauth.authorized." + appid,
			read: []string{asAdmin}, get: []string{asAdmin}, direct: []string{asAdmin}, info: []string{asOperator, asPreauth, asAdmin},
		},
		{
			name: "KV_preauth", subject: "$KV.preauth." + appid,
			read: []string{asAdmin}, get: []string{asAdmin}, direct: []string{asSubscriber, asComponent, asAdmin},
			info: []string{asSubscriber, asComponent, asOperator, asPreauth, asAdmin},
		},
	} {
		api := func(operation string) string { return "$JS.API." + operation + "." + stream.name }
		last := `{"last_by_subj":"` + stream.subject + `"}`
		onto := func(extra string) string {
			return `{"stream_name":"` + stream.name + `","config":{"name":"probe","ack_policy":"none","mem_storage":true,"inactive_threshold":1000000000` + extra + `}}`
		}
		of := func(what string) string { return what + " " + stream.name }
		admin := []string{asAdmin}
		all = append(all,
			attempt{of("ask about"), stream.info, requesting(api("STREAM.INFO"), "", `"state":`)},
			attempt{of("list the consumers of"), []string{asOperator, asAdmin}, requesting(api("CONSUMER.LIST"), "", `"total":`)},
			attempt{of("list the consumers' names of"), []string{asOperator, asAdmin}, requesting(api("CONSUMER.NAMES"), "", `"total":`)},
			attempt{of("get a message of"), stream.get, requesting(api("STREAM.MSG.GET"), last, `"data":"`)},
			attempt{of("get a message directly of"), admin, requesting(api("DIRECT.GET"), last, nobody+`|"pre_auth_code"|"bad_event"`)},
			attempt{of("get the last message directly of"), stream.direct, requesting(api("DIRECT.GET")+"."+stream.subject, "", nobody+`|"pre_auth_code"|"bad_event"`)},
			attempt{of("create a consumer of"), stream.read, requesting(api("CONSUMER.CREATE")+".probe", onto(""), `"config":`)},
			attempt{of("create a consumer for one subject of"), stream.read, requesting(api("CONSUMER.CREATE")+".probe.any", onto(`,"filter_subject":"any"`), `"config":|"code":400`)},
			attempt{of("have the server send"), stream.read, requesting(api("CONSUMER.CREATE")+".push", strings.Replace(onto(`,"deliver_subject":"_INBOX.client.x"`), "probe", "push", 1), `"config":`)},
			attempt{of("create a nameless consumer of"), admin, requesting(api("CONSUMER.CREATE"), `{"stream_name":"`+stream.name+`","config":{"ack_policy":"none","inactive_threshold":1000000000}}`, `"config":`)},
			attempt{of("create a durable consumer of"), admin, requesting(api("CONSUMER.DURABLE.CREATE")+".none", onto(""), another)},
			attempt{of("create"), []string{asPreauth, asAdmin}, requesting(api("STREAM.CREATE"), `{"name":"ANOTHER"}`, another)},
			attempt{of("change"), admin, requesting(api("STREAM.UPDATE"), `{"name":"ANOTHER"}`, another)},
			attempt{of("purge"), admin, requesting(api("STREAM.PURGE"), `{"filter":"none"}`, `"purged":0|"code":400`)},
			attempt{of("delete"), admin, requesting(api("STREAM.DELETE"), `{"no":"such"}`, another)},
			attempt{of("delete a message of"), admin, requesting(api("STREAM.MSG.DELETE"), `{"seq":4711}`, another)},
			attempt{of("copy"), admin, requesting(api("STREAM.SNAPSHOT"), `{}`, another)},
			attempt{of("put back"), admin, requesting(api("STREAM.RESTORE"), `[]`, another)},
			attempt{of("depose the leader of"), admin, requesting(api("STREAM.LEADER.STEPDOWN"), "", `"error":|`+nobody)},
		)
	}
	return all
}

// Each role of deploy/nats may do what it needs and nothing else. The test uses the files
// themselves, over TLS, beside the service in its own role.
func TestPermissionsOfTheDeployment(t *testing.T) {
	rules := newKeys(t)
	for _, config := range []string{"nkeys.conf", "operator.conf"} {
		t.Run(config, func(t *testing.T) {
			d := deploy(t, rules, config)
			durable := d.fill(t)
			for _, role := range roles {
				nc := d.connect(t, role)
				for _, a := range d.attempts(durable) {
					want := forbidden
					if slices.Contains(a.by, role) {
						want = done
					}
					if got := a.do(t, d, nc); got != want {
						t.Errorf("%s: %s: %s, want %s", role, a.name, got, want)
					}
				}
			}
			d.operate(t, config)
			d.serveHTTP(t, config)
			d.redirectAnswers(t)
			d.keepOut(t)
			d.seal(t)
			// Across accounts too, a client learns at once that no replica is left.
			d.service.Stop()
			if got := requesting("preauth.lookup.wx1", "", nobody)(t, d, d.connect(t, asClient)); got != done {
				t.Errorf("a look-up without the service: %s", got)
			}
		})
	}
}

// redirectAnswers sends the requests that each role may send, with reply subjects on which the role
// may not publish.
func (d *deployment) redirectAnswers(t *testing.T) {
	t.Helper()
	token := string(tokenEvent("wx1", "first"))
	elsewhere := []string{
		"preauth.updated.wx8", "preauth.updated", "preauth.failed.wx8", "preauth.failed", "preauth.authorized.wx8", "preauth.authorized",
		"component.token.updated.a.b", "component.authorized.a.b",
		"$JS.API.STREAM.PURGE.PREAUTH", "$JS.API.STREAM.DELETE.PREAUTH_FAILED", "_INBOX.client.other",
	}
	js, err := jetstream.New(d.asAdmin, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	states := func() (all []string) {
		for _, name := range []string{"PREAUTH", "PREAUTH_FAILED", "PREAUTH_AUTHORIZED"} {
			stream, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			state := stream.CachedInfo().State
			all = append(all, fmt.Sprintf("%s: %d messages up to %d", name, state.Msgs, state.LastSeq))
		}
		return all
	}
	before := states()
	for _, ask := range []struct{ role, subject, body string }{
		{asTokens, "component.token.updated", token},
		{asTokens, "component.authorized", d.authorization},
		{asClient, "preauth.lookup.wx1", ""},
		{asClient, "preauth.claim.wx1", `{"claim_id":"one"}`},
		{asClient, "preauth.resolve", `{"pre_auth_code":"unknown"}`},
		{asSubscriber, "preauth.lookup.wx1", ""},
		{asOperator, "preauth.status.wx1", ""},
		{asSubscriber, "$JS.API.DIRECT.GET.KV_preauth.$KV.preauth.wx1", ""},
		{asComponent, "$JS.API.DIRECT.GET.KV_preauth.$KV.preauth.wx1", ""},
		{asOperator, "$JS.API.STREAM.INFO.PREAUTH", ""},
		{asOperator, "$JS.API.STREAM.MSG.GET.PREAUTH_FAILED", `{"last_by_subj":"preauth.failed.wx9"}`},
		{asOperator, "$SRV.PING.preauth", ""},
	} {
		for len(d.heard) > 0 {
			<-d.heard
		}
		// Subjects of the same account and of the service's account.
		asOthers := map[string]*nats.Conn{}
		others := map[string]*nats.Subscription{}
		for role, subject := range map[string]string{asSubscriber: "preauth.updated.*", asClient: "preauth.authorized.*"} {
			asOthers[role] = d.connect(t, role)
			others[role] = subscribe(t, asOthers[role], subject)
		}
		nc := d.connect(t, ask.role)
		for _, reply := range elsewhere {
			if err := nc.PublishRequest(ask.subject, reply, []byte(ask.body)); err != nil {
				t.Fatal(err)
			}
			// The server itself publishes a trace of such a message on the subject in the header.
			traced := &nats.Msg{Subject: ask.subject, Data: []byte(ask.body), Header: nats.Header{"Nats-Trace-Dest": {reply}}}
			if result := verdict(t, nc, func() error { return nc.PublishMsg(traced) }); result != forbidden {
				t.Errorf("%s: to have %s reported on %s: %s, want %s", ask.role, ask.subject, reply, result, forbidden)
			}
		}
		if result := requesting(ask.subject, ask.body, ".")(t, d, nc); result != done {
			t.Fatalf("%s: %s: %s", ask.role, ask.subject, result)
		}
		if ask.role == asTokens { // each is a message in the stream, which the service acknowledges
			for range len(elsewhere) + 1 {
				d.awaits(func(msg *nats.Msg) bool { return strings.HasPrefix(msg.Subject, "$JS.ACK.") })
			}
		}
		for len(d.heard) > 0 {
			if msg := <-d.heard; msg.Subject != ask.subject && !strings.HasPrefix(msg.Subject, "$JS.ACK.") {
				t.Errorf("%s: an answer to %s goes to %s: %s", ask.role, ask.subject, msg.Subject, msg.Data)
			}
		}
		for role, sub := range others {
			if err := asOthers[role].Flush(); err != nil {
				t.Error(err)
			}
			if ask.role == role { // accounts.conf explains why those of one account are the exception
				if _, err := sub.NextMsg(patience); err != nil {
					t.Errorf("%s: no answer to %s is heard by another %s: %v", ask.role, ask.subject, role, err)
				}
			} else if n, _, err := sub.Pending(); n > 0 || err != nil {
				t.Errorf("%s: %d answers to %s are heard by a %s, %v", ask.role, n, ask.subject, role, err)
			}
		}
	}
	if after := states(); !slices.Equal(before, after) {
		t.Errorf("the streams were\n%s\nand are\n%s", before, after)
	}
}

// keepOut tries to connect without the credentials of a role.
func (d *deployment) keepOut(t *testing.T) {
	t.Helper()
	_, stranger := newNKey(t)
	for name, options := range map[string][]nats.Option{
		"without a key":                 {nats.RootCAs(d.ca)},
		"with a stranger's key":         {nats.RootCAs(d.ca), nkey(stranger)},
		"with a password":               {nats.RootCAs(d.ca), nats.UserInfo("admin", "admin")},
		"with another's authority":      {nats.RootCAs(newCertificates(t).ca), d.login(asAdmin)},
		"with the system's authorities": {d.login(asAdmin)},
	} {
		if nc, err := nats.Connect(d.url, options...); err == nil {
			nc.Close()
			t.Errorf("%s: connected", name)
		} else if !errors.Is(err, nats.ErrAuthorization) && !strings.Contains(err.Error(), "certificate signed by unknown authority") {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain, err := net.Dial("tcp", strings.TrimPrefix(d.url, "tls://"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := plain.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Write([]byte("CONNECT {}\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	// Until the server closes the connection.
	if said, err := io.ReadAll(plain); !strings.Contains(string(said), `"tls_required":true`) || strings.Contains(string(said), "PONG") {
		t.Errorf("without TLS: %q, %v", said, err)
	}
}

// seal searches the streams' files for the token.
func (d *deployment) seal(t *testing.T) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(d.store, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // the server is still working
			return nil
		}
		if bytes.Contains(content, []byte(secret)) {
			t.Errorf("%s has a token", path)
		}
		if filepath.Ext(path) == ".blk" {
			files++
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("%d files with messages, %v", files, err)
	}
}

// Three servers form a cluster that accepts nobody else. It does not matter to which of them a role
// connects.
func TestClusterOfTheDeployment(t *testing.T) {
	rules, files := newKeys(t), newCertificates(t)
	forBoth := func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) }
	cert, key := files.issue(t, "node", x509.ExtKeyUsageServerAuth, forBoth)
	setVariables(t, rules, cert, key, files.ca)
	const servers = 3
	var ports []int
	var routes, urls []string
	for range servers {
		host, port := newAddress(t)
		ports, routes = append(ports, port), append(routes, "nats-route://"+net.JoinHostPort(host, strconv.Itoa(port)))
	}
	t.Setenv("ROUTES", "["+strings.Join(routes, ", ")+"]")
	var brokers []*server.Server
	for i, port := range ports {
		t.Setenv("SERVER_NAME", fmt.Sprint("nats-", i))
		broker, url := startDeployed(t, filepath.Join(rules, "cluster.conf"), t.TempDir(), func(o *server.Options) {
			o.Cluster.Host, o.Cluster.Port = "127.0.0.1", port
		})
		brokers, urls = append(brokers, broker), append(urls, url)
	}
	for _, broker := range brokers {
		apptest.Eventually(t, broker.Name()+" knows the others", func() bool { return broker.NumRoutes() >= servers-1 && broker.JetStreamIsCurrent() })
	}
	d := &deployment{keys: filepath.Join(rules, "keys.d"), ca: files.ca, url: urls[0]}
	d.login = func(role string) nats.Option { return nkey(filepath.Join(d.keys, role+".nk")) }
	d.serve(t, "--nats-nkey="+filepath.Join(d.keys, "preauth.nk"), "--stream-replicas=3")
	d.url = urls[1]
	d.fill(t)
	if got := requesting("preauth.claim.wx1", `{"claim_id":"one"}`, `"pre_auth_code":"preauthcode`)(t, d, d.connect(t, asClient)); got != done {
		t.Errorf("a claim from another server: %s", got)
	}

	another := newCertificates(t)
	anotherCert, anotherKey := another.issue(t, "node", x509.ExtKeyUsageServerAuth, forBoth)
	for _, test := range []struct {
		name      string
		cert, key string
		joins     bool
	}{
		{"without a certificate", "", "", false},
		{"with another authority's", anotherCert, anotherKey, false},
		{"with its own", cert, key, true},
	} {
		config := &tls.Config{InsecureSkipVerify: true}
		if test.cert != "" {
			pair, err := tls.LoadX509KeyPair(test.cert, test.key)
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		if err := join(t, strings.TrimPrefix(routes[2], "nats-route://"), config); (err == nil) != test.joins || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a server %s: %v", test.name, err)
		}
	}
}

// join connects to a cluster port as a server does, and returns why the cluster rejects it.
func join(t *testing.T, address string, config *tls.Config) error {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	secured := tls.Client(conn, config)
	if err := secured.Handshake(); err != nil {
		return err
	}
	_, err = secured.Read(make([]byte, 1)) // with TLS 1.3 the server rejects a certificate after the handshake
	return err
}
