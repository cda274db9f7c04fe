package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"preauth"
	"preauth/internal/batch"
	"preauth/repo"
)

const publisherSpan = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// request is a request without a body.
type request struct {
	micro.Request

	header micro.Headers
}

func (request) Subject() string { return "preauth.lookup.wx0123456789abcdef" }

func (r request) Headers() micro.Headers { return r.header }

// traceRequest traces a look-up that memory answers.
func traceRequest(t tracer, req micro.Request) {
	answered(t.request(context.Background(), "preauth.lookup", req), 200, "")
}

// traceEvent traces a token event all its way.
func traceEvent(t tracer, reads *batch.Batcher[string, repo.Component], saves *batch.Batcher[string, repo.Result], update *preauth.Update) {
	ctx, event := t.event(context.Background(), "component.token.updated", update.AppID, publisherSpan)
	step := Step{Name: StepReceived, AppID: update.AppID, Sequence: 1, Cause: preauth.CauseToken}
	event.step(step)
	event.waited("component", time.Now())
	_, _ = batched(ctx, t, "repo: components", reads, update.AppID)
	_, issuing := t.work(ctx, "issue", update.AppID)
	issuing.end(nil)
	t.step(ctx, step)
	_, _ = batched(ctx, t, "repo: save", saves, update.AppID)
	t.step(ctx, step)
	event.step(step)
	event.end(nil)
	ctx, publishing := t.publishing(unspanned(ctx), "preauth.updated", repo.Announcement{
		MessageID: "wx0123456789abcdef.1", AppID: update.AppID, Update: update, TraceParent: event.traceParent(publisherSpan),
	})
	_ = publishing.traceParent(publisherSpan)
	t.step(ctx, step)
	publishing.end(nil)
}

// Without a provider, a look-up's spans allocate nothing.
func TestAllocationsOfSpansThatNobodyWants(t *testing.T) {
	var req micro.Request = request{header: micro.Headers{"traceparent": {publisherSpan}}}
	none := newTracer(func(Step) {}, nil)
	if got := testing.AllocsPerRun(1000, func() { traceRequest(none, req) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func BenchmarkSpans(b *testing.B) {
	var req micro.Request = request{header: micro.Headers{"traceparent": {publisherSpan}}}
	reads := batch.New(1, 1, func(context.Context, []string) ([]repo.Component, error) { return make([]repo.Component, 1), nil })
	saves := batch.New(1, 1, func(context.Context, []string) ([]repo.Result, error) { return make([]repo.Result, 1), nil })
	update := &preauth.Update{AppID: "wx0123456789abcdef", Revision: 1}
	for name, spans := range map[string]trace.TracerProvider{
		"none":     nil,
		"dropped":  sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())),
		"recorded": sdktrace.NewTracerProvider(),
	} {
		t := newTracer(func(Step) {}, spans)
		b.Run("look-up/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				traceRequest(t, req)
			}
		})
		b.Run("event/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				traceEvent(t, reads, saves, update)
			}
		})
	}
	b.Run("event/untraced", func(b *testing.B) { // what the batches cost
		b.ReportAllocs()
		for b.Loop() {
			_, _ = reads.Do(b.Context(), update.AppID)
			_, _ = saves.Do(b.Context(), update.AppID)
		}
	})
}
