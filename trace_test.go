package preauth_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
)

const aTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// A message that has no headers yet gets them.
func TestAddTraceParentToNoHeaders(t *testing.T) {
	if got := preauth.TraceParent(preauth.AddTraceParent(nil, aTrace)); got != aTrace {
		t.Errorf("got %q", got)
	}
	header := nats.Header{"Kept": {"value"}}
	if got := preauth.AddTraceParent(header, aTrace); got.Get("Kept") != "value" || preauth.TraceParent(got) != aTrace {
		t.Errorf("the headers are %v", got)
	}
	if got := preauth.AddTraceParent(nil, "nonsense"); got != nil {
		t.Errorf("got %v", got)
	}
}

// An event has the trace context of its headers, if that is valid, and is never refused because of
// it.
func TestTraceParentOfAnEvent(t *testing.T) {
	const other = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00"
	tests := map[string]struct {
		header nats.Header
		want   string
	}{
		"none":                       {nats.Header{}, ""},
		"a valid one":                {nats.Header{"traceparent": {aTrace}}, aTrace},
		"as Go's net/http writes it": {nats.Header{"Traceparent": {aTrace}}, aTrace},
		"beside a CloudEvent's":      {nats.Header{"ce-traceparent": {other}, "traceparent": {aTrace}}, aTrace},
		"a later version":            {nats.Header{"traceparent": {"cc" + aTrace[2:]}}, "cc" + aTrace[2:]},
		"two":                        {nats.Header{"traceparent": {aTrace, other}}, ""},
		"two in two cases":           {nats.Header{"traceparent": {aTrace}, "TraceParent": {other}}, ""},
		"an empty one":               {nats.Header{"traceparent": {""}}, ""},
		"in capitals":                {nats.Header{"traceparent": {strings.ToUpper(aTrace)}}, ""},
		"a forbidden version":        {nats.Header{"traceparent": {"ff" + aTrace[2:]}}, ""},
		"no trace id":                {nats.Header{"traceparent": {"00-00000000000000000000000000000000-b7ad6b7169203331-01"}}, ""},
		"no parent id":               {nats.Header{"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"}}, ""},
		"a field too many":           {nats.Header{"traceparent": {aTrace + "-00"}}, ""},
		"a field too long":           {nats.Header{"traceparent": {aTrace + "0"}}, ""},
		"white space":                {nats.Header{"traceparent": {" " + aTrace[1:]}}, ""},
		"no digits":                  {nats.Header{"traceparent": {"00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01"}}, ""},
		"a secret":                   {nats.Header{"traceparent": {token}}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			event, err := preauth.ParseTokenEvent(appID, test.header, []byte(`{"component_access_token":"t"}`), at)
			if err != nil || event.TraceParent != test.want {
				t.Errorf("got %q, %v, want %q", event.TraceParent, err, test.want)
			}
		})
	}
}

func TestTraceParentOfAnUpdate(t *testing.T) {
	update := anUpdate()
	update.TraceParent = aTrace
	if got := update.Header("/preauth/test")["traceparent"]; !reflect.DeepEqual(got, []string{aTrace}) {
		t.Errorf("the header is %q", got)
	}
	if body := string(update.Encode()); strings.Contains(body, aTrace) {
		t.Errorf("the body has it: %s", body)
	}
	update.TraceParent = "00-x\r\nNats-Msg-Id: 1"
	if got, ok := update.Header("/preauth/test")["traceparent"]; ok {
		t.Errorf("the header is %q", got)
	}

	nc := connect(t)
	updates := make(chan preauth.Update, 1)
	if _, err := newClient(t, nc).Subscribe(func(u preauth.Update) { updates <- u }, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	update.TraceParent = aTrace
	if err := nc.PublishMsg(&nats.Msg{Subject: "preauth.updated", Header: update.Header("/preauth/test"), Data: update.Encode()}); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, updates); got.TraceParent != aTrace {
		t.Errorf("a subscriber gets %q", got.TraceParent)
	}
}

func TestAnnounceSendsTheTraceParent(t *testing.T) {
	nc := connect(t)
	tokens := stream(t, nc, jetstream.StreamConfig{Name: "TOKENS", Subjects: []string{"component.token.updated.>"}})
	client := newClient(t, nc)
	for i, trace := range []string{aTrace, "not one"} {
		event := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token), IssuedAt: at, ExpiresAt: at.Add(time.Hour), TraceParent: trace}
		if err := client.Announce(t.Context(), event); err != nil {
			t.Fatal(err)
		}
		stored, err := tokens.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if got := stored.Header.Values("traceparent"); trace == aTrace && !reflect.DeepEqual(got, []string{aTrace}) || trace != aTrace && len(got) > 0 {
			t.Errorf("for %q the event has %q", trace, got)
		}
	}
}

// A client that knows the trace context of a context sends it with requests, and with events that
// have none.
func TestClientSendsTheTraceParent(t *testing.T) {
	nc := connect(t)
	tokens := stream(t, nc, jetstream.StreamConfig{Name: "TOKENS", Subjects: []string{"component.token.updated.>"}})
	type key struct{}
	client, err := preauth.NewClient(nc, preauth.WithTraceParent(func(ctx context.Context) string {
		text, _ := ctx.Value(key{}).(string)
		return text
	}))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan nats.Header, 1)
	sub, err := nc.Subscribe("preauth.lookup.>", func(msg *nats.Msg) {
		asked <- msg.Header
		_ = msg.Respond(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	const own = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00"
	for i, test := range []struct{ ofContext, ofEvent, asked, announced string }{
		{aTrace, "", aTrace, aTrace},
		{aTrace, own, aTrace, own},
		{"", "", "", ""},
		{"not one", "", "", ""},
	} {
		ctx := context.WithValue(t.Context(), key{}, test.ofContext)
		_, _ = client.Lookup(ctx, preauth.LookupRequest{AppID: appID}) // which has no answer
		if got := preauth.TraceParent(receive(t, asked)); got != test.asked {
			t.Errorf("the request has %q, want %q", got, test.asked)
		}
		event := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token), IssuedAt: at, ExpiresAt: at.Add(time.Hour), TraceParent: test.ofEvent}
		if err := client.Announce(ctx, event); err != nil {
			t.Fatal(err)
		}
		stored, err := tokens.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if got := preauth.TraceParent(stored.Header); got != test.announced {
			t.Errorf("the event has %q, want %q", got, test.announced)
		}
	}
}
