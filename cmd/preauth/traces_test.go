package main

import (
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"preauth/internal/app/apptest"
)

// collector is an OTLP collector over HTTPS. It asks for a certificate, and the first time for the
// same request again.
type collector struct {
	url  string
	cert string // files, also for the client
	key  string

	mu    sync.Mutex
	raw   strings.Builder
	spans []*tracepb.Span
	about map[string]string // the resource
	token string            // the last header X-Token
	asked int
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{about: map[string]string{}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(r.Body)
		}
		raw, err := io.ReadAll(body)
		// The request has the same fields as TracesData.
		var request tracepb.TracesData
		if err != nil || proto.Unmarshal(raw, &request) != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s %s is no export of spans", r.Method, r.URL)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked++; c.asked == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		c.raw.Write(raw)
		c.token = r.Header.Get("X-Token")
		for _, resource := range request.GetResourceSpans() {
			for _, attribute := range resource.GetResource().GetAttributes() {
				c.about[attribute.GetKey()] = attribute.GetValue().GetStringValue()
			}
			for _, scope := range resource.GetScopeSpans() {
				c.spans = append(c.spans, scope.GetSpans()...)
			}
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	pair := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c.url = server.URL
	c.cert = write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	c.key = write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return c
}

// names returns the names of the spans of a trace.
func (c *collector) names(trace string) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if string(span.GetTraceId()) == trace {
			names = append(names, span.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// A service that is told of a collector sends it the whole trace of an event, at the latest when it
// stops.
func TestServeSendsTraces(t *testing.T) {
	t.Parallel()
	server, stand, to := newNATS(t), newWeChat(t, ""), newCollector(t)
	p := apptest.StartProcess(t, t.TempDir(), []string{
		"NATS_URL=" + server.URL(), "MYSQL_DSN=" + apptest.NewDatabase(t), "PREAUTH_WECHAT_URL=" + stand.URL(), "PREAUTH_SCHEMA_APPLY=true",
		"PREAUTH_ADMIN_LISTEN=127.0.0.1:0", "PREAUTH_LOG_FORMAT=json",
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + to.url, "OTEL_EXPORTER_OTLP_HEADERS=x-token=" + secret + "%21", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
		"OTEL_EXPORTER_OTLP_CERTIFICATE=" + to.cert, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=" + to.cert, "OTEL_EXPORTER_OTLP_CLIENT_KEY=" + to.key,
		"OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test", "OTEL_BSP_SCHEDULE_DELAY=3600000",
	}, "serve")
	awaitReady(t, p.Out.Await(t, `"admin":"([^"]+)"`)[1])
	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "preauth.updated")
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	trace := "\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36"
	event := &nats.Msg{Subject: "component.token.updated", Data: tokenEvent("wx1", "first"), Header: nats.Header{"traceparent": {parent}}}
	if err := nc.PublishMsg(event); err != nil {
		t.Fatal(err)
	}
	update := nextUpdate(t, sub, "wx1")
	if ended := p.Signal(t, syscall.SIGTERM); ended.ExitCode() != 0 {
		t.Errorf("ended with %v, want status 0", ended)
	}
	got := slices.DeleteFunc(to.names(trace), func(name string) bool { return strings.HasSuffix(name, "/quota/get") })
	want := []string{
		"POST /cgi-bin/component/api_create_preauthcode", "issue", "process component.token.updated", "publish preauth.updated",
		"repo: components", "repo: save",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the collector has the spans %q, want %q", got, want)
	}
	if to.about["service.name"] != "preauth" || to.about["deployment.environment.name"] != "test" || to.token != secret+"!" {
		t.Errorf("the collector got %v", to.about)
	}
	raw := to.raw.String()
	for what, hidden := range map[string]string{"a token": secret, "a code": update.PreAuthCode.Reveal()} {
		if strings.Contains(raw, hidden) || strings.Contains(p.Out.String(), hidden) {
			t.Errorf("a span or the log has %s", what)
		}
	}
}

// A collector that is away, or does not answer, is logged once and holds up no code. The end waits
// for it for a moment only.
func TestServeWithoutItsCollector(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	for name, test := range map[string]struct{ address, says string }{
		"away":   {"127.0.0.1:1", `"msg":"trace collector away"`},
		"silent": {silent.Addr().String(), `"msg":"last spans not sent"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, stand := newNATS(t), newWeChat(t, "")
			p := apptest.StartProcess(t, t.TempDir(), []string{
				"NATS_URL=" + server.URL(), "MYSQL_DSN=" + apptest.NewDatabase(t), "PREAUTH_WECHAT_URL=" + stand.URL(), "PREAUTH_SCHEMA_APPLY=true",
				"PREAUTH_ADMIN_LISTEN=127.0.0.1:0", "PREAUTH_LOG_FORMAT=json",
				"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + test.address, "OTEL_BSP_SCHEDULE_DELAY=1",
			}, "serve")
			awaitReady(t, p.Out.Await(t, `"admin":"([^"]+)"`)[1])
			nc := connect(t, server.URL())
			sub := subscribe(t, nc, "preauth.updated")
			for _, token := range []string{"first", "second", "third"} {
				if err := nc.Publish("component.token.updated", tokenEvent("wx1", token)); err != nil {
					t.Fatal(err)
				}
				nextUpdate(t, sub, "wx1")
			}
			if ended := p.Signal(t, syscall.SIGTERM); ended.ExitCode() != 0 {
				t.Errorf("ended with %v, want status 0", ended)
			}
			p.Out.Await(t, test.says)
			if n := strings.Count(p.Out.String(), `"level":"WARN"`); n != 1 {
				t.Errorf("%d warnings, want 1:\n%s", n, p.Out.String())
			}
		})
	}
}

