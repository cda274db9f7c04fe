package preauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
)

// respond answers all requests on a subject with the same body, and passes them on.
func respond(t *testing.T, nc *nats.Conn, subject string, body []byte) <-chan *nats.Msg {
	t.Helper()
	requests := make(chan *nats.Msg, 8)
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) { requests <- m; _ = m.Respond(body) }); err != nil {
		t.Fatal(err)
	}
	return requests
}

// statusCalls are the client's calls that return the status of one component, by their subjects.
func statusCalls(client *preauth.Client) map[string]func(context.Context, string) (preauth.Status, error) {
	return map[string]func(context.Context, string) (preauth.Status, error){"preauth.status": client.Status, "preauth.renew": client.Renew}
}

func TestStatusAndRenew(t *testing.T) {
	nc := connect(t)
	client := newClient(t, nc)
	for subject, call := range statusCalls(client) {
		operation := strings.TrimPrefix(subject, "preauth.")
		if _, err := call(t.Context(), appID); !errors.Is(err, nats.ErrNoResponders) || !strings.HasPrefix(err.Error(), "preauth: "+operation+": ") {
			t.Errorf("%s without a service: %v", subject, err)
		}
		respond(t, nc, subject+"."+appID, aStatus().Encode())
		got, err := call(t.Context(), appID)
		if want := aStatus(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", subject, got, err, want)
		}
		respond(t, nc, subject+".wx1", aStatus().Encode())
		_, err = call(t.Context(), "wx1")
		checkRefused(t, err, "about another component")
		respond(t, nc, subject+".wx2", []byte(`{"component_appid":"`+marker))
		_, err = call(t.Context(), "wx2")
		checkRefused(t, err, "truncated JSON")
		refused := respond(t, nc, subject+".>", nil)
		_, err = call(t.Context(), "a.b")
		checkRefused(t, err, "component_appid must be 1 to 64 letters")
		if len(refused) > 0 {
			t.Error("an impossible request was sent")
		}
	}
}

func TestStatusPage(t *testing.T) {
	nc := connect(t)
	client := newClient(t, nc)
	request := preauth.StatusRequest{State: preauth.StateFailing, Prefix: "wx", After: "wx1"}
	if _, err := client.StatusPage(t.Context(), request); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("without a service: %v", err)
	}
	page := preauth.StatusPage{Components: []preauth.Status{aStatus(), {AppID: "wx1", State: preauth.StateNoToken}}}
	requests := respond(t, nc, "preauth.status", page.Encode())
	got, err := client.StatusPage(t.Context(), request)
	if err != nil || !reflect.DeepEqual(got, page) {
		t.Errorf("%+v, %v; want %+v", got, err, page)
	}
	if sent := receive(t, requests); string(sent.Data) != `{"state":"failing","prefix":"wx","after":"wx1"}` {
		t.Errorf("the request was %s", sent.Data)
	}
	for says, bad := range map[string]preauth.StatusRequest{
		"use Client.Status":           {AppID: appID},
		"component_appid must be":     {AppID: "a.b"},
		"state must be valid":         {State: "well"},
		"leave out state, prefix and": {AppID: appID, Prefix: "wx"},
	} {
		_, err := client.StatusPage(t.Context(), bad)
		checkRefused(t, err, says)
	}
	if len(requests) > 0 {
		t.Error("an impossible request was sent")
	}
}

func TestStatusPageThatIsMalformed(t *testing.T) {
	nc := connect(t)
	respond(t, nc, "preauth.status", []byte(`{"components":{}}`))
	_, err := newClient(t, nc).StatusPage(t.Context(), preauth.StatusRequest{})
	checkRefused(t, err, "components must be a list of objects")
}

func TestClaimThatIsMalformed(t *testing.T) {
	nc := connect(t)
	respond(t, nc, "preauth.claim."+appID, []byte(`{"pre_auth_code":"`+code))
	_, err := newClient(t, nc).Claim(t.Context(), preauth.ClaimRequest{AppID: appID})
	checkRefused(t, err, "truncated JSON")
}

