package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/wechat/wechattest"
)

const (
	patience = apptest.Patience
	secret   = apptest.Secret
)

func TestMain(m *testing.M) { apptest.Main(m, main) }

func start(t *testing.T, args ...string) *apptest.Command {
	t.Helper()
	return apptest.Start(t, run, args...)
}

func do(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return apptest.Do(t, run, args...)
}

// newWeChat starts a stand-in that takes any token.
func newWeChat(t *testing.T, listen string) *wechattest.Server {
	t.Helper()
	stand, err := wechattest.Start(wechattest.Options{Listen: listen, AnyToken: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stand.Close)
	return stand
}

// connect returns a connection to NATS.
func connect(t *testing.T, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append(options, nats.Timeout(patience))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// subscribe returns a subscription that the server knows.
func subscribe(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// nextUpdate returns the next announcement of a component.
func nextUpdate(t *testing.T, sub *nats.Subscription, appid string) preauth.Update {
	t.Helper()
	for {
		msg, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("no update of %s: %v", appid, err)
		}
		u, err := preauth.ParseUpdate(msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		if u.AppID == appid {
			return u
		}
	}
}

// tokenEvent returns the body of a token event. The same text makes the same token each time.
func tokenEvent(appid, text string) []byte {
	return fmt.Appendf(nil, `{"component_appid":%q,"component_access_token":%q}`, appid, secret+"-"+text)
}

// get sends a request to an admin endpoint.
func get(t *testing.T, address, path string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	apptest.HasNoSecret(t, string(text))
	return resp.StatusCode, string(text)
}

// awaitReady waits until the service at an admin address is ready.
func awaitReady(t *testing.T, address string) {
	t.Helper()
	apptest.Eventually(t, "the service is ready", func() bool {
		status, _ := get(t, address, "/readyz")
		return status == http.StatusOK
	})
}

// write creates a file in a directory that is the test's own, and returns its name.
func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