func TestServeRefusesTraceSettings(t *testing.T) {
	for variable, test := range map[string]struct{ value, says string }{
		"OTEL_TRACES_EXPORTER":               {"zipkin", "otlp or none"},
		"OTEL_EXPORTER_OTLP_PROTOCOL":        {"grpc", "http/protobuf: there is no gRPC here"},
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": {"grpc", "http/protobuf: there is no gRPC here"},
		"OTEL_EXPORTER_OTLP_ENDPOINT":        {"collector:4318", "a URL such as http://collector:4318"},
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS":  {secret, "a list such as name=value,name=value"},
		"OTEL_EXPORTER_OTLP_TIMEOUT":         {"10s", "a number of milliseconds"},
		"OTEL_EXPORTER_OTLP_COMPRESSION":     {"zstd", "gzip or none"},
		"OTEL_EXPORTER_OTLP_CERTIFICATE":     {"traces_test.go", "a PEM file with certificates"},
		"OTEL_EXPORTER_OTLP_CLIENT_KEY":      {"/nowhere.pem", "a PEM file that can be read"},
		"OTEL_TRACES_SAMPLER":                {"jaeger_remote", "always_on, always_off, traceidratio"},
		"OTEL_TRACES_SAMPLER_ARG":            {"10%", "a number from 0 to 1"},
		"OTEL_BSP_MAX_QUEUE_SIZE":            {"9223372036854775807", "a number of spans, up to 1000000"},
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
			t.Setenv(variable, test.value)
			status, _, stderr := do(t, "serve", "--mysql-dsn=root@tcp(127.0.0.1:1)/preauth")
			if want := "preauth: $" + variable + " must be " + test.says; status != 2 || !strings.HasPrefix(stderr, want) {
				t.Errorf("status %d, %q, want 2 and %q", status, stderr, want)
			}
			for off, value := range map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"} {
				t.Setenv(off, value)
				if status, _, stderr := do(t, "serve", "--mysql-dsn=nonsense"); status != 2 || strings.Contains(stderr, "OTEL") {
					t.Errorf("without traces: status %d, %q", status, stderr)
				}
				t.Setenv(off, "")
			}
		})
	}
}
