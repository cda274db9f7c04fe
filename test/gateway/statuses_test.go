package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/gateway"
	"preauth/internal/natsserver"
	"preauth/wechat/wechattest"
)

// asks returns a request for each operation that a service can serve which knows the component.
func asks(appid string) map[string]ask {
	at := "/v1/components/" + appid
	return map[string]ask{
		"claim":      {method: "POST", path: at + "/claims", body: `{"claim_id":"visitor-1","reference":"order 7","redirect_uri":"https://example.com/"}`},
		"lookup":     {method: "GET", path: at + "/code?redirect_uri=https%3A%2F%2Fexample.com%2F&auth_type=3&min_ttl=60"},
		"resolve":    {method: "POST", path: "/v1/resolutions", body: `{"pre_auth_code":"` + appid + `"}`},
		"announce":   {method: "POST", path: at + "/tokens", body: `{"component_access_token":"` + secret + `-1","expires_in":7200}`},
		"authorized": {method: "POST", path: at + "/authorizations", body: `{"pre_auth_code":"` + appid + `","authorizer_appid":"wx8888888888888888"}`},
		"status":     {method: "GET", path: at},
		"statuses":   {method: "GET", path: "/v1/components?prefix=" + appid},
	}
}

// posts are the operations with a body.
var posts = []string{"claim", "resolve", "announce", "authorized"}

// Each operation answers with every status that the description has for it, and with no other one.
func TestEveryStatusOfTheDescription(t *testing.T) {
	var gateways []*api
	start := func(url string, change func(*gateway.Options), login ...nats.Option) *api {
		a := newAPI(t, url, change, login...)
		gateways = append(gateways, a)
		return a
	}

	// A real service.
	a := start(system.nats.URL(), nil)
	served := asks("wx-statuses")
	a.eventually(http.StatusNoContent, served["announce"])
	a.eventually(http.StatusOK, served["lookup"])
	var claim struct {
		Code string `json:"pre_auth_code"`
	}
	if err := json.Unmarshal(a.must(http.StatusOK, served["claim"]).body, &claim); err != nil {
		t.Fatal(err)
	}
	code := strconv.Quote(claim.Code)
	a.must(http.StatusOK, ask{method: "POST", path: "/v1/resolutions", body: `{"pre_auth_code":` + code + `}`})
	a.must(http.StatusNoContent, ask{
		method: "POST", path: "/v1/components/wx-statuses/authorizations",
		body: `{"pre_auth_code":` + code + `,"authorizer_appid":"wx8888888888888888","info_type":"authorized"}`,
	})
	a.must(http.StatusOK, served["status"])
	a.must(http.StatusOK, served["statuses"])
	a.must(http.StatusConflict, ask{method: "POST", path: "/v1/components/wx-statuses/claims", body: `{"claim_id":"visitor-1","reference":"order 8"}`})
	unknown := asks("wx-unknown")
	for _, operation := range []string{"claim", "lookup", "resolve", "status"} {
		a.must(http.StatusNotFound, unknown[operation])
	}
	system.wechat.Every(func(call wechattest.Call) wechattest.Fault {
		if call.AppID == "wx-refused" {
			return wechattest.Error(61004, "")
		}
		return wechattest.Fault{}
	})
	defer system.wechat.Every(nil)
	refused := asks("wx-refused")
	a.must(http.StatusNoContent, refused["announce"])
	for _, operation := range []string{"claim", "lookup"} {
		got := a.eventually(http.StatusServiceUnavailable, refused[operation])
		var p map[string]any
		if err := json.Unmarshal(got.body, &p); err != nil {
			t.Fatal(err)
		}
		seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
		at, _ := time.Parse(time.RFC3339, fmt.Sprint(p["retry_at"]))
		if p["class"] != "address_not_allowed" || p["errcode"] != 61004.0 || p["code"] != 503.0 || p["request_ip"] == nil || p["type"] != "urn:preauth:problem:unavailable" ||
			err != nil || time.Until(at) > time.Duration(seconds)*time.Second || time.Until(at) < time.Duration(seconds)*time.Second-patience {
			t.Errorf("%s: %v, Retry-After %s", operation, p, got.header.Get("Retry-After"))
		}
	}

	// What the gateway itself refuses.
	wrong := map[string]ask{
		"claim":      {method: "POST", path: "/v1/components/wx-statuses/claims", body: `{"claim_id":7}`},
		"lookup":     {method: "GET", path: "/v1/components/wx-statuses/code?min_ttl=soon"},
		"resolve":    {method: "POST", path: "/v1/resolutions", body: `{}`},
		"announce":   {method: "POST", path: "/v1/components/wx-statuses/tokens", body: `{"component_access_token":"a b"}`},
		"authorized": {method: "POST", path: "/v1/components/wx-statuses/authorizations", body: `[]`},
		"status":     {method: "GET", path: "/v1/components/-wx"},
		"statuses":   {method: "GET", path: "/v1/components?state=perhaps"},
	}
	for operation, q := range served {
		a.must(http.StatusBadRequest, wrong[operation])
		q.token = "none"
		if got := a.must(http.StatusUnauthorized, q); got.header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s: the challenge is %q", operation, got.header.Get("WWW-Authenticate"))
		}
		q.token = secret
		if got := a.must(http.StatusUnauthorized, q); got.header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
			t.Errorf("%s: the challenge is %q", operation, got.header.Get("WWW-Authenticate"))
		}
		q.token = a.few
		a.must(http.StatusForbidden, q)
	}
	var slow sync.WaitGroup
	for _, operation := range posts {
		slow.Go(func() { a.breakOff(served[operation]) })
		q := served[operation]
		q.body = strings.Repeat(" ", preauth.MaxBody+1)
		a.must(http.StatusRequestEntityTooLarge, q)
		q = served[operation]
		q.media = "text/plain"
		a.must(http.StatusUnsupportedMediaType, q)
	}
	once := start(system.nats.URL(), func(o *gateway.Options) { o.Rate = 1 })
	for _, q := range served {
		if got := once.eventually(http.StatusTooManyRequests, q); got.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
		}
	}
	slow.Wait()

	// What goes wrong behind the gateway.
	server := newNATS(t, `authorization { users: [
		{user: all, password: all}
		{user: none, password: none, permissions: {publish: {deny: ["preauth.>", "component.>"]}}}
	] }`)
	alone := start(server.URL(), nil, nats.UserInfo("all", "all"))
	for _, q := range asks("wx-nobody") { // before somebody listens
		if got := alone.must(http.StatusServiceUnavailable, q); got.header.Get("Retry-After") == "" {
			t.Error("an unreachable service has no Retry-After")
		}
	}
	standIn(t, server.URL(), nats.UserInfo("all", "all"))
	impatient := start(server.URL(), func(o *gateway.Options) { o.Timeout = 200 * time.Millisecond }, nats.UserInfo("all", "all"))
	for _, q := range asks("wx-504") {
		impatient.must(http.StatusGatewayTimeout, q)
	}
	for status, name := range map[int]string{http.StatusInternalServerError: "wx-500", http.StatusBadGateway: "wx-502", http.StatusTooManyRequests: "wx-429"} {
		for operation, q := range asks(name) {
			if events := operation == "announce" || operation == "authorized"; !events || status == http.StatusBadGateway { // a stream has no such errors
				alone.must(status, q)
			}
		}
	}
	powerless := start(server.URL(), nil, nats.UserInfo("none", "none"))
	for operation, q := range asks("wx-any") {
		got := powerless.must(http.StatusNotImplemented, q)
		if text := string(got.body); !strings.Contains(text, "may not publish to ") || !strings.Contains(text, "the role ") {
			t.Errorf("%s: the problem does not name the right: %s", operation, text)
		}
	}

	for path, item := range a.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			var want []int
			for status := range operation.Responses.Map() {
				number, err := strconv.Atoi(status)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, number)
			}
			produced := map[int]bool{}
			for _, g := range gateways {
				maps.Copy(produced, g.produced[operation.OperationID])
			}
			slices.Sort(want)
			if got := slices.Sorted(maps.Keys(produced)); !slices.Equal(got, want) {
				t.Errorf("%s %s answered with %v, the description has %v", method, path, got, want)
			}
		}
	}
}