func TestMalformedStatuses(t *testing.T) {
	const some = `"component_appid":"` + appID + `","state":"valid"`
	for body, says := range map[string]string{
		`{"state":"valid"}`:                         "component_appid is missing",
		`{"component_appid":"` + appID + `"}`:       "needs a state",
		`{` + some + `,"failure":{"class":1}}`:      "class must be a string",
		`{` + some + `,"failure":7}`:                "must be a JSON object",
		`{` + some + `,"revision":-1}`:              "revision must be",
		`{` + some + `,"quota":"` + marker + `"}`:   "quota must be an object",
		`{` + some + `,"due_at":"` + marker + `"}`:  "due_at must be an RFC 3339 time",
		`{"component_appid":"a b","state":"valid"}`: "component_appid must be",
	} {
		_, err := preauth.ParseStatus([]byte(body))
		checkRefused(t, err, says)
		_, err = preauth.ParseStatusPage([]byte(`{"components":[` + body + `]}`))
		checkRefused(t, err, says)
	}
	_, err := preauth.ParseStatusPage([]byte(`{"components":[],"next":"` + marker + `."}`))
	checkRefused(t, err, "next must be")
}

func TestStatusWithoutAFailure(t *testing.T) {
	want := preauth.Status{AppID: appID, State: preauth.StateValid}
	for _, body := range []string{
		string(want.Encode()), `{"component_appid":"` + appID + `","state":"valid","failure":null,"quota":null}`,
	} {
		if got, err := preauth.ParseStatus([]byte(body)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
}

// A body of one byte is a body, and not the absence of one.
func TestRequestsOfOneByte(t *testing.T) {
	for name, parse := range map[string]func([]byte) error{
		"look-up": func(body []byte) error { _, err := preauth.ParseLookupRequest(appID, body); return err },
		"claim":   func(body []byte) error { _, err := preauth.ParseClaimRequest(appID, body); return err },
		"status":  func(body []byte) error { _, err := preauth.ParseStatusRequest(appID, body); return err },
		"renew":   func(body []byte) error { _, err := preauth.ParseRenewRequest(appID, body); return err },
	} {
		t.Run(name, func(t *testing.T) { checkRefused(t, parse([]byte("7")), "must be a JSON object") })
	}
}

// Names come from token services, and messages from WeChat. None of it breaks the JSON of a body.
func TestBodiesAreUTF8(t *testing.T) {
	for _, text := range []string{"\x80", "\xff", "a\xc3", "预\x80授"} {
		body := preauth.Failure{AppID: appID, Class: preauth.ClassUnknown, ErrMsg: text, OccurredAt: at}.Encode()
		if !utf8.Valid(body) || !json.Valid(body) {
			t.Errorf("%q became %q", text, body)
		}
	}
}

// The answer that is encoded ahead is the same as the one that is not.
func TestAnswerAheadOfALookup(t *testing.T) {
	lookup := aLookup()
	lookup.Links = preauth.Links{}
	if got, want := string(aLookup().Answer().Append([]byte("> "), lookup.ExpiresIn)), "> "+string(lookup.Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEveryStateCanBeAskedFor(t *testing.T) {
	if n := len(preauth.States()); n != 4 {
		t.Errorf("%d states", n)
	}
	for _, state := range preauth.States() {
		request := preauth.StatusRequest{State: state}
		if got, err := preauth.ParseStatusRequest("", request.Encode()); err != nil || got != request {
			t.Errorf("%s: %+v, %v", state, got, err)
		}
	}
}

func TestReplicaOnTheWire(t *testing.T) {
	for want, wire := range map[*preauth.Replica]string{
		{Ready: true, Codes: 1}:                   `{"ready":true,"codes":1,"tokens":0}`,
		{Reasons: []string{"one", "two"}, Lag: 2}: `{"ready":false,"reasons":["one","two"],"codes":0,"tokens":0,"lag":2}`,
	} {
		if got := string(want.Encode()); got != wire {
			t.Errorf("got  %s\nwant %s", got, wire)
		}
		if got, err := preauth.ParseReplica([]byte(wire)); err != nil || !reflect.DeepEqual(got, *want) {
			t.Errorf("%s became %+v, %v", wire, got, err)
		}
	}
	if got, err := preauth.ParseReplica([]byte(`{"ready":true,"reasons":[]}`)); err != nil || got.Reasons != nil {
		t.Errorf("no reasons: %+v, %v", got, err)
	}
	_, err := preauth.ParseReplica([]byte(`{"ready":true,"reasons":"` + marker + `"}`))
	checkRefused(t, err, "reasons must be a list of strings")
}

// stats answers the question for statistics as a micro service with one endpoint does.
func stats(t *testing.T, nc *nats.Conn, all ...string) {
	t.Helper()
	_, err := nc.Subscribe("$SRV.STATS."+preauth.ServiceName, func(m *nats.Msg) {
		for _, one := range all {
			_ = m.Respond([]byte(one))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// statsOf returns the statistics of a replica.
func statsOf(t *testing.T, id string, started time.Time, data string) string {
	t.Helper()
	body, err := json.Marshal(micro.Stats{
		ServiceIdentity: micro.ServiceIdentity{Name: preauth.ServiceName, ID: id, Version: "1.0.0"}, Started: started,
		Endpoints: []*micro.EndpointStats{nil, {Subject: "preauth.status", Data: json.RawMessage(data)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestReplicasAreSortedByTheirStart(t *testing.T) {
	nc := connect(t)
	const ready = `{"ready":true}`
	stats(t, nc, statsOf(t, "c", at.Add(time.Second), ready), statsOf(t, "b", at, ready), statsOf(t, "d", at.Add(-time.Second), ready),
		statsOf(t, "a", at, ready), statsOf(t, "old", at, `null`))
	for name, ctx := range map[string]context.Context{"without a deadline": context.Background(), "with one": t.Context()} {
		if name == "with one" {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, patience)
			defer cancel()
		}
		before := nc.NumSubscriptions()
		var got []string
		for range 20 { // a busy machine may take longer than Replicas waits, but not each time
			replicas, err := newClient(t, nc).Replicas(ctx)
			if err != nil {
				t.Fatal(err)
			}
			got = nil
			for _, replica := range replicas {
				got = append(got, replica.ID)
			}
			if len(got) == 4 {
				break
			}
		}
		if !slices.Equal(got, []string{"d", "a", "b", "c"}) {
			t.Errorf("%s: %q", name, got)
		}
		if after := nc.NumSubscriptions(); after != before {
			t.Errorf("%s: %d subscriptions are left", name, after-before)
		}
	}
}

// Replicas answer when they can, and each has the time that the one before it had. A busy machine may
// take longer than Replicas waits, but not each time.
func TestReplicasMayTakeAMoment(t *testing.T) {
	nc := connect(t)
	_, err := nc.Subscribe("$SRV.STATS."+preauth.ServiceName, func(m *nats.Msg) {
		<-time.After(200 * time.Millisecond)
		_ = m.Respond([]byte(statsOf(t, "a", at, `{"ready":true}`)))
		<-time.After(50 * time.Millisecond)
		_ = m.Respond([]byte(statsOf(t, "b", at, `{"ready":true}`)))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		replicas, err := newClient(t, nc).Replicas(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(replicas) == 2 {
			return
		}
	}
	t.Error("the second replica was never waited for")
}

// What comes after the context's end is not looked at, or a service whose answers never end would
// hold up the caller.
func TestReplicasEndWithTheContext(t *testing.T) {
	nc := connect(t)
	// Until the client has the first answer before the context ends.
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		ctx, cancel := context.WithCancel(t.Context())
		sub, err := nc.Subscribe("$SRV.STATS."+preauth.ServiceName, func(m *nats.Msg) {
			_ = m.Respond([]byte(statsOf(t, "a", at, `{"ready":true}`)))
			<-time.After(pause)
			cancel()
			_ = m.Respond([]byte(marker))
		})
		if err != nil {
			t.Fatal(err)
		}
		replicas, err := newClient(t, nc).Replicas(ctx)
		_ = sub.Unsubscribe()
		if errors.Is(err, context.Canceled) {
			continue
		}
		if err != nil || len(replicas) != 1 {
			t.Errorf("%+v, %v", replicas, err)
		}
		cancel()
		return
	}
}

func TestReplicasFail(t *testing.T) {
	for name, test := range map[string]struct{ body, says string }{
		"no JSON":              {marker, "not JSON as of a NATS micro service"},
		"a malformed replica":  {statsOf(t, "a", at, `{"ready":"`+marker+`"}`), "ready must be true or false"},
		"a replica of no form": {statsOf(t, "a", at, `7`), "must be a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			nc := connect(t)
			stats(t, nc, test.body)
			_, err := newClient(t, nc).Replicas(t.Context())
			checkRefused(t, err, test.says)
		})
	}
	t.Run("a closed connection", func(t *testing.T) {
		nc := connect(t)
		client := newClient(t, nc)
		nc.Close()
		if _, err := client.Replicas(t.Context()); !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody in time", func(t *testing.T) {
		nc := connect(t)
		stats(t, nc)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := newClient(t, nc).Replicas(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody, and no deadline", func(t *testing.T) {
		nc := connect(t)
		stats(t, nc)
		if _, err := newClient(t, nc).Replicas(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
