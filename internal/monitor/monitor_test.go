package monitor_test

import (
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"preauth/internal/loopback"
	"preauth/internal/monitor"
	"preauth/internal/natsserver"
)

func start(t *testing.T, options natsserver.Options) (url string) {
	t.Helper()
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	options.Config = "http: " + address
	server, err := natsserver.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return "http://" + address + "/"
}

func TestJetStreamSaysWhetherItSyncs(t *testing.T) {
	for _, always := range []bool{true, false} {
		before := time.Now()
		got, err := monitor.New(start(t, natsserver.Options{SyncAlways: always}), nil).JetStream(t.Context())
		if err != nil || !got.Enabled || got.SyncAlways != always || got.ServerID == "" {
			t.Errorf("sync always %v: %+v, %v", always, got, err)
		}
		if got.Now.Before(before) || got.Now.After(time.Now()) {
			t.Errorf("the server's time is %v", got.Now)
		}
	}
}

func TestOverTLSWithAnAuthority(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"server_id": "N", "disabled": true}`)
	}))
	defer server.Close()
	if _, err := monitor.New(server.URL, nil).JetStream(t.Context()); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("with the system's authorities: %v", err)
	}
	authorities := x509.NewCertPool()
	authorities.AddCert(server.Certificate())
	if got, err := monitor.New(server.URL, authorities).JetStream(t.Context()); err != nil || got.Enabled || got.ServerID != "N" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSomethingElseAnswers(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"a page":       func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"another JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"a redirect":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) },
		"an error":     func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"server_id":"N"}`, http.StatusForbidden) },
	} {
		server := httptest.NewServer(answer)
		if _, err := monitor.New(server.URL, nil).JetStream(t.Context()); err == nil || !strings.Contains(err.Error(), "http_port") {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
	}
}
