package preauth_test

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

func TestClaimRequestOnTheWire(t *testing.T) {
	tests := map[string]struct {
		request preauth.ClaimRequest
		wire    string
	}{
		"the least": {preauth.ClaimRequest{AppID: appID}, `{"component_appid":"` + appID + `"}`},
		"everything": {
			preauth.ClaimRequest{
				AppID: appID, ClaimID: "visit-17", Reference: "order 4711 <张>", MinTTL: 5 * time.Minute,
				LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/?a=1&b=2", AuthType: 3, BizAppID: "wx1", CategoryIDList: "99"},
			},
			`{"component_appid":"` + appID + `","claim_id":"visit-17","reference":"order 4711 <张>","min_ttl":300,` +
				`"redirect_uri":"https://example.com/?a=1&b=2","auth_type":3,"biz_appid":"wx1","category_id_list":"99"}`,
		},
		"the longest texts": {
			preauth.ClaimRequest{
				AppID: appID, ClaimID: strings.Repeat("号", preauth.MaxClaimID), Reference: strings.Repeat("考", preauth.MaxReference),
			},
			`{"component_appid":"` + appID + `","claim_id":"` + strings.Repeat("号", 128) + `","reference":"` + strings.Repeat("考", 256) + `"}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.request.Encode()); got != test.wire {
				t.Errorf("got  %s\nwant %s", got, test.wire)
			}
			for _, inSubject := range []string{"", appID} {
				got, err := preauth.ParseClaimRequest(inSubject, []byte(test.wire))
				if err != nil || got != test.request {
					t.Errorf("got %+v, %v", got, err)
				}
			}
		})
	}
}

func TestParseClaimRequestTakes(t *testing.T) {
	for name, body := range map[string]string{
		"an empty body":  ``,
		"nulls":          `{"component_appid":null,"claim_id":null,"reference":null,"min_ttl":null}`,
		"unknown ones":   `{"Claim_ID":"other","min_revision":-1}`,
		"an empty claim": `{"claim_id":"","reference":""}`,
	} {
		got, err := preauth.ParseClaimRequest(appID, []byte(body))
		if err != nil || got != (preauth.ClaimRequest{AppID: appID}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	got, err := preauth.ParseClaimRequest("", preauth.ClaimRequest{AppID: appID, MinTTL: time.Second + 1}.Encode())
	if err != nil || got.MinTTL != 2*time.Second {
		t.Errorf("min_ttl is not rounded up: %v, %v", got.MinTTL, err)
	}
}

func TestParseClaimRequestRefuses(t *testing.T) {
	type bad struct{ appid, body, says string }
	tests := map[string]bad{
		"no component":              {"", ``, "name the component"},
		"an impossible subject":     {"wx." + marker, ``, "64 letters, digits"},
		"subject and body disagree": {appID, `{"component_appid":"wx` + marker + `"}`, "different components"},
		"a claim id too long":       {appID, `{"claim_id":"` + strings.Repeat("号", 129) + `"}`, "claim_id has 129 characters: the limit is 128"},
		"a claim id of two lines":   {appID, `{"claim_id":"` + marker + `\n"}`, "claim_id must be UTF-8 without control characters"},
		"half a surrogate":          {appID, `{"claim_id":"` + marker + `\ud834"}`, "claim_id must be UTF-8 without control characters"},
		"a claim id as a number":    {appID, `{"claim_id":17}`, "claim_id must be a string"},
		"two claim ids":             {appID, `{"claim_id":"a","claim_id":"a"}`, "claim_id appears twice"},
		"a reference too long":      {appID, `{"reference":"` + strings.Repeat("r", 257) + `"}`, "reference has 257 characters: the limit is 256"},
		"a reference with a NUL":    {appID, `{"reference":"` + marker + `\u0000"}`, "reference must be UTF-8 without control characters"},
		"a reference as an object":  {appID, `{"reference":{"id":"` + marker + `"}}`, "reference must be a string"},
		"min_ttl negative":          {appID, `{"min_ttl":-1}`, "min_ttl must be 0 to 86400 seconds"},
		"no such auth_type":         {appID, `{"auth_type":7}`, "auth_type must be one of"},
		"no address":                {appID, `{"redirect_uri":"` + marker + `"}`, "absolute http or https URL"},
	}
	for name, malformed := range malformedBodies() {
		tests[name] = bad{appID, malformed.body, malformed.says}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseClaimRequest(test.appid, []byte(test.body))
			checkRefused(t, err, test.says)
			if got != (preauth.ClaimRequest{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}

func aClaim() preauth.Claim {
	return preauth.Claim{
		AppID: appID, PreAuthCode: preauth.NewSecret(code), IssuedAt: at, ExpiresAt: at.Add(30 * time.Minute),
		ExpiresIn: 29 * time.Minute, ClaimID: "visit-17", Reference: "order 4711", ClaimedAt: at.Add(time.Minute),
	}
}

func TestClaimOnTheWire(t *testing.T) {
	bare, linked, mobile := aClaim(), aClaim(), aClaim()
	bare.Reference = ""
	linked.Links = aLookup().Links
	linked.Links.Plugin = aPlugin()
	mobile.Links.Mobile = aLookup().Links.Mobile
	body := `{"component_appid":"` + appID + `","pre_auth_code":"` + code + `","issued_at":"2026-03-14T09:26:53.589793Z",` +
		`"expires_at":"2026-03-14T09:56:53.589793Z","expires_in":1740,"claim_id":"visit-17",`
	claimed := `"claimed_at":"2026-03-14T09:27:53.589793Z"`
	tests := map[string]struct {
		claim preauth.Claim
		wire  string
	}{
		"without a reference": {bare, body + claimed + `}`},
		"with links": {linked, body + `"reference":"order 4711",` + claimed +
			`,"links":{"pc":"https://mp.example/?a=1&code=` + code + `","mobile":"https://open.example/#` + code +
			`","plugin":{"platformAppID":"` + appID + `","preAuthCode":"` + code + `","authType":3,"bizAppid":"wx1"}}}`},
		"with the mobile link": {mobile, body + `"reference":"order 4711",` + claimed +
			`,"links":{"mobile":"https://open.example/#` + code + `"}}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.claim.Encode()); got != test.wire {
				t.Errorf("got  %s\nwant %s", got, test.wire)
			}
			got, err := preauth.ParseClaim([]byte(test.wire))
			if err != nil || !reflect.DeepEqual(got, test.claim) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestParseClaimRefuses(t *testing.T) {
	good := string(aClaim().Encode())
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, changed, 1)
	}
	tests := map[string]struct{ body, says string }{
		"an empty body":       {``, "must be a JSON object"},
		"an impossible appid": {with(appID, "*"), "64 letters, digits"},
		"no code":             {with(`"pre_auth_code"`, `"code"`), "needs pre_auth_code, expires_at and claim_id"},
		"no expires_at":       {with(`"expires_at"`, `"expires"`), "needs pre_auth_code, expires_at and claim_id"},
		"no claim id":         {with(`"claim_id"`, `"claim"`), "needs pre_auth_code, expires_at and claim_id"},
		"expires_in wraps":    {with(`1740`, `9223372036854775807`), "expires_in must be 0 to 86400 seconds"},
		"claimed_at made up":  {with(`2026-03-14T09:27`, marker), "claimed_at must be an RFC 3339 time such as"},
		"links as a string":   {with(`{`, `{"links":"`+marker+`",`), "links must be an object"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseClaim([]byte(test.body))
			checkRefused(t, err, test.says)
			if !reflect.DeepEqual(got, preauth.Claim{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}

// answer replies to messages on a subject and returns a channel with those messages.
func answer(t *testing.T, nc *nats.Conn, subject string, header nats.Header, body []byte) <-chan *nats.Msg {
	t.Helper()
	requests := make(chan *nats.Msg, 1)
	_, err := nc.Subscribe(subject, func(m *nats.Msg) {
		requests <- m
		_ = m.RespondMsg(&nats.Msg{Header: header, Data: body})
	})
	if err != nil {
		t.Fatal(err)
	}
	return requests
}

func TestClientClaim(t *testing.T) {
	nc := connect(t)
	requests := answer(t, nc, "preauth.claim.>", nil, aClaim().Encode())
	request := preauth.ClaimRequest{AppID: appID, ClaimID: "visit-17", Reference: "order 4711", MinTTL: time.Minute}

	got, err := newClient(t, nc).Claim(t.Context(), request)

	if err != nil || !reflect.DeepEqual(got, aClaim()) {
		t.Errorf("got %+v, %v", got, err)
	}
	msg := receive(t, requests)
	sent, err := preauth.ParseClaimRequest(preauth.AppIDFromSubject("preauth.claim", msg.Subject), msg.Data)
	if err != nil || sent != request {
		t.Errorf("the service got %+v, %v", sent, err)
	}
}

func TestClientClaimFails(t *testing.T) {
	request := preauth.ClaimRequest{AppID: appID, ClaimID: "visit-17"}
	t.Run("when the service refuses", func(t *testing.T) {
		nc := connect(t)
		header, body := answerOf(&preauth.Error{Code: 409, Message: "another reference"})
		answer(t, nc, "preauth.claim.>", header, body)
		_, err := newClient(t, nc).Claim(t.Context(), request)
		if failed, ok := errors.AsType[*preauth.Error](err); !ok || failed.Code != 409 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when no service runs", func(t *testing.T) {
		if _, err := newClient(t, connect(t)).Claim(t.Context(), request); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the request breaks the contract", func(t *testing.T) {
		nc := connect(t)
		requests := answer(t, nc, "preauth.claim.>", nil, aClaim().Encode())
		client := newClient(t, nc)
		for says, request := range map[string]preauth.ClaimRequest{
			"name the component":                           {},
			"64 letters, digits":                           {AppID: ">"},
			"claim_id must be UTF-8 without control":       {AppID: appID, ClaimID: marker + "\n"},
			"reference has 257 characters":                 {AppID: appID, Reference: strings.Repeat("r", 257)},
			"min_ttl must be 0 to 86400 seconds":           {AppID: appID, MinTTL: 24*time.Hour + 1},
			"redirect_uri must be an absolute http or":     {AppID: appID, LinkOptions: preauth.LinkOptions{RedirectURI: marker}},
			"category_id_list must be ids of permission s": {AppID: appID, LinkOptions: preauth.LinkOptions{CategoryIDList: marker}},
		} {
			_, err := client.Claim(t.Context(), request)
			checkRefused(t, err, says)
		}
		if len(requests) > 0 {
			t.Error("a request that breaks the contract was sent")
		}
	})
	for name, change := range map[string]func(*preauth.Claim){
		"component": func(c *preauth.Claim) { c.AppID = "wx1" },
		"claim id":  func(c *preauth.Claim) { c.ClaimID = "visit-18" },
	} {
		t.Run("when the answer is about another "+name, func(t *testing.T) {
			nc := connect(t)
			claim := aClaim()
			change(&claim)
			answer(t, nc, "preauth.claim.>", nil, claim.Encode())
			_, err := newClient(t, nc).Claim(t.Context(), request)
			checkRefused(t, err, "about another claim")
		})
	}
	t.Run("but not when the service chose the claim id", func(t *testing.T) {
		nc := connect(t)
		answer(t, nc, "preauth.claim.>", nil, aClaim().Encode())
		if got, err := newClient(t, nc).Claim(t.Context(), preauth.ClaimRequest{AppID: appID}); err != nil || got.ClaimID == "" {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}
