package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/internal/app/apptest"
)

const entryKey, newerEntryKey = "5f4dcc3b5aa765d61d8327deb882cf99", "0cc175b9c0f1b6a831c399e269772661"

// A gateway with an entry page sends a visitor with a signed link on to WeChat. Its keys can be
// replaced while it runs, and its log says nothing of the link.
func TestGatewayServesTheEntryPage(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+apptest.NewDatabase(t), "--wechat-url="+stand.URL(), "--schema-apply")
	awaitReady(t, admin)
	tokens := write(t, "tokens", "shop sha256:"+strings.Repeat("0", 64)+" claim *\n")
	keys := write(t, "keys", entryKey+"\n")
	gateway := start(t, "gateway", "--nats-url="+server.URL(), "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--tokens-file="+tokens,
		"--entry-keys-file="+keys, "--entry-redirect-uri=https://auth.example.com/done")
	address := gateway.Err.Await(t, `"listen":"([^"]+)"`)[1]

	visit := func(appid, key string) (status int, page string) {
		t.Helper()
		link, err := preauth.EntryLink{AppID: appid, ClaimID: "visitor-4f1c", Reference: "order 7", ExpiresAt: time.Now().Add(time.Hour)}.
			Sign("http://"+address, preauth.NewSecret(key))
		if err != nil {
			t.Fatal(err)
		}
		return get(t, address, strings.TrimPrefix(link, "http://"+address))
	}
	if status, page := visit("wx1", entryKey); status != http.StatusServiceUnavailable || !strings.Contains(page, "unknown_component") {
		t.Errorf("a component without a token: %d: %s", status, page)
	}
	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "preauth.updated")
	if err := nc.Publish("component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	nextUpdate(t, sub, "wx1")
	status, page := visit("wx1", entryKey)
	if status != http.StatusOK || !strings.Contains(page, "redirect_uri=https%3A%2F%2Fauth.example.com%2Fdone") {
		t.Errorf("%d: %s", status, page)
	}

	if status, _ := visit("wx1", newerEntryKey); status != http.StatusForbidden {
		t.Errorf("a link with a key that is not in the file: %d", status)
	}
	if err := os.WriteFile(keys, []byte(newerEntryKey+"\n"+entryKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the newer key is taken", func() bool {
		status, _ := visit("wx1", newerEntryKey)
		return status == http.StatusOK
	})
	if status, _ := visit("wx1", entryKey); status != http.StatusOK {
		t.Errorf("a link with the older key: %d", status)
	}
	said := gateway.Err.String()
	for _, unwanted := range []string{"signature=", entryKey, "visitor-4f1c", "order", "preauthcode"} {
		if strings.Contains(said, unwanted) {
			t.Errorf("the log has %q: %s", unwanted, said)
		}
	}
	if !strings.Contains(said, `"operation":"entry","status":200`) {
		t.Errorf("the log says %s", said)
	}
}

// Without a tokens file, a gateway serves the entry page and nothing else.
func TestGatewayForTheEntryPageAlone(t *testing.T) {
	t.Parallel()
	gateway := start(t, "gateway", "--nats-url="+newNATS(t).URL(), "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0",
		"--entry-keys-file="+write(t, "keys", entryKey+"\n"), "--entry-redirect-uri=https://auth.example.com/done")
	address := gateway.Err.Await(t, `"listen":"([^"]+)".*"operations":false,"entry_page":true`)[1]
	if status, page := get(t, address, "/authorize/wx1"); status != http.StatusForbidden || !strings.Contains(page, "This link is not valid") {
		t.Errorf("the page: %d: %s", status, page)
	}
	for _, path := range []string{"/v1/components", "/v1/components/wx1/code", "/openapi.json", "/"} {
		if status, body := get(t, address, path); status != http.StatusNotFound || !strings.Contains(body, "serves the entry page alone") {
			t.Errorf("%s: %d: %s", path, status, body)
		}
	}
}

func TestGatewayRefusesSettingsOfTheEntryPage(t *testing.T) {
	t.Parallel()
	tokens := write(t, "tokens", "shop sha256:"+strings.Repeat("0", 64)+" claim *\n")
	keys, short := write(t, "keys", entryKey+"\n"), write(t, "short", "short\n")
	for _, test := range []struct {
		says string
		args []string
	}{
		{"go together", []string{"--entry-keys-file=" + keys}},
		{"go together", []string{"--entry-redirect-uri=https://auth.example.com/done"}},
		{"line 1: ", []string{"--entry-keys-file=" + short, "--entry-redirect-uri=https://auth.example.com/done"}},
		{"no such file", []string{"--entry-keys-file=" + keys + "-not", "--entry-redirect-uri=https://auth.example.com/done"}},
		{"redirect_uri must be an absolute http or https URL", []string{"--entry-keys-file=" + keys, "--entry-redirect-uri=auth.example.com"}},
	} {
		apptest.Refused(t, run, []string{test.says, "--entry-"}, append([]string{"gateway", "--tokens-file=" + tokens}, test.args...)...)
	}
}