// breakOff sends a request whose body does not come, and requires that the gateway ends that.
func (a *api) breakOff(q ask) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
	if err != nil {
		a.t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r := a.request(q)
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: gateway\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		r.Method, r.URL.Path, r.Header.Get("Authorization"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		a.t.Error(err)
		return
	}
	if got := a.hold(r, resp); got.status != http.StatusRequestTimeout {
		a.t.Errorf("%s: %d %s, want 408", q.path, got.status, got.body)
	}
}

func newNATS(t *testing.T, config string) *natsserver.Server {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// standIn takes the place of a service that fails in the way that the component's name says: with an
// error of that number, with an answer that breaks the contract, or with silence.
func standIn(t *testing.T, url string, login nats.Option) {
	t.Helper()
	nc, err := nats.Connect(url, login, nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	fail := func(msg *nats.Msg) {
		var err error
		switch about := msg.Subject + string(msg.Data); {
		case strings.Contains(about, "wx-504"):
			return
		case strings.Contains(about, "wx-502"):
			err = msg.Respond([]byte("[" + secret + "]"))
		default:
			e := preauth.Error{Code: 500, Message: "the database does not answer: try again"}
			if strings.Contains(about, "wx-429") {
				e = preauth.Error{Code: 429, Message: "too many requests at once: try again in a moment"}
			}
			reply := nats.NewMsg(msg.Reply)
			reply.Header.Set("Nats-Service-Error-Code", strconv.Itoa(e.Code))
			reply.Data = e.Encode()
			err = msg.RespondMsg(reply)
		}
		if err != nil {
			t.Error(err)
		}
	}
	for _, subject := range []string{"preauth.>", "component.>"} {
		if _, err := nc.Subscribe(subject, fail); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}
