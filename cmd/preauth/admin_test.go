package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"preauth"
	"preauth/internal/app/apptest"
)

// The service has a token, codes and claims in memory. No path of the admin endpoint may show them,
// and no other path may exist. TestEventsAreShownWithoutSecrets is about what the page hears.
func TestAdminEndpointShowsNoSecret(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+apptest.NewDatabase(t), "--wechat-url="+stand.URL(), "--schema-apply")
	awaitReady(t, admin)
	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "preauth.updated")
	if err := nc.Publish("component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	nextUpdate(t, sub, "wx1")
	client, err := preauth.NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Claim(t.Context(), preauth.ClaimRequest{AppID: "wx1", ClaimID: "visitor-of-" + secret, Reference: secret}); err != nil {
		t.Fatal(err)
	}
	// The content of a bad event must not reach a metric either.
	if err := nc.Publish("component.token.updated", []byte(secret)); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the bad event is counted", func() bool {
		_, metrics := get(t, admin, "/metrics")
		return strings.Contains(metrics, `preauth_failures_total{class="bad_event"} 1`)
	})

	var served []string
	fill := strings.NewReplacer("{$}", "", "{appid}", "wx1")
	for file, least := range map[string]int{"../../internal/app/admin.go": 4, "../../internal/page/page.go": 4} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		paths := regexp.MustCompile(`"GET (/\S*)"`).FindAllSubmatch(source, -1)
		if handlers := bytes.Count(source, []byte("mux.Handle")); len(paths) != handlers || handlers < least {
			t.Fatalf("%s: %d paths are known of %d that are served", file, len(paths), handlers)
		}
		for _, path := range paths {
			served = append(served, fill.Replace(string(path[1])))
		}
	}
	ask := func(method, path, accept string) (status int, answer string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var all bytes.Buffer
		if err := resp.Header.Write(&all); err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("Content-Type") == "text/event-stream" { // it has no end
			resp.Body = io.NopCloser(io.LimitReader(resp.Body, 10))
		}
		if _, err := io.Copy(&all, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, all.String()
	}
	for _, path := range served {
		for _, accept := range []string{"", "application/openmetrics-text", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text"} {
			status, answer := ask(http.MethodGet, path+"?debug=1&all="+secret[:1], accept)
			if status != http.StatusOK {
				t.Errorf("%s: status %d", path, status)
			}
			apptest.HasNoSecret(t, answer)
			for _, code := range stand.Issued("wx1") {
				if strings.Contains(answer, code.Reveal()) {
					t.Errorf("%s has a code", path)
				}
			}
		}
		if status, _ := ask(http.MethodPost, path, ""); status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d, want 405", path, status)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=2", "/debug/vars", "/metrics/", "/config", "/.env"} {
		if status, _ := ask(http.MethodGet, path, ""); status != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, status)
		}
	}
	if len(stand.Issued("wx1")) < 2 {
		t.Errorf("only %d codes were there to be seen", len(stand.Issued("wx1")))
	}
}
