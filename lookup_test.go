package preauth_test

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"preauth"
)

func TestLookupRequestOnTheWire(t *testing.T) {
	tests := map[string]struct {
		request preauth.LookupRequest
		wire    string
	}{
		"the least": {preauth.LookupRequest{AppID: appID}, `{"component_appid":"` + appID + `"}`},
		"everything": {
			preauth.LookupRequest{
				AppID: appID, MinTTL: 5 * time.Minute, MinRevision: 1<<64 - 1,
				LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/auth?a=1&b=<2>", AuthType: 3, BizAppID: "wx1", CategoryIDList: "1|17|99"},
			},
			`{"component_appid":"` + appID + `","min_ttl":300,"min_revision":18446744073709551615,` +
				`"redirect_uri":"https://example.com/auth?a=1&b=<2>","auth_type":3,"biz_appid":"wx1","category_id_list":"1|17|99"}`,
		},
		"the longest min_ttl": {
			preauth.LookupRequest{AppID: appID, MinTTL: 24 * time.Hour}, `{"component_appid":"` + appID + `","min_ttl":86400}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.request.Encode()); got != test.wire {
				t.Errorf("got  %s\nwant %s", got, test.wire)
			}
			for _, inSubject := range []string{"", appID} {
				got, err := preauth.ParseLookupRequest(inSubject, []byte(test.wire))
				if err != nil || got != test.request {
					t.Errorf("got %+v, %v", got, err)
				}
			}
		})
	}
}

// Rounding up ensures that a requester gets no less life than it asked for.
func TestLookupRequestRoundsMinTTLUp(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{
		1:                                 time.Second,
		time.Second:                       time.Second,
		time.Second + 1:                   2 * time.Second,
		29*time.Minute + time.Millisecond: 29*time.Minute + time.Second,
	} {
		got, err := preauth.ParseLookupRequest("", preauth.LookupRequest{AppID: appID, MinTTL: asked}.Encode())
		if err != nil || got.MinTTL != want {
			t.Errorf("%v became %v, %v; want %v", asked, got.MinTTL, err, want)
		}
	}
}

func TestParseLookupRequestTakes(t *testing.T) {
	tests := map[string]struct {
		body string
		want preauth.LookupRequest
	}{
		"an empty body":   {``, preauth.LookupRequest{}},
		"an empty object": {` {} `, preauth.LookupRequest{}},
		"nulls": {
			`{"component_appid":null,"min_ttl":null,"min_revision":null,"redirect_uri":null,"auth_type":null,"biz_appid":null,"category_id_list":null}`,
			preauth.LookupRequest{},
		},
		"zeros": {
			`{"component_appid":"","min_ttl":0,"min_revision":0,"redirect_uri":"","auth_type":0,"biz_appid":"","category_id_list":""}`,
			preauth.LookupRequest{},
		},
		"unknown members":             {`{"min_TTL":-1,"x":{}}`, preauth.LookupRequest{}},
		"link options without a link": {`{"auth_type":8}`, preauth.LookupRequest{LinkOptions: preauth.LinkOptions{AuthType: 8}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.want.AppID = appID
			got, err := preauth.ParseLookupRequest(appID, []byte(test.body))
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestParseLookupRequestRefuses(t *testing.T) {
	type bad struct{ appid, body, says string }
	tests := map[string]bad{
		"no component":                 {"", ``, "name the component"},
		"no component in the object":   {"", `{}`, "name the component"},
		"an impossible subject":        {"_", ``, "64 letters, digits"},
		"more tokens in the subject":   {"wx." + marker, ``, "64 letters, digits"},
		"an impossible body":           {"", `{"component_appid":"wx.` + marker + `"}`, "64 letters, digits"},
		"subject and body disagree":    {appID, `{"component_appid":"wx` + marker + `"}`, "different components"},
		"an appid as a number":         {appID, `{"component_appid":1}`, "component_appid must be a string"},
		"an appid twice":               {appID, `{"component_appid":"` + appID + `","component_appid":"` + appID + `"}`, "component_appid appears twice"},
		"min_ttl negative":             {appID, `{"min_ttl":-1}`, "min_ttl must be 0 to 86400 seconds"},
		"min_ttl in milliseconds":      {appID, `{"min_ttl":600000}`, "min_ttl must be 0 to 86400 seconds"},
		"min_ttl wraps round":          {appID, `{"min_ttl":9223372036854775807}`, "min_ttl must be 0 to 86400 seconds"},
		"min_ttl beyond 64 bits":       {appID, `{"min_ttl":1e30}`, "min_ttl must be a whole number"},
		"min_ttl with a fraction":      {appID, `{"min_ttl":0.5}`, "min_ttl must be a whole number"},
		"min_ttl as text":              {appID, `{"min_ttl":"` + marker + `"}`, "min_ttl must be a whole number"},
		"min_ttl twice":                {appID, `{"min_ttl":1,"min_ttl":2}`, "min_ttl appears twice"},
		"min_revision negative":        {appID, `{"min_revision":-1}`, "min_revision must be a whole number, 0 or more"},
		"min_revision beyond 64 bits":  {appID, `{"min_revision":18446744073709551616}`, "min_revision must be a whole number, 0 or more"},
		"redirect_uri as an array":     {appID, `{"redirect_uri":["` + marker + `"]}`, "redirect_uri must be a string"},
		"auth_type as text":            {appID, `{"auth_type":"3"}`, "auth_type must be a whole number"},
		"biz_appid impossible":         {appID, `{"biz_appid":"` + marker + `&x=1"}`, "biz_appid must be the appid of one account"},
		"category_id_list as a number": {appID, `{"category_id_list":99}`, "category_id_list must be a string"},
		"biz_appid as a boolean":       {appID, `{"biz_appid":true}`, "biz_appid must be a string"},
		"link options without a link":  {appID, `{"auth_type":7}`, "auth_type must be one of"},
		"a good request with bad link": {appID, `{"min_ttl":1,"redirect_uri":"` + marker + `"}`, "absolute http or https URL"},
	}
	for name, malformed := range malformedBodies() {
		tests[name] = bad{appID, malformed.body, malformed.says}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseLookupRequest(test.appid, []byte(test.body))
			checkRefused(t, err, test.says)
			if got != (preauth.LookupRequest{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}

func aLookup() preauth.Lookup {
	return preauth.Lookup{
		AppID: appID, PreAuthCode: preauth.NewSecret(code), IssuedAt: at, ExpiresAt: at.Add(30 * time.Minute),
		ExpiresIn: 29 * time.Minute, Revision: 42,
		Links: preauth.Links{
			PC: preauth.NewSecret("https://mp.example/?a=1&code=" + code), Mobile: preauth.NewSecret("https://open.example/#" + code),
		},
	}
}

// aPlugin returns what a mini program passes to openAuthorizeAccount.
func aPlugin() preauth.Plugin {
	return preauth.Plugin{PlatformAppID: appID, PreAuthCode: preauth.NewSecret(code), AuthType: 3, BizAppID: "wx1"}
}

func TestLookupOnTheWire(t *testing.T) {
	bare, pc, mobile, plugin := aLookup(), aLookup(), aLookup(), aLookup()
	bare.Links, pc.Links.Mobile, mobile.Links.PC = preauth.Links{}, preauth.Secret{}, preauth.Secret{}
	plugin.Links = preauth.Links{Plugin: aPlugin()}
	body := `{"component_appid":"` + appID + `","pre_auth_code":"` + code + `","issued_at":"2026-03-14T09:26:53.589793Z",` +
		`"expires_at":"2026-03-14T09:56:53.589793Z","revision":42`
	const end = `,"expires_in":1740}`
	tests := map[string]struct {
		lookup preauth.Lookup
		wire   string
	}{
		"without links":        {bare, body + end},
		"with the PC link":     {pc, body + `,"links":{"pc":"https://mp.example/?a=1&code=` + code + `"}` + end},
		"with the mobile link": {mobile, body + `,"links":{"mobile":"https://open.example/#` + code + `"}` + end},
		"with the plug-in": {
			plugin, body + `,"links":{"plugin":{"platformAppID":"` + appID + `","preAuthCode":"` + code + `","authType":3,"bizAppid":"wx1"}}` + end,
		},
		"with links": {
			aLookup(), body + `,"links":{"pc":"https://mp.example/?a=1&code=` + code + `","mobile":"https://open.example/#` + code + `"}` + end,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.lookup.Encode()); got != test.wire {
				t.Errorf("got  %s\nwant %s", got, test.wire)
			}
			got, err := preauth.ParseLookup([]byte(test.wire))
			if err != nil || !reflect.DeepEqual(got, test.lookup) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// The remaining life is rounded down and never negative, so a client that relies on it is never
// late.
func TestLookupExpiresIn(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		-time.Minute: 0, 0: 0, time.Second - 1: 0, 90*time.Second + 999*time.Millisecond: 90 * time.Second,
	} {
		lookup := aLookup()
		lookup.ExpiresIn = left
		got, err := preauth.ParseLookup(lookup.Encode())
		if err != nil || got.ExpiresIn != want {
			t.Errorf("%v became %v, %v; want %v", left, got.ExpiresIn, err, want)
		}
	}
}

func TestParseLookupRefuses(t *testing.T) {
	good := string(aLookup().Encode())
	beforeLinks, _, _ := strings.Cut(good, `{"pc"`)
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, changed, 1)
	}
	tests := map[string]struct{ body, says string }{
		"an empty body":          {``, "must be a JSON object"},
		"no appid":               {with(`component_appid`, `appid`), "component_appid is missing"},
		"an impossible appid":    {with(appID, "*"), "64 letters, digits"},
		"no code":                {with(`"pre_auth_code"`, `"code"`), "needs pre_auth_code and expires_at"},
		"an empty code":          {with(`"pre_auth_code":"`+code, `"pre_auth_code":"`), "needs pre_auth_code and expires_at"},
		"a code as an array":     {with(`"`+code+`"`, `["`+code+`"]`), "pre_auth_code must be a string"},
		"no expires_at":          {with(`"expires_at"`, `"expires"`), "needs pre_auth_code and expires_at"},
		"expires_at made up":     {with(`2026-03-14T09:56`, marker), "expires_at must be an RFC 3339 time such as"},
		"expires_in negative":    {with(`1740`, `-1`), "expires_in must be 0 to 86400 seconds"},
		"expires_in wraps":       {with(`1740`, `9223372036854775807`), "expires_in must be 0 to 86400 seconds"},
		"expires_in as text":     {with(`1740`, `"1740"`), "expires_in must be a whole number"},
		"revision as text":       {with(`42`, `"42"`), "revision must be a whole number, 0 or more"},
		"links as a string":      {beforeLinks + `"` + marker + `"}`, "links must be an object"},
		"a link as a number":     {beforeLinks + `{"pc":1,"mobile":"` + marker + `"}}`, "links must be an object"},
		"a plug-in as a string":  {beforeLinks + `{"plugin":"` + marker + `"}}`, "links must be an object"},
		"two codes":              {with(`{`, `{"pre_auth_code":"`+code+`",`), "pre_auth_code appears twice"},
		"an error for an answer": {`{"error":{"code":500,"message":"` + marker + `"}}`, "component_appid is missing"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseLookup([]byte(test.body))
			checkRefused(t, err, test.says)
			if !reflect.DeepEqual(got, preauth.Lookup{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}
