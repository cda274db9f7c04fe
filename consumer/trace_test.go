package consumer_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// spans are those that replicas of a test recorded.
type spans struct {
	*world
	*tracetest.InMemoryExporter
}

// record returns what has a replica record its spans. The test fails if one of them has a secret, or
// anything of a claim.
func (w *world) record() (spans, func(*setup)) {
	s := spans{w, tracetest.NewInMemoryExporter()}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(s))
	w.t.Cleanup(func() {
		text := fmt.Sprintf("%+v", s.GetSpans().Snapshots()) + fmt.Sprintf("%+v", s.GetSpans())
		w.containsNoSecret("a span", text)
		for _, private := range []string{"visitor", "order-17"} {
			if strings.Contains(text, private) {
				w.t.Errorf("a span has %q", private)
			}
		}
	})
	return s, func(s *setup) { s.cfg.Spans = provider }
}

// of waits until a trace has so many spans that have ended, and returns them as they began. Questions
// for the quota are left out: they are asked from time to time.
func (s spans) of(traceParent string, n int) []tracetest.SpanStub {
	s.t.Helper()
	var found []tracetest.SpanStub
	s.eventually(fmt.Sprintf("%d spans of the trace", n), func() bool {
		found = nil
		for _, span := range s.GetSpans() {
			if strings.Contains(traceParent, span.SpanContext.TraceID().String()) && !strings.HasSuffix(span.Name, "/quota/get") {
				found = append(found, span)
			}
		}
		return len(found) >= n
	})
	slices.SortStableFunc(found, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	return found
}

// shown are the attributes that describe shows, in this order. The others say where the servers of
// the test are, or how long something took.
var shown = []string{
	"error.type", "preauth.class", "http.response.status_code", "rpc.response.status_code", "preauth.revision",
}

// describe returns a trace as text: each span below its parent, with its kind, its attributes and
// its events.
func describe(found []tracetest.SpanStub) string {
	depth := map[trace.SpanID]int{}
	var text strings.Builder
	for _, span := range found {
		depth[span.SpanContext.SpanID()] = depth[span.Parent.SpanID()] + 1
		fmt.Fprintf(&text, "%s%s (%s)", strings.Repeat("  ", depth[span.Parent.SpanID()]), span.Name, span.SpanKind)
		for _, name := range shown {
			for _, attribute := range span.Attributes {
				if string(attribute.Key) == name {
					fmt.Fprintf(&text, " %s=%s", name, attribute.Value.String())
				}
			}
		}
		for i, event := range span.Events {
			fmt.Fprintf(&text, "%s%s", map[bool]string{true: ": ", false: ", "}[i == 0], event.Name)
		}
		text.WriteString("\n")
	}
	return text.String()
}

const traceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// traceParents subscribes to a subject and returns the trace contexts of what comes there.
func (w *world) traceParents(subject string) <-chan string {
	w.t.Helper()
	seen := make(chan string, 100)
	sub, err := w.nc.Subscribe(subject, func(msg *nats.Msg) { seen <- msg.Header.Get("traceparent") })
	if err == nil {
		w.t.Cleanup(func() { _ = sub.Unsubscribe() })
		err = w.nc.FlushWithContext(w.within())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return seen
}

// publishTraced publishes an event with the trace context of its publisher.
func (w *world) publishTraced(subject string, body []byte) {
	w.t.Helper()
	_, err := w.js.PublishMsg(w.within(), &nats.Msg{Subject: subject, Data: body, Header: nats.Header{"traceparent": {traceParent}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// check compares a trace with what it should be.
func (s spans) check(traceParent, want string) []tracetest.SpanStub {
	s.t.Helper()
	want = strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\t", "  ")
	found := s.of(traceParent, strings.Count(want, "\n"))
	if got := describe(found); got != want {
		s.t.Errorf("the trace is\n%s\nwant\n%s", got, want)
	}
	return found
}

// contextOf returns the trace context of a span.
func contextOf(span tracetest.SpanStub) string {
	return fmt.Sprintf("00-%s-%s-%s", span.SpanContext.TraceID(), span.SpanContext.SpanID(), span.SpanContext.TraceFlags())
}

// One token event is one trace, from the span of who published it to the update's header.
func TestOneEventIsOneTrace(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	spans, recorded := w.record()
	r := w.start(recorded).ready()
	updates := w.traceParents("preauth.updated")
	w.publishTraced("component.token.updated.wx1", preauth.TokenEvent{AppID: "wx1", Token: w.token("a")}.Encode())

	page, err := os.ReadFile("../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "<!-- trace of TestOneEventIsOneTrace -->\n\n```text\n")
	example, _, _ = strings.Cut(example, "```\n")
	r.await(consumer.StepCleared, "wx1", 1)
	r.stop() // after which nothing is added
	found := spans.check(traceParent, example)
	if parent := found[0].Parent; parent.SpanID().String() != "00f067aa0ba902b7" || !parent.IsRemote() {
		t.Errorf("the first span's parent is %s", parent.SpanID())
	}
	if got := next(w, updates); got != contextOf(found[5]) {
		t.Errorf("the update has %q, want the context of the span that published it", got)
	}
	for span, want := range map[int][]string{
		0: {
			"messaging.system=nats", "messaging.operation.name=process", "messaging.operation.type=process",
			"messaging.destination.name=component.token.updated.wx1", "messaging.destination.template=component.token.updated.{component_appid}",
			"preauth.component_appid=wx1", "preauth.cause=token", "preauth.revision=1", "preauth.sequence=1",
			"preauth.wait.stream=", "preauth.wait.component=",
		},
		3: {
			"http.request.method=POST", "url.full=" + w.wechat.URL() + "/cgi-bin/component/api_create_preauthcode",
			"server.address=127.0.0.1", "server.port=" + w.wechat.URL()[len("http://127.0.0.1:"):],
		},
		4: {"db.system.name=mysql", "db.operation.name=repo: save"},
		5: {
			"messaging.system=nats", "messaging.operation.name=publish", "messaging.operation.type=send", "messaging.message.id=wx1.1",
			"messaging.destination.name=preauth.updated.wx1", "messaging.destination.template=preauth.updated.{component_appid}",
			"preauth.component_appid=wx1", "preauth.cause=token", "preauth.revision=1",
		},
	} {
		text := ""
		for _, attribute := range found[span].Attributes {
			text += fmt.Sprintf("%s=%s\n", attribute.Key, attribute.Value.String())
		}
		for _, attribute := range want {
			if !strings.Contains(text, attribute) {
				t.Errorf("%s lacks %s:\n%s", found[span].Name, attribute, text)
			}
		}
	}
}

// An update that a process could not publish any more is published in the trace of its event.
func TestRelayedUpdateIsInTheTraceOfItsEvent(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.createTokenStream()
	spans, recorded := w.record()
	updates := w.traceParents("preauth.updated")
	w.publishTraced("component.token.updated.wx1", preauth.TokenEvent{AppID: "wx1", Token: w.token("a")}.Encode())
	w.crash(consumer.StepCommitted) // whose spans nobody gets

	w.start(recorded, redelivered)
	published := next(w, updates)
	var found tracetest.SpanStub
	w.eventually("it is published in a span", func() bool {
		i := slices.IndexFunc(spans.GetSpans(), func(s tracetest.SpanStub) bool { return contextOf(s) == published })
		if i >= 0 {
			found = spans.GetSpans()[i]
		}
		return i >= 0
	})
	if found.Name != "publish preauth.updated" || found.SpanContext.TraceID().String() != traceParent[3:35] {
		t.Errorf("it was published in the span %s of the trace %s", found.Name, found.SpanContext.TraceID())
	}
	if parent := found.Parent.SpanID().String(); parent == traceParent[36:52] {
		t.Error("its span is not below that of the process that was killed")
	}
}

// kinds returns the spans of a trace, each without what is specific to it, for a trace in which some
// are at the same time.
func kinds(found []tracetest.SpanStub) string {
	lines := strings.Split(strings.TrimRight(describe(found), "\n"), "\n")
	for i, line := range lines {
		lines[i], _, _ = strings.Cut(line, " (")
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// The trace of an authorization goes on to the code that replaces the spent one.
func TestAuthorizationIsOneTrace(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	spans, recorded := w.record()
	r := w.start(recorded, rarelyDue).ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	// The update that calls the code spent would not be published once its successor is saved.
	hold := wechattest.NewHold()
	w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
	w.publishTraced("component.authorized", preauth.AuthorizationEvent{AppID: "wx1", PreAuthCode: code, AuthorizerAppID: "wxa"}.Encode())
	r.await(consumer.StepCleared, "wx1", 2)
	hold.Release()
	const want = `      POST /cgi-bin/component/api_create_preauthcode
    issue
    publish preauth.updated
    repo: components
    repo: save
  publish preauth.authorized
  publish preauth.updated
  renew
  repo: spend
process component.authorized`
	if got := kinds(spans.of(traceParent, strings.Count(want, "\n")+1)); got != want {
		t.Errorf("the trace is\n%s", got)
	}
}

// A request is below the span of the requester, and what it waits for is below the request.
func TestTracesOfRequests(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	spans, recorded := w.record()
	r := w.start(recorded, oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.spares(r, "wx1", 1)
	w.wechat.Next("wx1", wechattest.Error(48001, "")) // no further spare
	for i, test := range []struct{ subject, body, want string }{
		{"preauth.lookup.wx1", "", `
preauth.lookup (server) rpc.response.status_code=200
`},
		{"preauth.lookup", "{", `
preauth.lookup (server) rpc.response.status_code=400
`},
		{"preauth.lookup.wx2", "", `
preauth.lookup (server) rpc.response.status_code=404
	repo: components (client)
`},
		{"preauth.claim.wx1", `{"claim_id":"visitor","reference":"order-17"}`, `
preauth.claim (server) rpc.response.status_code=200
	repo: claim (client)
	repo: claim (client)
`},
		{"preauth.status.wx1", "", `
preauth.status (server) rpc.response.status_code=200
	repo: status (client)
`},
	} {
		trace := fmt.Sprintf("00-%032x-00f067aa0ba902b7-01", i+1)
		w.ask(trace, test.subject, test.body)
		found := spans.check(trace, test.want)
		if parent := found[0].Parent.SpanID().String(); parent != "00f067aa0ba902b7" {
			t.Errorf("%s has the parent %s", found[0].Name, parent)
		}
	}
}

// ask sends a request with a trace context.
func (w *world) ask(traceParent, subject, body string) {
	w.t.Helper()
	msg := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{"traceparent": {traceParent}}}
	if _, err := w.nc.RequestMsgWithContext(w.within(), msg); err != nil {
		w.t.Fatal(err)
	}
}

// A code that a request waits for is made, and announced, in the request's trace.
func TestCodesOnDemandAreInTheTraceOfTheRequest(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	spans, recorded := w.record()
	r := w.start(recorded, rarelyDue, func(s *setup) { s.cfg.Now = c.Now }).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.ask("00-00000000000000000000000000000001-00f067aa0ba902b7-01", "preauth.claim.wx1", `{"claim_id":"visitor","reference":"order-17"}`)
	spans.check("00-00000000000000000000000000000001", `
preauth.claim (server) rpc.response.status_code=201: issued
	repo: claim (client)
	repo: claim (client)
	repo: components (client)
	issue (internal)
		POST /cgi-bin/component/api_create_preauthcode (client) http.response.status_code=200
	repo: insert claim (client)
`)
	c.advance(time.Minute)
	w.ask("00-00000000000000000000000000000002-00f067aa0ba902b7-01", "preauth.lookup.wx1", `{"min_ttl":1770}`)
	const want = `      POST /cgi-bin/component/api_create_preauthcode
    issue
    publish preauth.updated
    repo: components
    repo: save
  renew
  repo: components
  repo: components
  repo: lease
  repo: lease
preauth.lookup`
	if got := kinds(spans.of("00-00000000000000000000000000000002", strings.Count(want, "\n")+1)); got != want {
		t.Errorf("the trace is\n%s", got)
	}
}

// A failure is an error of each span that it belongs to, and the announcement of it is in the trace.
func TestTraceOfAFailure(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	spans, recorded := w.record()
	w.start(recorded, func(s *setup) { s.cfg.Delays.Operator = time.Hour }).ready()
	failures := w.traceParents("preauth.failed")
	w.wechat.Next("wx1", wechattest.HTTPStatus(502), wechattest.Error(48001, "no right, "+w.token("a").Reveal()))
	w.publishTraced("component.token.updated.wx1", preauth.TokenEvent{AppID: "wx1", Token: w.tokens[0]}.Encode())
	found := spans.check(traceParent, `
process component.token.updated (consumer) error.type=configuration preauth.class=configuration: received, failed, acknowledged
	repo: components (client)
	issue (internal) error.type=transient
		POST /cgi-bin/component/api_create_preauthcode (client) error.type=502 http.response.status_code=502
	issue (internal) error.type=configuration
		POST /cgi-bin/component/api_create_preauthcode (client) http.response.status_code=200
	repo: save (client)
	publish preauth.failed (producer) preauth.class=configuration: announced
`)
	for i, span := range found {
		if isError := slices.Contains([]int{0, 2, 3, 4}, i); (span.Status.Code == codes.Error) != isError {
			t.Errorf("the status of %s is %s", span.Name, span.Status.Code)
		}
	}
	if got := next(w, failures); got != contextOf(found[7]) {
		t.Errorf("the failure has %q", got)
	}
}

// A renewal and the making of spares begin traces of their own.
func TestTraceOfARenewal(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	spans, recorded := w.record()
	r := w.start(recorded, oneSpare).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	w.spares(r, "wx1", 1)
	updates := w.traceParents("preauth.updated")
	if _, err := w.database.Exec("UPDATE component SET due_at = '2020-01-01'"); err != nil {
		t.Fatal(err)
	}
	update := next(w, updates)
	found := spans.of(update, 6)
	if found[0].Name != "renew" || found[0].Parent.IsValid() || contextOf(found[5]) != update {
		t.Errorf("the trace of %s is\n%s", update, describe(found))
	}
	w.eventually("a trace of spares", func() bool {
		return slices.ContainsFunc(spans.GetSpans(), func(s tracetest.SpanStub) bool { return s.Name == "top up spares" && !s.Parent.IsValid() })
	})
}

// A publisher that does not want its trace recorded has it passed on, and a trace context that is not
// valid begins a trace.
func TestTracesThatNobodyRecords(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	spans, recorded := w.record()
	w.start(recorded).ready()
	updates := w.traceParents("preauth.updated")
	announce := func(traceParent string) string {
		t.Helper()
		_, err := w.js.PublishMsg(w.within(), &nats.Msg{
			Subject: "component.token.updated", Data: preauth.TokenEvent{AppID: "wx1", Token: w.token("a")}.Encode(),
			Header: nats.Header{"traceparent": {traceParent}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return next(w, updates)
	}
	if got := announce(traceParent[:53] + "00"); got[:36] != traceParent[:36] || got[53:] != "00" {
		t.Errorf("the update has %q", got)
	}
	if recorded := spans.GetSpans(); len(recorded) > 0 {
		t.Errorf("recorded are\n%s", describe(recorded))
	}
	if got := announce("nonsense"); got[:36] == traceParent[:36] || got[53:] != "01" {
		t.Errorf("the update has %q", got)
	}
}
