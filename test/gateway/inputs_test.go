package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
)

// values are values that a member may have against expectations, as JSON.
var values = []string{
	`null`, `true`, `0`, `-1`, `1.5`, `1e999`, `99999999999999999999`, `""`, `" "`, `"x"`, `"7"`, `[]`, `{}`, `[{}]`, `"\u0000"`, `"a\nb"`, `"\ud800"`, `"\ufffd"`,
	`"🙂"`, `"../../etc/passwd"`, `"' OR 1=1 --"`, `"<script>"`, `"{{7*7}}"`, `"` + strings.Repeat("a", 300) + `"`, `"` + strings.Repeat("ä", 3000) + `"`,
	`"2026-13-45T99:00:00Z"`, `"9999-12-31T23:59:59Z"`, `"0001-01-01T00:00:00Z"`, `"javascript:alert(1)"`,
}

// texts are parts of addresses and headers.
var texts = []string{
	"", "x", "-1", "0", "7", "1.5", "99999999999999999999", "9007199254740992", "true", "null", "a b", "%00", "%0a", "%ff", "%zz", "%", "..", "%2e%2e", "%2F", "*", ">", "a.b", "🙂",
	strings.Repeat("a", 65), strings.Repeat("a", 3000), "{}", "[]", "'", "<script>", "a,b", "valid", "1|17", "https://example.com/", "http:///", "a;b", "a&b=c",
}

// Whatever a request has, it is answered as the description says, never with a fault of the gateway,
// and with an error if the description does not allow the request.
func TestGeneratedInputs(t *testing.T) {
	a := newAPI(t, system.nats.URL(), nil)
	served := asks("wx-inputs")
	a.eventually(http.StatusNoContent, served["announce"])
	a.eventually(http.StatusOK, served["lookup"])
	sent := map[string]int{}
	for path, item := range a.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			id := operation.OperationID
			try := func(q ask) {
				sent[id]++
				a.tolerate(q)
			}
			for _, q := range a.inputs(path, method, operation, served[id]) {
				try(q)
			}
		}
	}
	for id, n := range sent {
		if n < 100 {
			t.Errorf("only %d inputs for %s", n, id)
		}
	}
}

