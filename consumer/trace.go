package consumer

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"preauth"
	"preauth/internal/batch"
	"preauth/repo"
)

// Step is a point on the way of one event or code through the service.
type Step struct {
	// Name says which point.
	Name StepName
	// AppID is the component_appid, "" where the event names no valid one.
	AppID string
	// Sequence is that of the token event in its stream.
	Sequence uint64
	// Revision is that of the code, from [StepCommitted] on.
	Revision uint64
	// Cause says why a code was made.
	Cause preauth.Cause
	// Class is that of the failure, from [StepFailed] on.
	Class preauth.Class
}

// StepName names a [Step].
type StepName string

// The steps, in the order in which an event takes them.
const (
	// StepReceived: a replica has taken the event from the stream.
	StepReceived StepName = "received"
	// StepSuperseded: a newer event makes this one pointless, or it was worked on before.
	StepSuperseded StepName = "superseded"
	// StepRepeated: the event announces again the token that the current code was made with.
	StepRepeated StepName = "repeated"
	// StepSpent: the code that an authorization names is spent.
	StepSpent StepName = "spent"
	// StepIssued: WeChat answered with a code.
	StepIssued StepName = "issued"
	// StepFailed: the failure is committed.
	StepFailed StepName = "failed"
	// StepCommitted: the code is committed.
	StepCommitted StepName = "committed"
	// StepAcknowledged: the acknowledgement is on its way to the stream.
	StepAcknowledged StepName = "acknowledged"
	// StepAnnounced: the stream has stored the announcement.
	StepAnnounced StepName = "announced"
	// StepCleared: the outbox row is deleted.
	StepCleared StepName = "cleared"
)

// tracer tells of the way of events, codes and requests: of each step to tests and to preauth-dev,
// and in spans to OpenTelemetry. A span is below the one in the context, and a step is an event of
// the span in which it happens. Neither has a token, a code, or anything of a claim.
type tracer struct {
	told  func(Step)
	spans trace.Tracer // nil if nobody wants spans, which then cost nothing
}

// newTracer returns a tracer. spans may be nil.
func newTracer(told func(Step), spans trace.TracerProvider) tracer {
	t := tracer{told: told}
	if spans != nil {
		t.spans = spans.Tracer("preauth/consumer", trace.WithSchemaURL(semconv.SchemaURL))
	}
	return t
}

// step tells of a step of the work that ctx belongs to.
func (t tracer) step(ctx context.Context, step Step) {
	t.told(step)
	span{trace.SpanFromContext(ctx)}.step(step)
}

// start begins a span of the given kind.
//
//nolint:spancheck // the caller ends it
func (t tracer) start(ctx context.Context, kind trace.SpanKind, name string, attributes ...attribute.KeyValue) (context.Context, span) {
	ctx, started := t.spans.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	return ctx, span{started}
}

// work begins the span of some work on a component.
func (t tracer) work(ctx context.Context, name, appid string) (context.Context, span) {
	if t.spans == nil {
		return ctx, span{}
	}
	return t.start(ctx, trace.SpanKindInternal, name, componentOf(appid))
}

// event begins the span of an event that came on the subject or, for a component, below it. It is
// below the span of the publisher.
func (t tracer) event(ctx context.Context, subject, appid, traceParent string) (context.Context, span) {
	if t.spans == nil {
		return ctx, span{}
	}
	return t.start(below(ctx, traceParent), trace.SpanKindConsumer, "process "+subject,
		append(destination(subject, appid), semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess)...)
}

// publishing begins the span of an announcement, below the span that the outbox has it from.
func (t tracer) publishing(ctx context.Context, subject string, a repo.Announcement) (context.Context, span) {
	if t.spans == nil {
		return ctx, span{}
	}
	return t.start(below(ctx, a.TraceParent), trace.SpanKindProducer, "publish "+subject,
		append(destination(subject, cmp.Or(a.AppID, preauth.NoAppID)), semconv.MessagingOperationName("publish"),
			semconv.MessagingOperationTypeSend, semconv.MessagingMessageID(a.MessageID))...)
}

// request begins the span of a request to a subject or below it. It is below the span of the
// requester. [answered] ends it.
func (t tracer) request(ctx context.Context, subject string, req micro.Request) context.Context {
	if t.spans == nil {
		return ctx
	}
	attributes := []attribute.KeyValue{semconv.RPCSystemNameKey.String("nats"), semconv.RPCMethod(subject)}
	if appid := preauth.AppIDFromSubject(subject, req.Subject()); preauth.CheckAppID(appid) == nil {
		attributes = append(attributes, componentOf(appid))
	}
	ctx, _ = t.start(below(ctx, preauth.TraceParent(nats.Header(req.Headers()))), trace.SpanKindServer, subject, attributes...)
	return ctx
}

