package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/leak"
	"preauth/internal/natsserver"
	"preauth/wechat/wechattest"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const (
	appID   = "wx0123456789abcdef"
	account = "wx8888888888888888"
)

// settings are the secrets of the tests. None of them may be logged.
var settings = map[string]string{
	"WECHAT_APPID": appID, "WECHAT_APPSECRET": "s3cret-of-the-app", "WECHAT_PUSH_TOKEN": "t0ken-of-pushes",
	"WECHAT_ENCODING_AES_KEY": "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
}

// world is a token service beside a NATS server without streams and a stand-in for WeChat.
type world struct {
	t      *testing.T
	wechat *wechattest.Server
	js     jetstream.JetStream
	out    *apptest.Output // of the token service, and so are the next two
	url    string
	stop   func()
	seen   chan answered
}

// answered is a push with what the token service answered.
type answered struct {
	query  url.Values
	body   string
	status int
	answer string
}

func start(t *testing.T, options wechattest.Options) *world {
	t.Helper()
	w := &world{t: t, seen: make(chan answered, 1000)}
	options.AnyToken = true
	var err error
	if w.wechat, err = wechattest.Start(options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.wechat.Close)
	server, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if w.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(apptest.Patience)); err != nil {
		t.Fatal(err)
	}
	w.startService(nc)
	return w
}

// startService starts a token service, until w.stop is called or the test ends.
func (w *world) startService(nc *nats.Conn) {
	w.t.Helper()
	w.out = apptest.NewOutput()
	s, err := newService(w.getenv, nc, log.New(w.out, "", 0))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		s.keepToken(ctx, 20*time.Millisecond)
	}()
	server := httptest.NewServer(http.HandlerFunc(func(response http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		recorder := httptest.NewRecorder()
		s.ServeHTTP(recorder, r)
		w.seen <- answered{r.URL.Query(), string(body), recorder.Code, recorder.Body.String()}
		response.WriteHeader(recorder.Code)
		_, _ = response.Write(recorder.Body.Bytes())
	}))
	w.url = server.URL
	w.register(settings["WECHAT_APPSECRET"])
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-kept
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	out, stop := w.out, w.stop
	w.t.Cleanup(func() {
		stop()
		w.hasNoSecret(out.String())
		if w.t.Failed() {
			w.t.Logf("log:\n%s", out)
		}
	})
}

func (w *world) getenv(name string) string {
	if name == "WECHAT_URL" {
		return w.wechat.URL()
	}
	return settings[name]
}

// register makes the platform known to WeChat, with an appsecret.
func (w *world) register(secret string) {
	w.t.Helper()
	if err := w.wechat.Register(wechattest.Platform{
		AppID: appID, AppSecret: preauth.NewSecret(secret), PushURL: w.url,
		PushToken:      preauth.NewSecret(settings["WECHAT_PUSH_TOKEN"]),
		EncodingAESKey: preauth.NewSecret(settings["WECHAT_ENCODING_AES_KEY"]),
	}); err != nil {
		w.t.Fatal(err)
	}
}

// hasNoSecret requires that a log has none of the settings, tokens, tickets and codes.
func (w *world) hasNoSecret(log string) {
	w.t.Helper()
	for _, token := range w.wechat.Tokens(appID) {
		if strings.Contains(log, token.Reveal()) {
			w.t.Error("a token is logged")
		}
	}
	for name, text := range settings {
		if name != "WECHAT_APPID" && strings.Contains(log, text) {
			w.t.Errorf("%s is logged", name)
		}
	}
	if found := regexp.MustCompile(`(ticket|preauthcode|queryauthcode)@@@`).FindString(log); found != "" {
		w.t.Errorf("a %s is logged", found)
	}
}

// createStream creates the stream of a subject, as the service does.
func (w *world) createStream(name, subject string) {
	w.t.Helper()
	if _, err := w.js.CreateStream(w.t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
		w.t.Fatal(err)
	}
}

