package contract_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app"
	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// mysql is the database server of these tests.
var mysql *mysqlserver.Server

func TestMain(m *testing.M) {
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

// patience is how long something may take. No machine is too slow for it.
const patience = 20 * time.Second

// service is a running service, with a tap on everything that passes through NATS.
type service struct {
	wechat *wechattest.Server
	nc     *nats.Conn
	client *preauth.Client
	tap    *nats.Subscription
	heard  []*nats.Msg
	ctx    context.Context // ends when nothing more can be expected
}

func start(t *testing.T) *service {
	t.Helper()
	clean := func(what func() error) {
		t.Cleanup(func() {
			if err := what(); err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &service{ctx: ctx}
	server, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	clean(server.Close)
	closed := make(chan struct{})
	if s.nc, err = nats.Connect(server.URL(), nats.ClosedHandler(func(*nats.Conn) { close(closed) })); err != nil {
		t.Fatal(err)
	}
	clean(func() error { s.nc.Close(); <-closed; return nil })
	trace := func(context.Context) string { return "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" }
	if s.client, err = preauth.NewClient(s.nc, preauth.WithTraceParent(trace)); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("contract_%d", os.Getpid())
	if err := mysql.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	clean(func() error { return mysql.DropDatabase(context.Background(), name) })
	settings := app.MySQL{DSN: mysql.DSN(name), Connections: 8}
	if err := settings.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.wechat, err = wechattest.Start(wechattest.Options{AnyToken: true}); err != nil {
		t.Fatal(err)
	}
	clean(func() error { s.wechat.Close(); return nil })
	started, ended := make(chan *consumer.Service, 1), make(chan error, 1)
	running, stop := context.WithCancel(context.Background())
	go func() {
		ended <- app.Service{
			NATS: app.NATS{URL: server.URL()}, MySQL: settings, Admin: app.Admin{Listen: "127.0.0.1:0"},
			WeChat: app.WeChat{URLs: []string{s.wechat.URL()}, Path: wechat.DefaultPath, Timeout: time.Minute, Calls: 16},
		}.Serve(running, slog.New(slog.NewTextHandler(t.Output(), nil)), consumer.Config{
			Bucket: "preauth", RequestTimeout: patience / 2, Delays: consumer.Delays{Operator: time.Hour},
		}, func(_ net.Addr, running *consumer.Service) { started <- running })
	}()
	clean(func() error { stop(); return <-ended })
	select {
	case running := <-started:
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(patience); running.Ready() != nil; {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal(running.Ready())
			}
		}
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	// Not sooner: with this, nothing hears that there are no responders.
	if s.tap, err = s.nc.SubscribeSync(">"); err != nil {
		t.Fatal(err)
	}
	return s
}

// until listens until a message is heard on a subject that is like that.
func (s *service) until(t *testing.T, subject string, is func(body []byte) bool) *nats.Msg {
	t.Helper()
	for {
		msg, err := s.tap.NextMsgWithContext(s.ctx)
		if err != nil {
			for _, each := range s.heard {
				t.Log(each.Subject, string(each.Data))
			}
			t.Fatalf("nothing more on %s: %v", subject, err)
		}
		s.heard = append(s.heard, msg)
		if msg.Subject == subject && (is == nil || is(msg.Data)) {
			return msg
		}
	}
}

// updated waits for an update of a component, and returns it.
func (s *service) updated(t *testing.T, appid string, is func(preauth.Update) bool) (found preauth.Update) {
	t.Helper()
	s.until(t, "preauth.updated."+appid, func(body []byte) bool {
		u, err := preauth.ParseUpdate(body)
		found = u
		return err == nil && is(u)
	})
	return found
}

func (s *service) publish(t *testing.T, subject, body string, header ...string) {
	t.Helper()
	msg := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}}
	for i := 0; i < len(header); i += 2 {
		msg.Header[header[i]] = header[i+1 : i+2]
	}
	if err := s.nc.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request whose answer has an error with this code, 0 for none.
func (s *service) ask(t *testing.T, code int, subject, body string) *nats.Msg {
	t.Helper()
	reply, err := s.nc.Request(subject, []byte(body), patience)
	if err != nil {
		t.Fatal(err)
	}
	failed := preauth.ParseError(reply.Header.Get, reply.Data)
	if failed == nil && code == 0 || failed != nil && failed.Code == code {
		return reply
	}
	t.Fatalf("%s %s: %s, want the code %d", subject, body, reply.Data, code)
	return nil
}

// use has the service send and receive every message of the document.
func (s *service) use(t *testing.T) {
	t.Helper()
	ctx := s.ctx
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first := func(u preauth.Update) bool { return u.Revision == 1 }
	spent := func(u preauth.Update) bool { return u.Spent }
	const asCloudEvent = "application/cloudevents+json"
	token := func(members, text string) string {
		return fmt.Sprintf(`{%s"component_access_token":%q}`, members, text)
	}
	authorization := func(u preauth.Update, members string) string {
		return fmt.Sprintf(`{%s"pre_auth_code":%q,"authorizer_appid":"wx8888888888888888"}`, members, u.PreAuthCode.Reveal())
	}
	cloudEvent := func(kind, data string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"/tokens","type":%q,"data":%s}`, kind, data)
	}

	// Tokens in all forms. The quota is asked for with one of them.
	s.wechat.SetToken(appID, preauth.NewSecret("61_W3mEQkP0"))
	s.wechat.SetDailyQuota(appID, 10_000)
	must(s.client.Announce(ctx, preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret("61_W3mEQkP0"), IssuedAt: time.Now()}))
	code := s.updated(t, appID, first)
	s.publish(t, "component.token.updated", token(`"component_appid":"wx1",`, "first"), "ce-specversion", "1.0", "ce-id", "1")
	code1 := s.updated(t, "wx1", first)
	s.publish(t, "component.token.updated.wx2", cloudEvent("component.token.updated", token("", "second")))
	code2 := s.updated(t, "wx2", first)
	s.publish(t, "component.token.updated", cloudEvent("component.token.updated", token(`"component_appid":"wx3",`, "third")), "content-type", asCloudEvent)
	code3 := s.updated(t, "wx3", first)

	links := preauth.LinkOptions{RedirectURI: "https://example.com/authorized", AuthType: 3, BizAppID: "wx8888888888888888", CategoryIDList: "1|17"}
	_, err := s.client.Lookup(ctx, preauth.LookupRequest{AppID: appID, MinTTL: time.Minute, MinRevision: 1, LinkOptions: links})
	must(err)
	s.ask(t, 0, "preauth.lookup", `{"component_appid":"wx1"}`)
	claimed, err := s.client.Claim(ctx, preauth.ClaimRequest{AppID: appID, ClaimID: "visitor-4f1c", Reference: "order 7", LinkOptions: links})
	must(err)
	s.ask(t, 0, "preauth.claim", `{"component_appid":"wx1"}`)

	// Authorizations in all forms, with what they lead to.
	must(s.client.AnnounceAuthorization(ctx, preauth.AuthorizationEvent{
		AppID: appID, PreAuthCode: claimed.PreAuthCode, AuthorizerAppID: "wx8888888888888888", InfoType: preauth.InfoAuthorized,
	}))
	s.until(t, "preauth.authorized."+appID, nil)
	s.publish(t, "component.authorized", authorization(code1, `"component_appid":"wx1",`))
	s.updated(t, "wx1", spent)
	s.publish(t, "component.authorized.wx2", cloudEvent("component.authorized", authorization(code2, "")))
	s.updated(t, "wx2", spent)
	s.updated(t, "wx2", func(u preauth.Update) bool { return !u.Spent })
	s.publish(t, "component.authorized", cloudEvent("component.authorized", authorization(code3, `"component_appid":"wx3",`)), "content-type", asCloudEvent)
	s.updated(t, "wx3", spent)
	for _, each := range []preauth.Secret{claimed.PreAuthCode, code.PreAuthCode, code1.PreAuthCode} {
		_, err := s.client.Resolve(ctx, each)
		must(err)
	}

	// Failures: WeChat's, of an event, of an authorization.
	s.wechat.Every(func(call wechattest.Call) (fault wechattest.Fault) {
		if call.AppID == "wx2" {
			fault = wechattest.Error(61004, "")
		}
		return fault
	})
	s.ask(t, preauth.StatusUnavailable, "preauth.renew.wx2", "")
	s.until(t, "preauth.failed.wx2", nil)
	s.publish(t, "component.token.updated", "no JSON")
	s.until(t, "preauth.failed._", nil)
	s.publish(t, "component.authorized.wx2", `{"pre_auth_code":"another","authorizer_appid":"wx8888888888888888"}`)
	s.until(t, "preauth.failed.wx2", func(body []byte) bool { return strings.Contains(string(body), string(preauth.ClassUnknownCode)) })
	s.ask(t, preauth.StatusNotFound, "preauth.lookup.wx9", "")
	s.ask(t, preauth.StatusConflict, "preauth.claim."+appID, `{"claim_id":"visitor-4f1c","reference":"order 8"}`)
	s.ask(t, preauth.StatusBadRequest, "preauth.lookup."+appID, `{"min_ttl":"5m"}`)
	s.ask(t, preauth.StatusBadRequest, "preauth.lookup."+appID, `{"min_ttl":86400}`) // the schema does not know the life of a code

	// Status.
	s.ask(t, 0, "preauth.renew", `{"component_appid":"wx1"}`)
	_, err = s.client.Renew(ctx, appID)
	must(err)
	for _, each := range []string{appID, "wx1", "wx2"} {
		_, err := s.client.Status(ctx, each)
		must(err)
	}
	s.ask(t, 0, "preauth.status", `{"component_appid":"wx2"}`)
	_, err = s.client.StatusPage(ctx, preauth.StatusRequest{})
	must(err)
	_, err = s.client.StatusPage(ctx, preauth.StatusRequest{State: preauth.StateFailing, Prefix: "wx", After: "wx1"})
	must(err)
	replicas, err := s.client.Replicas(ctx)
	if err != nil || len(replicas) != 1 {
		t.Fatalf("%+v, %v", replicas, err)
	}
}

// Every message that a running service sends and takes is one of the document, and each of the
// document's is sent.
func TestMessagesOfTheService(t *testing.T) {
	s, document := start(t), open(t)
	s.use(t)
	const end = "end"
	s.publish(t, end, "")
	s.until(t, end, nil)

	// exchange is a request that has been heard.
	type exchange struct {
		request *nats.Msg
		fault   error    // why it is none of the document
		answers []string // the messages that may answer it
	}
	open, sent := map[string]exchange{}, map[string]bool{}
	var bad []string // what is none of the document, and should not be
	for _, msg := range s.heard {
		if strings.HasPrefix(msg.Reply, "$JS.ACK.") { // a stream's delivery
			continue
		}
		header := map[string]any{}
		for name, values := range msg.Header {
			header[name] = values[0]
		}
		if asked, ok := open[msg.Subject]; ok {
			name, err := document.fit(t, asked.answers, header, msg.Data)
			sent[name] = true
			if err != nil {
				t.Errorf("%s is answered with\n%s\n%v", asked.request.Subject, msg.Data, err)
			}
			failed := preauth.ParseError(msg.Header.Get, msg.Data)
			if refused := failed != nil && failed.Code == preauth.StatusBadRequest; refused != (asked.fault != nil) {
				bad = append(bad, string(asked.request.Data))
			}
			continue
		}
		names := document.messagesOn(msg.Subject)
		if names == nil {
			continue
		}
		body := msg.Data
		answers := document.answersOn(msg.Subject)
		if len(body) == 0 && answers != nil {
			body = []byte("{}")
		}
		name, err := document.fit(t, names, header, body)
		sent[name] = true
		switch {
		case answers != nil && msg.Reply != "":
			open[msg.Reply] = exchange{msg, err, answers}
		case err != nil && strings.HasPrefix(msg.Subject, "component."):
			bad = append(bad, string(body))
		case err != nil:
			t.Errorf("%s: %s\n%v", msg.Subject, msg.Data, err)
		}
	}
	if want := []string{"no JSON", `{"min_ttl":86400}`}; !slices.Equal(bad, want) {
		t.Errorf("document and service differ about %q, want %q", bad, want)
	}

	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.KeyValue(s.ctx, "preauth")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := bucket.Get(s.ctx, appID)
	if err != nil {
		t.Fatal(err)
	}
	name, err := document.fit(t, document.messagesOn("$KV.preauth."+entry.Key()), nil, entry.Value())
	sent[name] = true
	if err != nil {
		t.Errorf("%s in the bucket: %v", entry.Value(), err)
	}
	for name := range document.Components.Messages {
		if !sent[name] {
			t.Errorf("nothing sent a message %s", name)
		}
	}
}