// inputs returns requests of an operation that differ from a good one.
func (a *api) inputs(path, method string, operation *openapi3.Operation, good ask) (all []ask) {
	with := func(change func(*ask)) {
		q := good
		change(&q)
		all = append(all, q)
	}
	for _, other := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"} {
		if other != method {
			with(func(q *ask) { q.method = other })
		}
	}
	address, _, _ := strings.Cut(good.path, "?")
	for _, text := range texts {
		part := text
		if !strings.HasPrefix(text, "%") {
			part = url.PathEscape(text)
		}
		if strings.Contains(path, "{appid}") {
			with(func(q *ask) { q.path = strings.Replace(path, "{appid}", part, 1) })
		}
		for _, parameter := range operation.Parameters {
			name := parameter.Value.Name
			switch parameter.Value.In {
			case "query":
				with(func(q *ask) { q.path = address + "?" + name + "=" + url.QueryEscape(text) })
				with(func(q *ask) { q.path = address + "?" + name + "=" + strings.ReplaceAll(text, " ", "+") })
				with(func(q *ask) { q.path = address + "?" + name + "=1&" + name + "=" + url.QueryEscape(text) })
			case "header":
				with(func(q *ask) { q.header = map[string]string{name: text} })
				with(func(q *ask) { q.header = map[string]string{name: `"` + text} })
				with(func(q *ask) { q.header = map[string]string{name: `"` + text + `"`} })
			}
		}
		with(func(q *ask) { q.path = good.path + "/" + part })
		with(func(q *ask) { q.header = map[string]string{"Authorization": "Bearer " + text} })
		with(func(q *ask) { q.header = map[string]string{"Authorization": text} })
		with(func(q *ask) { q.header = map[string]string{"Origin": text, "Access-Control-Request-Method": "POST"} })
	}
	if operation.RequestBody == nil {
		return all
	}
	for _, media := range []string{
		"none", "text/plain", "application/json; charset=utf-16", "application/json; charset=UTF-8", "application/xml", "application/cloudevents+json", ";", "application/json, text/plain",
		"multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "APPLICATION/JSON", "application/jsonp", "application/json; a; b",
	} {
		with(func(q *ask) { q.media = media })
	}
	with(func(q *ask) { q.header = map[string]string{"Content-Encoding": "gzip"} })
	for _, body := range []string{
		"", " ", "{", "}", "[]", "null", "7", `"text"`, "{}", "{} {}", "{},", "{\"a\":1,}", "\xef\xbb\xbf{}", "\xff\xfe{\x00}\x00", "{\"a\":\"\xff\"}", strings.Repeat("[", 60_000),
		strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000), `{"a":"` + strings.Repeat("a", 65_000) + `"}`, `{"` + strings.Repeat("a", 65_000) + `":1}`,
		strings.Repeat(" ", 65_537), good.body + good.body, good.body[:len(good.body)-1], `{"specversion":"1.0","data":` + good.body + `}`, `{"specversion":"1.0"}`,
	} {
		with(func(q *ask) { q.body = body })
	}
	schema := operation.RequestBody.Value.Content["application/json"].Schema.Value
	for name := range schema.Properties {
		member := fmt.Sprintf("%q:", name)
		for _, value := range values {
			with(func(q *ask) { q.body = "{" + member + value + "}" })
			with(func(q *ask) { q.body = replaced(a.t, good.body, name, value) })
			with(func(q *ask) { q.body = strings.TrimSuffix(good.body, "}") + "," + member + value + "}" }) // twice, if it is there
		}
		with(func(q *ask) { q.body = replaced(a.t, good.body, strings.ToUpper(name), `"x"`) })
	}
	// What is nearly right. The seed is fixed, so that a failure comes again.
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		with(func(q *ask) {
			body := []byte(good.body)
			for range 1 + random.IntN(3) {
				at := random.IntN(len(body))
				switch random.IntN(3) {
				case 0:
					body[at] = byte(random.IntN(256))
				case 1:
					body = slices.Delete(body, at, at+1)
				default:
					body = slices.Insert(body, at, `{}[]",:\0-1eu`[random.IntN(13)])
				}
			}
			q.body = string(body)
		})
	}
	return all
}

// replaced returns a body with another value of a member.
func replaced(t *testing.T, body, name, value string) string {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &members); err != nil {
		t.Fatal(err)
	}
	delete(members, name)
	kept, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(strings.TrimSuffix(string(kept), "}")+fmt.Sprintf(",%q:", name)+value+"}", "{,", "{", 1)
}

// tolerate sends a request that may be wrong in any way.
func (a *api) tolerate(q ask) {
	a.t.Helper()
	if _, err := url.ParseRequestURI(q.path); err != nil {
		return // the client does not send it
	}
	r := a.request(q)
	resp, err := client.Do(r)
	if err != nil && strings.Contains(err.Error(), "invalid header field value") {
		return // the same
	}
	if err != nil {
		a.t.Fatalf("%+v: %v", q, err)
	}
	if r.Method == http.MethodHead { // the answer has no body to look at
		resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode == http.StatusInternalServerError {
			a.t.Errorf("%s %s: %d", q.method, q.path, resp.StatusCode)
		}
		return
	}
	got := a.hold(r, resp)
	switch {
	case got.status == http.StatusInternalServerError || got.status == http.StatusBadGateway || got.status == http.StatusGatewayTimeout:
		a.t.Errorf("%s %s %.200s: %d %s", q.method, q.path, q.body, got.status, got.body)
	case got.status < 300:
		if err := a.allows(r, q.body); err != nil {
			a.t.Errorf("%s %s %+v %.200s: answered with %d, but the description does not allow it: %v", q.method, q.path, q.header, q.body, got.status, err)
		}
	}
}

// allows returns an error if the description does not allow a request.
func (a *api) allows(r *http.Request, body string) error {
	r = r.Clone(a.t.Context())
	r.Body = io.NopCloser(bytes.NewReader([]byte(body)))
	route, parameters, err := a.router.FindRoute(r)
	if err != nil {
		return err
	}
	return openapi3filter.ValidateRequest(a.t.Context(), &openapi3filter.RequestValidationInput{
		Request: r, PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, SkipSettingDefaults: true},
	})
}
