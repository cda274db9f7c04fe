package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/gateway"
)

// ready announces a token of a component, and returns when it has a code.
func (a *api) ready(appid string) map[string]ask {
	a.t.Helper()
	served := asks(appid)
	a.eventually(http.StatusNoContent, served["announce"])
	a.eventually(http.StatusOK, served["lookup"])
	return served
}

// members returns the members of an answer.
func (a *api) members(got answer) (all map[string]any) {
	a.t.Helper()
	if err := json.Unmarshal(got.body, &all); err != nil {
		a.t.Fatal(err)
	}
	return all
}

// A claim is repeated with its id, which the header Idempotency-Key may carry.
func TestClaimsAreIdempotent(t *testing.T) {
	a := newAPI(t, system.nats.URL(), nil)
	a.ready("wx-idempotent")
	claim := func(status int, body, key string) map[string]any {
		t.Helper()
		q := ask{method: "POST", path: "/v1/components/wx-idempotent/claims", body: body}
		if key != "" {
			q.header = map[string]string{"Idempotency-Key": key}
		}
		return a.members(a.must(status, q))
	}
	first := claim(200, `{"claim_id":"visitor 1 ä"}`, "")
	for _, again := range []map[string]any{
		claim(200, `{"claim_id":"visitor 1 ä"}`, ""),
		claim(200, "", "visitor 1 ä"),
		claim(200, "", `"visitor 1 ä"`),
		claim(200, `{"claim_id":"visitor 1 ä"}`, "visitor 1 ä"),
	} {
		if again["pre_auth_code"] != first["pre_auth_code"] || again["claim_id"] != "visitor 1 ä" {
			t.Errorf("the claim %v has another code", again["claim_id"])
		}
	}
	if other := claim(200, "", "visitor-2"); other["pre_auth_code"] == first["pre_auth_code"] {
		t.Error("two visitors have the same code")
	}
	for _, test := range []struct{ body, key, says string }{
		{`{"claim_id":"visitor-1"}`, "visitor-2", "Idempotency-Key and claim_id differ"},
		{"", `"visitor-2`, "Idempotency-Key begins with a quotation mark"},
		{"", `""`, "Idempotency-Key begins with a quotation mark"},
		{"", strings.Repeat("x", preauth.MaxClaimID+1), "Idempotency-Key is taken for claim_id: claim_id has 129 characters"},
		{"", "\xff", "Idempotency-Key is taken for claim_id: claim_id must be UTF-8"},
		{`{"component_appid":"wx-other"}`, "", "name different components"},
	} {
		if p := claim(400, test.body, test.key); !strings.Contains(p["detail"].(string), test.says) {
			t.Errorf("%q with the key %q: %v", test.body, test.key, p["detail"])
		}
	}
	// Two of them.
	r := a.request(ask{method: "POST", path: "/v1/components/wx-idempotent/claims"})
	r.Header["Idempotency-Key"] = []string{"a", "b"}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.hold(r, resp); got.status != http.StatusBadRequest {
		t.Errorf("two keys: %d", got.status)
	}
}