// answered ends the span of a request. class is why the answer has no code, "" if that is not known.
func answered(ctx context.Context, code int, class preauth.Class) {
	s := trace.SpanFromContext(ctx)
	if !s.IsRecording() {
		return
	}
	status := strconv.Itoa(code)
	s.SetAttributes(semconv.RPCResponseStatusCode(status))
	if class != "" {
		s.SetAttributes(classOf(class))
	}
	if code >= preauth.StatusInternal {
		s.SetAttributes(semconv.ErrorTypeKey.String(status))
		s.SetStatus(codes.Error, "")
	}
	s.End()
}

// batched has a batch of the database's operation answer a question, in a span of the question's own:
// that of the operation would belong to many.
func batched[Q, A any](ctx context.Context, t tracer, operation string, b *batch.Batcher[Q, A], q Q) (A, error) {
	if t.spans == nil {
		return b.Do(ctx, q)
	}
	ctx, s := t.start(ctx, trace.SpanKindClient, operation, semconv.DBSystemNameMySQL, semconv.DBOperationName(operation))
	a, err := b.Do(ctx, q)
	s.end(err)
	return a, err
}

func componentOf(appid string) attribute.KeyValue {
	return attribute.String("preauth.component_appid", appid)
}

func classOf(class preauth.Class) attribute.KeyValue {
	return attribute.String("preauth.class", string(class))
}

// destination is what is said of a message on a subject or, for a component, below it.
func destination(subject, appid string) []attribute.KeyValue {
	name := subject
	if appid != "" {
		name = preauth.SubjectFor(subject, appid)
	}
	return []attribute.KeyValue{
		semconv.MessagingSystemKey.String("nats"), semconv.MessagingDestinationName(name),
		semconv.MessagingDestinationTemplate(preauth.SubjectFor(subject, "{component_appid}")),
	}
}

// below returns a context in which the span of the given trace context is the parent of others, or
// none if that is "".
func below(ctx context.Context, traceParent string) context.Context {
	return propagation.TraceContext{}.Extract(unspanned(ctx), propagation.MapCarrier{"traceparent": traceParent})
}

// unspanned returns a context without a span, for work that is not only that span's.
func unspanned(ctx context.Context) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return trace.ContextWithSpan(ctx, nil)
}

// span is a span that a tracer began, nil if nobody wants it.
type span struct{ trace.Span }

// end ends the span. err is why its work failed, nil if it did not.
func (s span) end(err error) {
	if s.Span == nil {
		return
	}
	if err != nil {
		s.SetAttributes(semconv.ErrorType(err))
		s.SetStatus(codes.Error, "")
	}
	s.End()
}

// step adds a step to the span.
func (s span) step(step Step) {
	if s.Span == nil || !s.IsRecording() {
		return
	}
	s.AddEvent(string(step.Name))
	s.SetAttributes(componentOf(step.AppID))
	if step.Sequence != 0 {
		s.SetAttributes(attribute.Int64("preauth.sequence", int64(step.Sequence)))
	}
	if step.Revision != 0 {
		s.SetAttributes(attribute.Int64("preauth.revision", int64(step.Revision)))
	}
	if step.Cause != "" {
		s.SetAttributes(attribute.String("preauth.cause", string(step.Cause)))
	}
	if step.Class != "" {
		s.SetAttributes(classOf(step.Class))
	}
	if step.Name == StepFailed {
		s.SetAttributes(semconv.ErrorTypeKey.String(string(step.Class)))
		s.SetStatus(codes.Error, "")
	}
}

// waited says for how many seconds the span's work had to wait for something, until now.
func (s span) waited(what string, since time.Time) {
	if s.Span != nil {
		s.SetAttributes(attribute.Float64("preauth.wait."+what, max(0, time.Since(since).Seconds())))
	}
}

// traceParent returns the trace context for what follows from the span's work, or instead if there is
// no span.
func (s span) traceParent(instead string) string {
	if s.Span == nil {
		return instead
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpan(context.Background(), s.Span), carrier)
	return carrier.Get("traceparent")
}

// outcomeStep is a step of the event or renewal that an outcome belongs to.
func outcomeStep(name StepName, o repo.Outcome) Step {
	step := Step{Name: name, AppID: o.AppID, Sequence: o.Token.Position.Sequence, Cause: o.Cause}
	if o.Failure != nil {
		step.Sequence, step.Class = o.Failure.StreamSequence, o.Failure.Class
	}
	return step
}

// announcementStep is a step of a message on its way to a stream.
func announcementStep(name StepName, a repo.Announcement) Step {
	step := Step{Name: name, AppID: a.AppID, Revision: revisionOf(a)}
	switch {
	case a.Failure != nil:
		step.Sequence, step.Class = a.Failure.StreamSequence, a.Failure.Class
	case a.Update != nil:
		step.Cause = a.Update.Cause
	}
	return step
}

// revisionOf returns the revision of an update, and 0 for anything else.
func revisionOf(a repo.Announcement) uint64 {
	if a.Update == nil {
		return 0
	}
	return a.Update.Revision
}