// stored waits until a stream has n messages, and returns them.
func (w *world) stored(stream string, n int) [][]byte {
	w.t.Helper()
	consumer, err := w.js.OrderedConsumer(w.t.Context(), stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		w.t.Fatal(err)
	}
	var bodies [][]byte
	for range n {
		msg, err := consumer.Next(jetstream.FetchMaxWait(apptest.Patience))
		if err != nil {
			w.t.Fatalf("%d of %d messages in %s: %v", len(bodies), n, stream, err)
		}
		bodies = append(bodies, msg.Data())
	}
	return bodies
}

// count returns the number of messages in a stream.
func (w *world) count(name string) uint64 {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

// answer waits for the next push and returns it.
func (w *world) answer() answered {
	w.t.Helper()
	select {
	case a := <-w.seen:
		return a
	case <-time.After(apptest.Patience):
		w.t.Fatal("no push came")
		return answered{}
	}
}

// ticket has WeChat push a ticket, which the token service takes.
func (w *world) ticket() answered {
	w.t.Helper()
	w.wechat.PushTicket(appID)
	a := w.answer()
	if a.status != http.StatusOK || a.answer != "success" {
		w.t.Fatalf("the answer to a ticket is %d %q", a.status, a.answer)
	}
	return a
}

// post posts a push to the token service.
func (w *world) post(query url.Values, body string) answered {
	w.t.Helper()
	response, err := http.Post(w.url+"?"+query.Encode(), "text/xml", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	return w.answer()
}

// code has WeChat issue a code.
func (w *world) code() preauth.Secret {
	w.t.Helper()
	response, err := http.Post(w.wechat.URL()+"/cgi-bin/component/api_create_preauthcode?component_access_token=any", "", strings.NewReader(`{"component_appid":"`+appID+`"}`))
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	issued := w.wechat.Issued(appID)
	if len(issued) == 0 {
		w.t.Fatal("no code is issued")
	}
	return issued[len(issued)-1]
}

// A ticket leads to a token, which is announced once, however many tickets come.
func TestTicketLeadsToToken(t *testing.T) {
	w := start(t, wechattest.Options{})
	w.createStream("COMPONENT_TOKENS", "component.token.updated.*")
	before := time.Now()
	first := w.ticket()
	body := w.stored("COMPONENT_TOKENS", 1)[0]
	event, err := preauth.ParseTokenEvent(appID, nil, body, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if issued := w.wechat.Tokens(appID); len(issued) != 1 || !event.Token.Equal(issued[0]) {
		t.Errorf("%d tokens are issued, or another one is announced", len(issued))
	}
	if life := event.ExpiresAt.Sub(before); life < 7199*time.Second || event.ExpiresAt.After(time.Now().Add(7200*time.Second)) {
		t.Errorf("the token expires at %v, after %v", event.ExpiresAt, life)
	}
	w.out.Await(t, "token announced, valid until")
	w.ticket()
	w.ticket()
	if again := w.post(first.query, first.body); again.answer != "success" {
		t.Errorf("a repeated push is answered with %d %q", again.status, again.answer)
	}
	if n := w.count("COMPONENT_TOKENS"); n != 1 || len(w.wechat.Tokens(appID)) != 1 {
		t.Errorf("%d tokens are announced, want 1", n)
	}
}

// A token is renewed before it ends, with the ticket that is there.
func TestTokenIsRenewed(t *testing.T) {
	w := start(t, wechattest.Options{TokenLife: 2 * time.Second})
	w.createStream("COMPONENT_TOKENS", "component.token.updated.*")
	w.ticket()
	var before preauth.TokenEvent
	for i, body := range w.stored("COMPONENT_TOKENS", 3) {
		event, err := preauth.ParseTokenEvent(appID, nil, body, time.Now())
		if err != nil || !event.Token.Equal(w.wechat.Tokens(appID)[i]) || event.ExpiresAt.Sub(event.IssuedAt) != 2*time.Second {
			t.Errorf("token %d: %v", i, err)
		}
		if i > 0 && !event.IssuedAt.After(before.IssuedAt.Add(time.Second)) {
			t.Errorf("token %d is issued at %v, when the one before lived until %v", i, event.IssuedAt, before.ExpiresAt)
		}
		before = event
	}
}

// A token of two hours is renewed half an hour before its end. Without a token, one is due at once.
func TestDue(t *testing.T) {
	issued := time.Date(2026, time.March, 14, 9, 0, 0, 0, time.UTC)
	token := preauth.TokenEvent{IssuedAt: issued, ExpiresAt: issued.Add(2 * time.Hour)}
	for after, want := range map[time.Duration]bool{0: false, 90*time.Minute - 1: false, 90 * time.Minute: true, 3 * time.Hour: true} {
		if got := due(token, issued.Add(after)); got != want {
			t.Errorf("after %v: due is %v", after, got)
		}
	}
	if !due(preauth.TokenEvent{}, issued) {
		t.Error("without a token, none is due")
	}
}

// Without the stream, the token waits. WeChat is not asked for another one.
func TestTokenWaitsForTheStream(t *testing.T) {
	w := start(t, wechattest.Options{})
	w.ticket()
	w.out.Await(t, "token not announced: ")
	w.ticket()
	w.createStream("COMPONENT_TOKENS", "component.token.updated.*")
	body := w.stored("COMPONENT_TOKENS", 1)[0]
	if issued := w.wechat.Tokens(appID); len(issued) != 1 || !strings.Contains(string(body), issued[0].Reveal()) {
		t.Errorf("%d tokens are issued, or another one is announced", len(issued))
	}
}

// While WeChat gives no token, the service goes on asking, and says why.
func TestWeChatGivesNoToken(t *testing.T) {
	for what, test := range map[string]struct {
		spoil, mend func(*world)
		says        string
	}{
		"away": {
			func(w *world) { w.wechat.FailTokens(wechattest.Fault{Reset: wechattest.ResetBefore}) },
			func(w *world) { w.wechat.FailTokens(wechattest.Fault{}) },
			`no token: Post "http://\S+/api_component_token": `,
		},
		"not itself": {
			func(w *world) {
				w.wechat.FailTokens(wechattest.Fault{Status: http.StatusBadGateway, Body: "<html>"})
			},
			func(w *world) { w.wechat.FailTokens(wechattest.Fault{}) },
			`no token: WeChat answers with status 502 and no JSON`,
		},
		"without a token": {
			func(w *world) { w.wechat.FailTokens(wechattest.Fault{Body: "{}"}) },
			func(w *world) { w.wechat.FailTokens(wechattest.Fault{}) },
			`no token: WeChat says 0`,
		},
		"without a life": {
			func(w *world) { w.wechat.FailTokens(wechattest.Fault{Body: `{"component_access_token":"x"}`}) },
			func(w *world) { w.wechat.FailTokens(wechattest.Fault{}) },
			`token not announced: .*expires_at`,
		},
		"with another secret": {
			func(w *world) { w.register("another") },
			func(w *world) { w.register(settings["WECHAT_APPSECRET"]) },
			`no token: WeChat says 40125 "invalid appsecret rid: `,
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := start(t, wechattest.Options{})
			w.createStream("COMPONENT_TOKENS", "component.token.updated.*")
			test.spoil(w)
			w.ticket()
			w.out.Await(t, test.says)
			test.mend(w)
			w.stored("COMPONENT_TOKENS", 1)
		})
	}
}

// A restart loses the ticket. The next one leads to a token again.
func TestTicketLostAtRestart(t *testing.T) {
	w := start(t, wechattest.Options{})
	w.createStream("COMPONENT_TOKENS", "component.token.updated.*")
	w.ticket()
	w.stored("COMPONENT_TOKENS", 1)
	w.stop()
	w.startService(w.js.Conn())
	w.ticket()
	if bodies := w.stored("COMPONENT_TOKENS", 2); string(bodies[0]) == string(bodies[1]) {
		t.Error("the same token is announced twice")
	}
}

// A push is answered with "success" only when the stream has the authorization. WeChat repeats it
// until then.
func TestAuthorization(t *testing.T) {
	w := start(t, wechattest.Options{})
	code := w.code()
	if err := w.wechat.Authorize(code, account); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a := w.answer(); a.status != http.StatusServiceUnavailable {
			t.Errorf("without a stream, the answer is %d %q", a.status, a.answer)
		}
	}
	w.createStream("COMPONENT_AUTHORIZED", "component.authorized.*")
	body := w.stored("COMPONENT_AUTHORIZED", 1)[0]
	event, err := preauth.ParseAuthorizationEvent(appID, nil, body, time.Now())
	if err != nil || !event.PreAuthCode.Equal(code) || event.AuthorizerAppID != account || event.InfoType != "authorized" || time.Since(event.AuthorizedAt) > apptest.Patience {
		t.Errorf("announced is %v, %v", event, err)
	}
	last := w.answer()
	for last.status == http.StatusServiceUnavailable {
		last = w.answer()
	}
	if last.status != http.StatusOK || last.answer != "success" {
		t.Errorf("the answer is %d %q", last.status, last.answer)
	}
	w.out.Await(t, account+" authorized: announced")

	if err := w.wechat.Authorize(code, account); err != nil {
		t.Fatal(err)
	}
	if a := w.answer(); a.answer != "success" {
		t.Errorf("the answer is %d %q", a.status, a.answer)
	}
	stream, err := w.js.Stream(t.Context(), "COMPONENT_AUTHORIZED")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := stream.GetLastMsgForSubject(t.Context(), "component.authorized."+appID); err != nil || !strings.Contains(string(msg.Data), "updateauthorized") {
		t.Errorf("updateauthorized is not announced: %v", err)
	}
}

// Pushes that say nothing of a code are taken, and lead to nothing.
func TestPushesWithoutACode(t *testing.T) {
	w := start(t, wechattest.Options{})
	w.createStream("COMPONENT_AUTHORIZED", "component.authorized.*")
	w.wechat.PushUnauthorized(appID, account)
	if a := w.answer(); a.answer != "success" {
		t.Errorf("unauthorized: %d %q", a.status, a.answer)
	}
	for _, text := range []string{
		"<xml><InfoType>updateauthorized</InfoType><AuthorizerAppid>" + account + "</AuthorizerAppid></xml>",
		"<xml><InfoType>authorized</InfoType><AuthorizerAppid>no appid</AuthorizerAppid><PreAuthCode>x</PreAuthCode></xml>",
		"<xml><InfoType>notify_third_fasteregister</InfoType></xml>",
		"<xml></xml>",
	} {
		if a := w.post(sealed(newOpener(), []byte(text))); a.answer != "success" {
			t.Errorf("%s: %d %q", text, a.status, a.answer)
		}
	}
	if n := w.count("COMPONENT_AUTHORIZED"); n != 0 {
		t.Errorf("%d authorizations are announced", n)
	}
}

// Nobody but WeChat can push.
func TestForgedPushes(t *testing.T) {
	w := start(t, wechattest.Options{})
	genuine := w.ticket()
	changed := func(name, value string) url.Values {
		query := url.Values{}
		maps.Copy(query, genuine.query)
		query.Set(name, value)
		return query
	}
	other := newOpener()
	other.token = "another"
	forgedQuery, forgedBody := sealed(other, []byte("<xml></xml>"))
	other = newOpener()
	other.key = make([]byte, 32)
	unreadableQuery, unreadableBody := sealed(other, []byte("<xml></xml>"))
	other = newOpener()
	other.appID = "wxfedcba9876543210"
	elsewhereQuery, elsewhereBody := sealed(other, []byte("<xml></xml>"))
	textQuery, textBody := sealed(newOpener(), []byte("text"))
	halfQuery, halfBody := signed(newOpener(), "AAAA")
	longQuery, longBody := sealedBlocks(newOpener(), tooLong())
	for _, test := range []struct {
		what, says string
		query      url.Values
		body       string
	}{
		{"without parameters", "msg_signature", nil, genuine.body},
		{"another time", "msg_signature", changed("timestamp", "1"), genuine.body},
		{"another nonce", "msg_signature", changed("nonce", "1"), genuine.body},
		{"another signature", "msg_signature", changed("msg_signature", strings.Repeat("0", 40)), genuine.body},
		{"the signature without the text", "msg_signature", changed("msg_signature", genuine.query.Get("signature")), genuine.body},
		{"another text", "msg_signature", genuine.query, strings.Replace(genuine.body, "<Encrypt><![CDATA[", "<Encrypt><![CDATA[AAAA", 1)},
		{"plain", "msg_signature", genuine.query, "<xml><InfoType>component_verify_ticket</InfoType></xml>"},
		{"no XML", "not XML", genuine.query, "{}"},
		{"nothing", "not XML", genuine.query, ""},
		{"too long", "too large", genuine.query, strings.Repeat(" ", 1<<17)},
		{"another token", "msg_signature", forgedQuery, forgedBody},
		{"another key", "padding|another appid", unreadableQuery, unreadableBody},
		{"another platform", "another appid", elsewhereQuery, elsewhereBody},
		{"half a block", "whole blocks", halfQuery, halfBody},
		{"a length beyond the end", "another appid", longQuery, longBody},
		{"no push", "not the XML of a push", textQuery, textBody},
	} {
		before := len(w.out.String())
		if a := w.post(test.query, test.body); a.status != http.StatusForbidden {
			t.Errorf("%s: %d %q", test.what, a.status, a.answer)
		}
		if said := w.out.String()[before:]; !regexp.MustCompile("refused a push: .*(" + test.says + ")").MatchString(said) {
			t.Errorf("%s: the log says %q", test.what, said)
		}
	}
}

// tooLong returns a text that claims to be longer than it is.
func tooLong() []byte { return []byte("0123456789abcdef\xff\xff\xff\xff<xml></xml>\x01") }

// A recorded push of an old ticket does not take the place of a newer one.
func TestOldTicketIsNotTaken(t *testing.T) {
	var ahead atomic.Int64 // of the stand-in's clock
	w := start(t, wechattest.Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	w.wechat.FailTokens(wechattest.Error(-1, ""))
	// taken waits until the service has taken what was pushed: it then asks for a token once more.
	taken := func() {
		failures := strings.Count(w.out.String(), "no token: ") + 2
		w.out.Await(t, fmt.Sprintf("(?s)(no token: .*){%d}", failures))
	}
	old := w.ticket()
	taken()
	ahead.Store(int64(13 * time.Hour)) // a ticket lives for 12
	w.ticket()
	taken()
	w.post(old.query, old.body)
	taken()
	w.createStream("COMPONENT_TOKENS", "component.token.updated.*")
	w.wechat.FailTokens(wechattest.Fault{})
	w.stored("COMPONENT_TOKENS", 1)
	if strings.Contains(w.out.String(), "61005") {
		t.Error("the old ticket was used")
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for name := range settings {
		getenv := func(asked string) string {
			switch asked {
			case name:
				return ""
			case "NATS_URL":
				return "nats://127.0.0.1:1" // where nobody is
			}
			return settings[asked]
		}
		if err := run(t.Context(), getenv, log.New(io.Discard, "", 0)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// This is the sample of WeChat's own library for encrypted messages.
func TestPublishedSample(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C=")
	if err != nil {
		t.Fatal(err)
	}
	o := opener{appID: "wx5823bf96d3bd56c7", token: "QDG6eK", key: key}
	query := url.Values{"msg_signature": {"477715d11cdb4164915debcba66cb864d751f3e6"}, "timestamp": {"1409659813"}, "nonce": {"1372623149"}}
	const body = "<xml><ToUserName><![CDATA[wx5823bf96d3bd56c7]]></ToUserName><Encrypt><![CDATA[" +
		"RypEvHKD8QQKFhvQ6QleEB4J58tiPdvo+rtK1I9qca6aM/wvqnLSV5zEPeusUiX5L5X/0lWfrf0QADHHhGd3QczcdCUpj911L3vg3W/sYYvuJTs3TUUkSUXxaccAS0qhxchrRYt66wiSpGLYL42aM6A8dTT+6k4aSknmPj48kzJs8qLjvd4Xgpue06DOdnLxAUHzM6+kDZ+HMZfJYuR+LtwGc2hgf5gsijff0ekUNXZiqATP7PF5mZxZ3Izoun1s4zG4LUMnvw2r+KqCKIw+3IQH03v+BCA9nMELNqbSf6tiWSrXJB3LAVGUcallcrw8V2t9EL4EhzJWrQUax5wLVMNS0+rUPA3k22Ncx4XXZS9o0MBH27Bo6BpNelZpS+/uh9KsNlY6bHCmJU9p8g7m3fVKn28H3KDYA5Pl/T8Z1ptDAVe0lXdQ2YoyyH2uyPIGHBZZIs2pDBS8R07+qN+E7Q==" +
		"]]></Encrypt></xml>"
	p, err := o.open(query, []byte(body))
	if err != nil || p.CreateTime != 1409659813 { // the message has no other field of a push
		t.Errorf("got %+v, %v", p, err)
	}
}

func newOpener() opener {
	key, _ := base64.StdEncoding.DecodeString(settings["WECHAT_ENCODING_AES_KEY"] + "=")
	return opener{appID: appID, token: settings["WECHAT_PUSH_TOKEN"], key: key}
}

// sealed returns a signed request with a text, encrypted as WeChat documents it.
func sealed(o opener, text []byte) (url.Values, string) {
	plain := binary.BigEndian.AppendUint32(make([]byte, aes.BlockSize), uint32(len(text)))
	plain = append(append(plain, text...), o.appID...)
	padding := 32 - len(plain)%32
	return sealedBlocks(o, append(plain, strings.Repeat(string(rune(padding)), padding)...))
}

// sealedBlocks returns a signed request with whole blocks, encrypted.
func sealedBlocks(o opener, plain []byte) (url.Values, string) {
	block, err := aes.NewCipher(o.key)
	if err != nil {
		panic(err)
	}
	cipher.NewCBCEncrypter(block, o.key[:aes.BlockSize]).CryptBlocks(plain, plain)
	return signed(o, base64.StdEncoding.EncodeToString(plain))
}

// signed returns a signed request.
func signed(o opener, encrypted string) (url.Values, string) {
	query := url.Values{"timestamp": {"1409659813"}, "nonce": {"1372623149"}}
	query.Set("msg_signature", signature(o.token, "1409659813", "1372623149", encrypted))
	return query, fmt.Sprintf("<xml><Encrypt><![CDATA[%s]]></Encrypt></xml>", encrypted)
}

// Whatever a request has, open either refuses it or returns what is in it.
func FuzzOpen(f *testing.F) {
	query, body := sealed(newOpener(), []byte("<xml><InfoType>authorized</InfoType></xml>"))
	f.Add(query.Encode(), []byte(body))
	f.Add("msg_signature=x", []byte("<xml><Encrypt>AAAA</Encrypt></xml>"))
	f.Fuzz(func(t *testing.T, query string, body []byte) {
		values, _ := url.ParseQuery(query)
		if p, err := newOpener().open(values, body); err == nil && p.InfoType != "authorized" {
			t.Errorf("forged: %+v", p)
		}
	})
}

// The same for what WeChat would sign and encrypt, in whatever shape.
func FuzzSealed(f *testing.F) {
	f.Add([]byte("0123456789abcdef\x00\x00\x00\x2a<xml><InfoType>authorized</InfoType></xml>" + appID + "\x01"))
	f.Add(make([]byte, 64))
	f.Add(tooLong())
	f.Fuzz(func(t *testing.T, plain []byte) {
		plain = plain[:len(plain)/aes.BlockSize*aes.BlockSize]
		text := string(plain)
		query, body := sealedBlocks(newOpener(), plain)
		p, err := newOpener().open(query, []byte(body))
		if err == nil && !strings.Contains(text, appID) {
			t.Errorf("taken without the appid: %+v", p)
		}
		if err != nil && p != (push{}) {
			t.Errorf("%v, and %+v", err, p)
		}
	})
}
