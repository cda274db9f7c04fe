package preauth_test

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"preauth"
)

func TestParseResolveRequest(t *testing.T) {
	for _, text := range []string{"c", code, strings.Repeat("c", preauth.MaxCode)} {
		got, err := preauth.ParseResolveRequest(preauth.ResolveRequest{PreAuthCode: preauth.NewSecret(text)}.Encode())
		if err != nil || got.PreAuthCode.Reveal() != text {
			t.Errorf("another code arrived: %v", err)
		}
	}
	tests := map[string]struct{ body, says string }{
		"an empty body":      {``, "must be a JSON object"},
		"no code":            {`{}`, "set it to the code to resolve"},
		"an empty code":      {`{"pre_auth_code":""}`, "set it to the code to resolve"},
		"a code too long":    {`{"pre_auth_code":"` + code + strings.Repeat("c", preauth.MaxCode+1-len(code)) + `"}`, "must have 1 to 512 bytes"},
		"a code as an array": {`{"pre_auth_code":["` + code + `"]}`, "pre_auth_code must be a string"},
		"two codes":          {`{"pre_auth_code":"` + code + `","pre_auth_code":"` + code + `"}`, "pre_auth_code appears twice"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := preauth.ParseResolveRequest([]byte(test.body))
			checkRefused(t, err, test.says)
		})
	}
}

func aResolved() preauth.Resolved {
	return preauth.Resolved{
		AppID: appID, ClaimID: "visit-17", Reference: "order 4711", ClaimedAt: at.Add(time.Minute), IssuedAt: at,
		ExpiresAt: at.Add(30 * time.Minute),
	}
}

func TestResolvedOnTheWire(t *testing.T) {
	tests := map[string]struct {
		resolved preauth.Resolved
		wire     string
	}{
		"a claim": {
			aResolved(),
			`{"component_appid":"` + appID + `","claim_id":"visit-17","reference":"order 4711","claimed_at":"2026-03-14T09:27:53.589793Z",` +
				`"issued_at":"2026-03-14T09:26:53.589793Z","expires_at":"2026-03-14T09:56:53.589793Z"}`,
		},
		"an announced code, spent": {
			preauth.Resolved{
				AppID: appID, Revision: 42, IssuedAt: at, ExpiresAt: at.Add(30 * time.Minute),
				AuthorizerAppID: authorizer, AuthorizedAt: at.Add(time.Minute),
			},
			`{"component_appid":"` + appID + `","revision":42,` +
				`"issued_at":"2026-03-14T09:26:53.589793Z","expires_at":"2026-03-14T09:56:53.589793Z",` +
				`"authorizer_appid":"` + authorizer + `","authorized_at":"2026-03-14T09:27:53.589793Z"}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.resolved.Encode()); got != test.wire {
				t.Errorf("got  %s\nwant %s", got, test.wire)
			}
			got, err := preauth.ParseResolved([]byte(test.wire))
			if err != nil || got != test.resolved {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestParseResolvedRefuses(t *testing.T) {
	tests := map[string]struct{ body, says string }{
		"no component":        {`{"claim_id":"visit-17"}`, "component_appid is missing"},
		"neither use":         {`{"component_appid":"` + appID + `"}`, "needs claim_id or revision"},
		"a claim id as null":  {`{"component_appid":"` + appID + `","claim_id":null,"revision":0}`, "needs claim_id or revision"},
		"a revision below 0":  {`{"component_appid":"` + appID + `","revision":-1}`, "revision must be a whole number, 0 or more"},
		"a time as a number":  {`{"component_appid":"` + appID + `","claim_id":"c","issued_at":1}`, "issued_at must be an RFC 3339 time such as"},
		"an impossible appid": {`{"component_appid":"` + marker + `.","claim_id":"c"}`, "64 letters, digits"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseResolved([]byte(test.body))
			checkRefused(t, err, test.says)
			if got != (preauth.Resolved{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}

func TestClientResolve(t *testing.T) {
	nc := connect(t)
	requests := answer(t, nc, "preauth.resolve", nil, aResolved().Encode())
	client := newClient(t, nc)

	got, err := client.Resolve(t.Context(), preauth.NewSecret(code))

	if err != nil || got != aResolved() {
		t.Errorf("got %+v, %v", got, err)
	}
	if sent, err := preauth.ParseResolveRequest(receive(t, requests).Data); err != nil || sent.PreAuthCode.Reveal() != code {
		t.Errorf("the service got another code, %v", err)
	}
	_, err = client.Resolve(t.Context(), preauth.Secret{})
	checkRefused(t, err, "set it to the code to resolve")
	if len(requests) > 0 {
		t.Error("a request without a code was sent")
	}
}

func TestClientResolveFails(t *testing.T) {
	nc := connect(t)
	header, body := answerOf(&preauth.Error{Code: preauth.StatusNotFound, Message: "never claimed"})
	answer(t, nc, "preauth.resolve", header, body)
	_, err := newClient(t, nc).Resolve(t.Context(), preauth.NewSecret(code))
	if failed, ok := errors.AsType[*preauth.Error](err); !ok || failed.Code != preauth.StatusNotFound || strings.Contains(err.Error(), marker) {
		t.Errorf("got %v", err)
	}

	other := connect(t)
	answer(t, other, "preauth.resolve", nil, []byte(`{"claim_id":"`+marker))
	_, err = newClient(t, other).Resolve(t.Context(), preauth.NewSecret(code))
	checkRefused(t, err, "truncated JSON")
}