// A token is for its operations and components only, and nobody learns of other components with it.
func TestTokensOfSomeComponents(t *testing.T) {
	some, line, err := gateway.NewToken("some", []string{"resolve", "status", "lookup"}, []string{"wx-mine*", "wx-also-mine"})
	if err != nil {
		t.Fatal(err)
	}
	everything, allLine, err := gateway.NewToken("all", []string{"*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := gateway.ParseTokens([]byte("# who may do what\n\n" + line + "\n" + allLine))
	if err != nil {
		t.Fatal(err)
	}
	a := newAPI(t, system.nats.URL(), func(o *gateway.Options) { o.Tokens = func() gateway.Tokens { return tokens } })
	a.token = everything.Reveal()
	codes := map[string]string{}
	for _, appid := range []string{"wx-mine-1", "wx-also-mine", "wx-others"} {
		codes[appid] = a.members(a.must(200, a.ready(appid)["lookup"]))["pre_auth_code"].(string)
	}
	resolve := func(code string) answer {
		return a.do(ask{method: "POST", path: "/v1/resolutions", body: fmt.Sprintf(`{"pre_auth_code":%q}`, code), token: some.Reveal()})
	}
	for appid, code := range codes {
		mine := appid != "wx-others"
		status := a.do(ask{method: "GET", path: "/v1/components/" + appid, token: some.Reveal()})
		if (status.status == http.StatusOK) != mine || !mine && status.status != http.StatusForbidden {
			t.Errorf("the status of %s: %d", appid, status.status)
		}
		if got := resolve(code); (got.status == http.StatusOK) != mine {
			t.Errorf("the code of %s: %d %s", appid, got.status, got.body)
		}
	}
	if known, unknown := resolve(codes["wx-others"]), resolve("no-such-code"); !bytes.Equal(known.body, unknown.body) {
		t.Errorf("a code of another component is told from one that is not known:\n%s%s", known.body, unknown.body)
	}
	for _, q := range []ask{{method: "GET", path: "/v1/components"}, {method: "POST", path: "/v1/components/wx-mine-1/claims"}} {
		q.token = some.Reveal()
		a.must(http.StatusForbidden, q)
	}
}

// Pages of the status follow one another as the contract says.
func TestPagesOfTheStatus(t *testing.T) {
	a := newAPI(t, system.nats.URL(), nil)
	for _, appid := range []string{"wx-page-1", "wx-page-2"} {
		a.ready(appid)
	}
	page := a.members(a.must(200, ask{method: "GET", path: "/v1/components?state=valid&prefix=wx-page-&after=wx-page-1"}))
	components := page["components"].([]any)
	if len(components) != 1 || components[0].(map[string]any)["component_appid"] != "wx-page-2" || page["summary"] != nil {
		t.Errorf("the page is %v", page)
	}
}

// Addresses and methods that there are not are answered with problems too.
func TestAddressesAndMethods(t *testing.T) {
	a := newAPI(t, system.nats.URL(), nil)
	for _, path := range []string{"/", "/v1", "/v2/components", "/v1/components/", "/v1//components", "/v1/../v1/components", "/authorize", "/authorize/wx1", "/v1/components/wx1/code/", "/v1/components/a%2Fb"} {
		if p := a.members(a.must(http.StatusNotFound, ask{method: "GET", path: path})); p["type"] != "urn:preauth:problem:no-such-address" {
			t.Errorf("%s: %v", path, p)
		}
	}
	for path, allowed := range map[string]string{"/v1/components": "GET", "/v1/components/wx1/claims": "POST", "/openapi.json": "GET"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS"} {
			if method == allowed {
				continue
			}
			if got := a.must(http.StatusMethodNotAllowed, ask{method: method, path: path}); got.header.Get("Allow") != allowed {
				t.Errorf("%s %s: Allow is %q", method, path, got.header.Get("Allow"))
			}
		}
	}
}

// The gateway serves the description that these tests hold it against, to everybody.
func TestDescriptionIsServed(t *testing.T) {
	a := newAPI(t, system.nats.URL(), nil)
	want, err := os.ReadFile("../../internal/gateway/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(a.url + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got.Bytes(), want) || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d, %v, %d bytes of %s", resp.StatusCode, err, got.Len(), resp.Header.Get("Content-Type"))
	}
}

