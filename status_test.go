package preauth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
)

func TestParseStatusRequest(t *testing.T) {
	for _, request := range []preauth.StatusRequest{
		{}, {AppID: appID}, {State: preauth.StateFailing, Prefix: "wx", After: appID}, {State: preauth.StateNoToken},
	} {
		got, err := preauth.ParseStatusRequest("", request.Encode())
		if err != nil || got != request {
			t.Errorf("%+v became %+v, %v", request, got, err)
		}
	}
	if got, err := preauth.ParseStatusRequest(appID, nil); err != nil || got.AppID != appID {
		t.Errorf("the subject alone: %+v, %v", got, err)
	}
	if got, err := preauth.ParseStatusRequest("", nil); err != nil || got != (preauth.StatusRequest{}) {
		t.Errorf("nothing: %+v, %v", got, err)
	}
	tests := map[string]struct{ body, says string }{
		"a filter for one component": {`{"component_appid":"` + appID + `","state":"valid"}`, "leave out state, prefix and after"},
		"an impossible component":    {`{"component_appid":"a.b"}`, "component_appid must be"},
		"an unknown state":           {`{"state":"no token"}`, "state must be valid, expiring, failing or no_token"},
		"an impossible prefix":       {`{"prefix":"%"}`, "prefix must be"},
		"an impossible after":        {`{"after":"~"}`, "after must be"},
		"a number for a state":       {`{"state":1}`, "state must be a string"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := preauth.ParseStatusRequest("", []byte(test.body))
			checkRefused(t, err, test.says)
		})
	}
}

func TestParseRenewRequest(t *testing.T) {
	for name, test := range map[string]struct{ appid, body string }{
		"in the subject": {appID, ""}, "in the body": {"", `{"component_appid":"` + appID + `"}`}, "in both": {appID, `{"component_appid":"` + appID + `"}`},
	} {
		if got, err := preauth.ParseRenewRequest(test.appid, []byte(test.body)); err != nil || got.AppID != appID {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, test := range map[string]struct{ appid, body, says string }{
		"nowhere":        {"", "", "component_appid is missing"},
		"in conflict":    {appID, `{"component_appid":"other"}`, "name different components"},
		"no JSON at all": {appID, `now`, "must be a JSON object"},
	} {
		_, err := preauth.ParseRenewRequest(test.appid, []byte(test.body))
		t.Run(name, func(t *testing.T) { checkRefused(t, err, test.says) })
	}
}

func aStatus() preauth.Status {
	return preauth.Status{
		AppID: appID, State: preauth.StateFailing, Revision: 42, Cause: preauth.CauseToken, IssuedAt: at, ExpiresAt: at.Add(30 * time.Minute),
		DueAt: at.Add(time.Minute), TokenExpiresAt: at.Add(time.Hour), Attempts: 2,
		Failure: &preauth.Failure{AppID: appID, Class: preauth.ClassQuota, ErrCode: 45009, Attempt: 2, OccurredAt: at},
		Advice:  preauth.ClassQuota.Advice(), Quota: &preauth.Quota{Limit: 10000},
	}
}

func TestStatusOnTheWire(t *testing.T) {
	const wire = `{"component_appid":"` + appID + `","state":"failing","revision":42,"cause":"token","issued_at":"2026-03-14T09:26:53.589793Z",` +
		`"expires_at":"2026-03-14T09:56:53.589793Z","due_at":"2026-03-14T09:27:53.589793Z","token_expires_at":"2026-03-14T10:26:53.589793Z",` +
		`"spares":0,"attempts":2,"failure":{"component_appid":"` + appID + `","class":"quota","errcode":45009,"attempt":2,"occurred_at":"2026-03-14T09:26:53.589793Z"},` +
		`"advice":"wait for midnight UTC+8, or have WeChat raise the quota","quota":{"limit":10000,"remaining":0}}`
	if got := string(aStatus().Encode()); got != wire {
		t.Errorf("got  %s\nwant %s", got, wire)
	}
	page := preauth.StatusPage{
		Summary: &preauth.Summary{Components: 1, Failing: 1, CodeExpiresAt: at, Outbox: 2, OutboxSince: at}, Components: []preauth.Status{aStatus()}, Next: appID,
	}
	got, err := preauth.ParseStatusPage(page.Encode())
	if err != nil || !reflect.DeepEqual(got, page) {
		t.Errorf("%+v became %+v, %v", page, got, err)
	}
	if got := string(preauth.StatusPage{}.Encode()); got != `{"components":[]}` {
		t.Errorf("an empty page is %s", got)
	}
}

// Each class has an advice, and one that a newer service sends has none.
func TestEveryClassHasAnAdvice(t *testing.T) {
	for _, class := range preauth.Classes() {
		if class.Advice() == "" {
			t.Errorf("%s has no advice", class)
		}
	}
	if got := preauth.Class("of a newer service").Advice(); got != "" {
		t.Errorf("an unknown class has the advice %q", got)
	}
}

// Replicas are found by their statistics, those of a service with another prefix are not, and without
// any the error says so.
func TestReplicas(t *testing.T) {
	nc := connect(t)
	client := newClient(t, nc)
	if _, err := client.Replicas(t.Context()); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("without a replica: %v", err)
	}
	replica := func(version, subject string, says preauth.Replica) {
		service, err := micro.AddService(nc, micro.Config{
			Name: preauth.ServiceName, Version: version,
			StatsHandler: func(e *micro.Endpoint) any {
				if e.Name != "status" {
					return nil
				}
				return json.RawMessage(says.Encode())
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = service.Stop() })
		for name, on := range map[string]string{"lookup": "preauth.lookup", "status": subject} {
			if err := service.AddEndpoint(name, micro.HandlerFunc(func(micro.Request) {}), micro.WithEndpointSubject(on)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ready := preauth.Replica{Ready: true, Codes: 3, Tokens: 4, Quota: &preauth.Quota{Limit: 100, Remaining: 7}}
	waiting := preauth.Replica{Reasons: []string{"MySQL: the server is \"away\""}, Lag: 12}
	replica("1.0.0", "preauth.status", ready)
	replica("2.0.0", "preauth.status", waiting)
	replica("3.0.0", "acme.preauth.status", ready)
	got, err := client.Replicas(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b preauth.Replica) int { return strings.Compare(a.Version, b.Version) })
	for i, want := range []preauth.Replica{ready, waiting} {
		if i >= len(got) {
			t.Fatalf("%d replicas, want 2", len(got))
		}
		if got[i].ID == "" || time.Since(got[i].StartedAt) > patience {
			t.Errorf("replica %q was started at %v", got[i].ID, got[i].StartedAt)
		}
		want.ID, want.StartedAt, want.Version = got[i].ID, got[i].StartedAt, fmt.Sprintf("%d.0.0", i+1)
		if !reflect.DeepEqual(got[i], want) {
			t.Errorf("got  %+v\nwant %+v", got[i], want)
		}
	}
	if len(got) != 2 {
		t.Errorf("%d replicas, want 2", len(got))
	}
}
