package wechat_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// traced returns a context below a span, and what the provider exports.
func traced(t *testing.T, options ...sdktrace.TracerProviderOption) (context.Context, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(append(options, sdktrace.WithSyncer(exporter))...)
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	ctx, span := provider.Tracer("test").Start(t.Context(), "above")
	t.Cleanup(func() { span.End() })
	return ctx, exporter
}

func TestSpanOfARequest(t *testing.T) {
	const path = wechat.DefaultPath
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), -time.Second)
	cancel()
	host := func(fault wechattest.Fault) string {
		server := start(t, wechattest.Options{})
		server.Next(appid, fault)
		return server.URL()
	}
	const some = "(some)"
	for _, test := range []struct {
		name, host string
		within     context.Context
		port       string
		status     string // "" for none
		failure    string // the error.type, "" for none
	}{
		{"a code", host(wechattest.Fault{}), nil, some, "200", ""},
		{"an error of WeChat's", host(wechattest.Error(48001, "no")), nil, some, "200", ""},
		{"a refusal", host(wechattest.Fault{Status: 400}), nil, some, "400", "400"},
		{"a redirect", host(wechattest.Fault{Status: 399}), nil, some, "399", ""},
		{"out of time", "https://api.example.com", late, "443", "", "timeout"},
		{"given up", "http://api.example.com", ended, "80", "", some},
		{"the host gives up", refusing(t), nil, some, "", some},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, exporter := traced(t)
			if test.within != nil {
				ctx = trace.ContextWithSpan(test.within, trace.SpanFromContext(ctx))
			}
			_, _ = call(newClient(t, wechat.Config{BaseURLs: []string{test.host}, Timeout: time.Minute}), ctx)
			spans := exporter.GetSpans()
			if len(spans) != 1 {
				t.Fatalf("%d spans, want one", len(spans))
			}
			span := spans[0]
			if span.Name != "POST "+path || span.SpanKind != trace.SpanKindClient ||
				span.Parent.SpanID() != trace.SpanFromContext(ctx).SpanContext().SpanID() {
				t.Errorf("span %q of kind %v below %v", span.Name, span.SpanKind, span.Parent.SpanID())
			}
			if got := span.Status.Code == codes.Error; got != (test.failure != "") {
				t.Errorf("status %v", span.Status)
			}
			attributes := map[attribute.Key]string{}
			for _, a := range span.Attributes {
				attributes[a.Key] = a.Value.String()
			}
			if all := fmt.Sprint(span); strings.Contains(all, token[:16]) {
				t.Errorf("the span has the token: %s", all)
			}
			base, err := url.Parse(test.host)
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range map[attribute.Key]string{
				"http.request.method": http.MethodPost, "url.full": test.host + path, "server.address": base.Hostname(),
				"server.port": test.port, "http.response.status_code": test.status, "error.type": test.failure,
			} {
				if got := attributes[key]; got != want && (want != some || got == "" || got == "timeout") {
					t.Errorf("%s is %q, want %q", key, got, want)
				}
				if key == "server.port" && want == some && !strings.HasSuffix(test.host, ":"+attributes[key]) {
					t.Errorf("%s is %q for %s", key, attributes[key], test.host)
				}
			}
		})
	}
}

// A host that is too slow has a span that says so.
func TestSpanOfASlowHost(t *testing.T) {
	server := start(t, wechattest.Options{})
	server.Next(appid, wechattest.Fault{Hold: wechattest.NewHold()})
	ctx, exporter := traced(t)
	if _, err := call(newClient(t, wechat.Config{BaseURLs: []string{server.URL()}, Timeout: 50 * time.Millisecond}), ctx); err == nil {
		t.Fatal("there is a code")
	}
	for _, span := range exporter.GetSpans() {
		for _, a := range span.Attributes {
			if a.Key == "error.type" && a.Value.AsString() == "timeout" {
				return
			}
		}
	}
	t.Errorf("no span says that the time was up: %v", exporter.GetSpans())
}

// dropAbove records all spans but the one above.
type dropAbove struct{ sdktrace.Sampler }

func (d dropAbove) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Name == "above" {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	return d.Sampler.ShouldSample(p)
}

func TestNoSpanBelowOneThatIsNotRecorded(t *testing.T) {
	server := start(t, wechattest.Options{})
	ctx, exporter := traced(t, sdktrace.WithSampler(dropAbove{sdktrace.AlwaysSample()}))
	if _, err := call(newClient(t, wechat.Config{BaseURLs: []string{server.URL()}}), ctx); err != nil {
		t.Fatal(err)
	}
	if spans := exporter.GetSpans(); len(spans) != 0 {
		t.Errorf("spans %v", spans)
	}
}
