package preauth_test

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
)

const authorizer = "wx8888888888888888"

func anAuthorizationEvent() preauth.AuthorizationEvent {
	return preauth.AuthorizationEvent{
		AppID: appID, PreAuthCode: preauth.NewSecret(code), AuthorizerAppID: authorizer, InfoType: preauth.InfoUpdateAuthorized,
		AuthorizedAt: at,
	}
}

func TestAuthorizationEventOnTheWire(t *testing.T) {
	event := anAuthorizationEvent()
	want := `{"component_appid":"` + appID + `","pre_auth_code":"` + code + `","authorizer_appid":"` + authorizer + `",` +
		`"info_type":"updateauthorized","authorized_at":"2026-03-14T09:26:53.589793Z"}`
	if got := string(event.Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, inSubject := range []string{"", appID} {
		got, err := preauth.ParseAuthorizationEvent(inSubject, nil, []byte(want), at.Add(time.Second))
		if err != nil || !reflect.DeepEqual(got, event) {
			t.Errorf("got %+v, %v, want %+v", got, err, event)
		}
	}
}

func TestParseAuthorizationEventTakes(t *testing.T) {
	const least = `{"pre_auth_code":"c","authorizer_appid":"wx2"}`
	with := func(members string) string { return strings.TrimSuffix(least, "}") + "," + members + "}" }
	tests := map[string]struct {
		header nats.Header
		body   string
		want   preauth.AuthorizationEvent // beside the least
	}{
		"the least":                {nil, least, preauth.AuthorizationEvent{AuthorizedAt: at}},
		"nulls":                    {nil, with(`"component_appid":null,"info_type":null,"authorized_at":null`), preauth.AuthorizationEvent{AuthorizedAt: at}},
		"members of the future":    {nil, with(`"v":[{}]`), preauth.AuthorizationEvent{AuthorizedAt: at}},
		"the first authorization":  {nil, with(`"info_type":"authorized"`), preauth.AuthorizationEvent{InfoType: "authorized", AuthorizedAt: at}},
		"a change of it":           {nil, with(`"info_type":"updateauthorized"`), preauth.AuthorizationEvent{InfoType: "updateauthorized", AuthorizedAt: at}},
		"a time":                   {nil, with(`"authorized_at":"2026-03-14T17:26:50+08:00"`), preauth.AuthorizationEvent{AuthorizedAt: time.Date(2026, time.March, 14, 9, 26, 50, 0, time.UTC)}},
		"by a clock that is ahead": {nil, with(`"authorized_at":"2026-03-14T09:26:54Z"`), preauth.AuthorizationEvent{AuthorizedAt: at}},
		"a trace":                  {nats.Header{"traceparent": {aTrace}}, least, preauth.AuthorizationEvent{AuthorizedAt: at, TraceParent: aTrace}},
		"a bad trace":              {nats.Header{"traceparent": {marker}}, least, preauth.AuthorizationEvent{AuthorizedAt: at}},
		"a binary CloudEvent":      {nats.Header{"CE-SpecVersion": {"1.0"}}, least, preauth.AuthorizationEvent{AuthorizedAt: at}},
		"a structured CloudEvent": {
			nats.Header{"Content-Type": {"application/cloudevents+json"}},
			`{"specversion":"1.0","authorized_at":"2026-03-14T09:00:00Z","data":` + least + `}`,
			preauth.AuthorizationEvent{AuthorizedAt: at},
		},
		"one without headers": {nil, `{"specversion":"1.0","info_type":"authorized","data":` + least + `}`, preauth.AuthorizationEvent{AuthorizedAt: at}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.want.AppID, test.want.PreAuthCode, test.want.AuthorizerAppID = appID, preauth.NewSecret("c"), "wx2"
			got, err := preauth.ParseAuthorizationEvent(appID, test.header, []byte(test.body), at.Add(999))
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestParseAuthorizationEventRefuses(t *testing.T) {
	good := string(anAuthorizationEvent().Encode())
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, changed, 1)
	}
	tests := map[string]struct{ body, says string }{
		"an empty body":            {``, "must be a JSON object"},
		"no code":                  {with(`"pre_auth_code"`, `"code"`), "set it to the push's PreAuthCode"},
		"a code too long":          {with(code, marker+strings.Repeat("c", preauth.MaxCode)), "pre_auth_code must have 1 to 512 bytes"},
		"a code as an array":       {with(`"`+code+`"`, `["`+code+`"]`), "pre_auth_code must be a string"},
		"two codes":                {with(`{`, `{"pre_auth_code":"`+code+`",`), "pre_auth_code appears twice"},
		"no authorizer":            {with(`"authorizer_appid"`, `"AuthorizerAppid"`), "authorizer_appid must be the appid of the account"},
		"an impossible authorizer": {with(authorizer, marker+"."), "authorizer_appid must be the appid of the account"},
		"an unauthorized push":     {with(`updateauthorized`, `unauthorized`), "publish no event for other pushes"},
		"an info_type made up":     {with(`updateauthorized`, marker), "info_type must be authorized or updateauthorized"},
		"a time as a number":       {with(`"2026-03-14T09:26:53.589793Z"`, `1773480413`), "authorized_at must be an RFC 3339 time such as"},
		"another component":        {with(appID, "wx1"), "the subject and the body name different components"},
		"a batch":                  {`{"specversion":"0.3","data":{}}`, "specversion of the CloudEvent must be 1.0"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseAuthorizationEvent(appID, nil, []byte(test.body), at)
			checkRefused(t, err, test.says)
			if got.AppID != "" && got.AppID != appID || !reflect.DeepEqual(got, preauth.AuthorizationEvent{AppID: got.AppID}) {
				t.Error("something was returned beside the error")
			}
		})
	}
	_, err := preauth.ParseAuthorizationEvent("", nil, []byte(`{"pre_auth_code":"c","authorizer_appid":"wx2"}`), at)
	checkRefused(t, err, "name the component in the body or as the last token of the subject")
}

func anAuthorized() preauth.Authorized {
	return preauth.Authorized{
		AppID: appID, ClaimID: "visit-17", Reference: "order 4711", ClaimedAt: at.Add(time.Minute), AuthorizerAppID: authorizer,
		InfoType: preauth.InfoAuthorized, AuthorizedAt: at.Add(2 * time.Minute), IssuedAt: at, ExpiresAt: at.Add(30 * time.Minute),
	}
}

func TestAuthorizedOnTheWire(t *testing.T) {
	tests := map[string]struct {
		authorized preauth.Authorized
		wire       string
	}{
		"a claim's code": {
			anAuthorized(),
			`{"component_appid":"` + appID + `","claim_id":"visit-17","reference":"order 4711","claimed_at":"2026-03-14T09:27:53.589793Z",` +
				`"authorizer_appid":"` + authorizer + `","info_type":"authorized","authorized_at":"2026-03-14T09:28:53.589793Z",` +
				`"issued_at":"2026-03-14T09:26:53.589793Z","expires_at":"2026-03-14T09:56:53.589793Z"}`,
		},
		"an announced one": {
			preauth.Authorized{AppID: appID, Revision: 42, AuthorizerAppID: authorizer, AuthorizedAt: at},
			`{"component_appid":"` + appID + `","revision":42,"authorizer_appid":"` + authorizer + `","authorized_at":"2026-03-14T09:26:53.589793Z"}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.authorized.Encode()); got != test.wire {
				t.Errorf("got  %s\nwant %s", got, test.wire)
			}
			got, err := preauth.ParseAuthorized([]byte(test.wire))
			if err != nil || got != test.authorized {
				t.Errorf("got %+v, %v, want %+v", got, err, test.authorized)
			}
		})
	}
}

func TestAuthorizedHeader(t *testing.T) {
	authorized := anAuthorized()
	want := nats.Header{
		"Nats-Msg-Id": {"authorized.17"}, "ce-id": {"authorized.17"}, "ce-specversion": {"1.0"}, "ce-type": {"preauth.authorized"},
		"ce-source": {"/preauth/test"}, "ce-subject": {appID}, "ce-time": {"2026-03-14T09:28:53.589793Z"},
		"ce-datacontenttype": {"application/json"}, "content-type": {"application/json"},
	}
	if got := authorized.Header("authorized.17", "/preauth/test"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	authorized.TraceParent = aTrace
	if got := authorized.Header("authorized.17", "/preauth/test")["traceparent"]; !reflect.DeepEqual(got, []string{aTrace}) {
		t.Errorf("traceparent is %q", got)
	}
}

func TestParseAuthorizedRefuses(t *testing.T) {
	good := string(anAuthorized().Encode())
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, changed, 1)
	}
	tests := map[string]struct{ body, says string }{
		"an empty body":         {``, "must be a JSON object"},
		"no component":          {with(`"component_appid"`, `"appid"`), "component_appid is missing"},
		"no authorizer":         {with(`"authorizer_appid"`, `"authorizer"`), "needs authorizer_appid and authorized_at"},
		"no time":               {with(`"authorized_at"`, `"at"`), "needs authorizer_appid and authorized_at"},
		"a claim id as a list":  {with(`"visit-17"`, `["`+marker+`"]`), "claim_id must be a string"},
		"a revision below 0":    {with(`{`, `{"revision":-1,`), "revision must be a whole number, 0 or more"},
		"an impossible appid":   {with(appID, marker+"."), "64 letters, digits"},
		"issued_at as a number": {with(`"2026-03-14T09:26:53.589793Z"`, `1`), "issued_at must be an RFC 3339 time such as"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseAuthorized([]byte(test.body))
			checkRefused(t, err, test.says)
			if got != (preauth.Authorized{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}

func TestAnnounceAuthorizationIsStoredByTheStream(t *testing.T) {
	nc := connect(t)
	events := stream(t, nc, jetstream.StreamConfig{Name: "AUTHORIZED", Subjects: []string{"component.authorized.>"}})
	event := anAuthorizationEvent()
	event.TraceParent = aTrace

	if err := newClient(t, nc).AnnounceAuthorization(t.Context(), event); err != nil {
		t.Fatal(err)
	}

	stored, err := events.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	named := preauth.AppIDFromSubject("component.authorized", stored.Subject)
	got, err := preauth.ParseAuthorizationEvent(named, stored.Header, stored.Data, at.Add(time.Minute))
	if err != nil || named != appID || !reflect.DeepEqual(got, event) {
		t.Errorf("on %s: got %+v, %v", stored.Subject, got, err)
	}
}

func TestAnnounceAuthorizationFails(t *testing.T) {
	nc := connect(t)
	client := newClient(t, nc)
	err := client.AnnounceAuthorization(t.Context(), anAuthorizationEvent())
	if !errors.Is(err, jetstream.ErrNoStreamResponse) || strings.Contains(err.Error(), marker) {
		t.Errorf("without a stream: %v", err)
	}
	events := stream(t, nc, jetstream.StreamConfig{Name: "AUTHORIZED", Subjects: []string{"component.authorized.>"}})
	for says, change := range map[string]func(*preauth.AuthorizationEvent){
		"64 letters, digits":               func(e *preauth.AuthorizationEvent) { e.AppID = ">" },
		"the push's PreAuthCode":           func(e *preauth.AuthorizationEvent) { e.PreAuthCode = preauth.Secret{} },
		"authorizer_appid must be":         func(e *preauth.AuthorizationEvent) { e.AuthorizerAppID = "" },
		"info_type must be":                func(e *preauth.AuthorizationEvent) { e.InfoType = "unauthorized" },
		"authorized_at must be in the yea": func(e *preauth.AuthorizationEvent) { e.AuthorizedAt = time.Unix(-1, 0) },
	} {
		bad := anAuthorizationEvent()
		change(&bad)
		checkRefused(t, client.AnnounceAuthorization(t.Context(), bad), says)
	}
	info, err := events.Info(t.Context())
	if err != nil || info.State.Msgs != 0 {
		t.Errorf("%d events were stored, %v", info.State.Msgs, err)
	}
}

func TestSubscribeAuthorized(t *testing.T) {
	nc := connect(t)
	announced, failures := make(chan preauth.Authorized, 1), make(chan error, 1)
	_, err := newClient(t, nc).SubscribeAuthorized(func(a preauth.Authorized) { announced <- a }, func(err error) { failures <- err })
	if err != nil {
		t.Fatal(err)
	}
	want := anAuthorized()
	want.TraceParent = aTrace

	if err := nc.Publish("preauth.authorized", []byte(`{"claim_id":"`+marker+`"}`)); err != nil {
		t.Fatal(err)
	}
	msg := &nats.Msg{Subject: "preauth.authorized", Header: want.Header("1", "/preauth/test"), Data: want.Encode()}
	if err := nc.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}

	checkRefused(t, receive(t, failures), "message on preauth.authorized: ")
	if got := receive(t, announced); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