// A request's trace goes on to the service, and what is no trace does not.
func TestTracesAreContinued(t *testing.T) {
	a := newAPI(t, system.nats.URL(), nil)
	a.ready("wx-traced")
	nc, err := nats.Connect(system.nats.URL(), nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	updates, err := nc.SubscribeSync("preauth.updated")
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	for i, header := range []string{"00-" + trace + "-00f067aa0ba902b7-01", "no trace"} {
		a.must(204, ask{
			method: "POST", path: "/v1/components/wx-traced/tokens", body: fmt.Sprintf(`{"component_access_token":"traced-%d"}`, i),
			header: map[string]string{"Traceparent": header},
		})
		for {
			msg, err := updates.NextMsg(patience)
			if err != nil {
				t.Fatal(err)
			}
			if u, err := preauth.ParseUpdate(msg.Data); err != nil || u.AppID != "wx-traced" {
				continue
			}
			if got := preauth.TraceParent(msg.Header); strings.Contains(got, trace) != (i == 0) {
				t.Errorf("%s: the update has the trace %q", header, got)
			}
			break
		}
	}
}

// Scripts of other sites may call the gateway from those that are named, and from no other.
func TestOriginsOfOtherSites(t *testing.T) {
	const app = "https://app.example.com"
	preflight := ask{
		method: "OPTIONS", path: "/v1/components/wx1/claims", token: "none",
		header: map[string]string{"Origin": app, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"},
	}
	closed := newAPI(t, system.nats.URL(), nil)
	if got := closed.must(405, preflight); got.header.Get("Access-Control-Allow-Origin") != "" || got.header.Get("Vary") != "" {
		t.Errorf("a gateway without origins allows some: %v", got.header)
	}
	a := newAPI(t, system.nats.URL(), func(o *gateway.Options) { o.Origins = []string{app} })
	got := a.must(204, preflight)
	if got.header.Get("Access-Control-Allow-Origin") != app || !strings.Contains(got.header.Get("Access-Control-Allow-Headers"), "Authorization") || got.header.Get("Vary") != "Origin" {
		t.Errorf("the preflight is answered with %v", got.header)
	}
	if got := a.must(401, ask{method: "GET", path: "/v1/components", token: "none", header: map[string]string{"Origin": app}}); got.header.Get("Access-Control-Allow-Origin") != app {
		t.Error("the site cannot read what is wrong")
	}
	preflight.header["Origin"] = "https://other.example.com"
	if got := a.must(405, preflight); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("another site is allowed")
	}
}

// The entry is served where it belongs, without a token, and only if there is one.
func TestEntryIsMounted(t *testing.T) {
	var a *api
	t.Cleanup(func() { // once the gateway has stopped
		if log := a.log.String(); !strings.Contains(log, "operation=entry status=200") || !strings.Contains(log, "operation=entry_poll status=200") || !strings.Contains(log, "component=wx1") {
			t.Errorf("logged as %s", log)
		}
	})
	a = newAPI(t, system.nats.URL(), func(o *gateway.Options) { o.Origins = []string{"https://app.example.com"} })
	a.gateway.ServeEntry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, limited := r.Context().Deadline(); !limited {
			t.Error("a page may take longer than a request")
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	for _, method := range []string{http.MethodGet, http.MethodPost} { // with which an open page asks
		r, err := http.NewRequestWithContext(t.Context(), method, a.url+"/authorize/wx1?signature="+secret, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", "https://app.example.com")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil || body.String() != "/authorize/wx1" {
			t.Errorf("%s: %d %q, %v", method, resp.StatusCode, body.String(), err)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Error("the scripts of another site may read a visitor's page")
		}
	}
	a.must(404, ask{method: "GET", path: "/authorize"})
}

// Each request has a line in the log, with nothing in it that the requests were told to keep.
func TestRequestsAreLogged(t *testing.T) {
	var a *api
	t.Cleanup(func() { // after the gateway has stopped
		log := a.log.String()
		for _, want := range []string{
			`msg=request operation=claim status=200 took=`, `token=all component=wx-logged`, `operation=other status=404`, `operation=lookup status=401`,
			`operation=status status=403 took=`, `token=few component=wx-logged`,
		} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %s:\n%s", want, log)
			}
		}
	})
	a = newAPI(t, system.nats.URL(), nil)
	served := a.ready("wx-logged")
	a.must(200, served["claim"])
	a.must(404, ask{method: "GET", path: "/" + secret + "?code=" + secret})
	a.must(401, ask{method: "GET", path: "/v1/components/wx-logged/code?redirect_uri=" + secret, token: secret})
	a.must(403, ask{method: "GET", path: "/v1/components/wx-logged", token: a.few})
}

// A request that NATS cannot take fails at once, with a problem that says so.
func TestNATSIsAway(t *testing.T) {
	server := newNATS(t, "")
	a := newAPI(t, server.URL(), nil)
	server.Stop()
	for name, q := range asks("wx-away") {
		got := a.eventually(http.StatusServiceUnavailable, q)
		if p := a.members(got); p["type"] != "urn:preauth:problem:unreachable" || got.header.Get("Retry-After") != "1" {
			t.Errorf("%s: %v", name, p)
		}
	}
	if _, err := a.gateway.Claim(t.Context(), preauth.ClaimRequest{AppID: "wx-away"}); err == nil || err.Error() != "not connected to NATS" {
		t.Errorf("a claim for the entry page: %v", err)
	}
	if _, err := a.gateway.Resolve(t.Context(), preauth.NewSecret(secret)); err == nil || err.Error() != "not connected to NATS" {
		t.Errorf("a question of the entry page: %v", err)
	}
}

// The time limit for the arrival of a request does not end the wait for its answer.
func TestAnswerThatComesLate(t *testing.T) {
	server := newNATS(t, "")
	nc, err := nats.Connect(server.URL(), nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	held, err := nc.SubscribeSync("preauth.lookup.wx-late")
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	a := newAPI(t, server.URL(), nil)
	answered := make(chan answer, 1)
	go func() { answered <- a.do(asks("wx-late")["lookup"]) }()
	request, err := held.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	a.breakOff(asks("wx-late")["claim"]) // which takes as long as the limit
	if err := request.Respond([]byte(`{"component_appid":"wx-late","pre_auth_code":"code","issued_at":"2030-01-01T00:00:00Z","expires_at":"2030-01-01T00:30:00Z","revision":7,"expires_in":1}`)); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; got.status != http.StatusOK {
		t.Errorf("%d %s", got.status, got.body)
	}
}
