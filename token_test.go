package preauth_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// plain returns a plain token event with more members; more begins with a comma.
func plain(more string) string {
	return `{"component_appid":"` + appID + `","component_access_token":"` + token + `"` + more + `}`
}

func base64Of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func TestParseTokenEventLife(t *testing.T) {
	const minute = time.Minute
	stamp := func(offset time.Duration) string { return at.Add(offset).Format(time.RFC3339Nano) }
	tests := map[string]struct {
		members           string
		issued, expiresIn time.Duration // issued is relative to the stream's time stamp, expiresIn to issued
	}{
		"nothing stated":                     {``, 0, preauth.DefaultTokenLife},
		"expires_in":                         {`,"expires_in":600`, 0, 10 * minute},
		"the shortest expires_in":            {`,"expires_in":1`, 0, time.Second},
		"the longest expires_in":             {`,"expires_in":86400`, 0, 24 * time.Hour},
		"expires_at":                         {`,"expires_at":"` + stamp(10*minute) + `"`, 0, 10 * minute},
		"the latest expires_at":              {`,"expires_at":"` + stamp(24*time.Hour) + `"`, 0, 24 * time.Hour},
		"the latest expires_at, issued_at":   {`,"issued_at":"` + stamp(-time.Hour) + `","expires_at":"` + stamp(23*time.Hour) + `"`, -time.Hour, 24 * time.Hour},
		"expires_at wins over expires_in":    {`,"expires_in":7200,"expires_at":"` + stamp(minute) + `"`, 0, minute},
		"expires_at in front wins as well":   {`,"expires_at":"` + stamp(minute) + `","expires_in":7200`, 0, minute},
		"expires_at wins over nonsense":      {`,"expires_in":-1,"expires_at":"` + stamp(minute) + `"`, 0, minute},
		"issued_at alone":                    {`,"issued_at":"` + stamp(-minute) + `"`, -minute, preauth.DefaultTokenLife},
		"issued_at and expires_in":           {`,"issued_at":"` + stamp(-minute) + `","expires_in":600`, -minute, 10 * minute},
		"issued_at and expires_at":           {`,"issued_at":"` + stamp(-minute) + `","expires_at":"` + stamp(minute) + `"`, -minute, 2 * minute},
		"issued_at in the future":            {`,"issued_at":"` + stamp(minute) + `","expires_in":600`, 0, 10 * minute},
		"issued_at in the far future":        {`,"issued_at":"9999-12-31T23:59:59Z"`, 0, preauth.DefaultTokenLife},
		"dead by its own times":              {`,"issued_at":"` + stamp(-2*time.Hour) + `","expires_in":60`, -2 * time.Hour, minute},
		"expires_at before the time stamp":   {`,"expires_at":"` + stamp(-minute) + `"`, -minute - preauth.DefaultTokenLife, preauth.DefaultTokenLife},
		"expires_at equal to the time stamp": {`,"expires_at":"` + stamp(0) + `"`, -preauth.DefaultTokenLife, preauth.DefaultTokenLife},
		"null counts as absent":              {`,"issued_at":null,"expires_at":null,"expires_in":null`, 0, preauth.DefaultTokenLife},
		"the zero time counts as absent":     {`,"expires_at":"0001-01-01T00:00:00Z"`, 0, preauth.DefaultTokenLife},
		"another zone":                       {`,"expires_at":"` + at.Add(minute).In(time.FixedZone("", 8*3600)).Format(time.RFC3339Nano) + `"`, 0, minute},
		"nanoseconds are cut off":            {`,"expires_at":"2026-03-14T09:27:53.589793999Z"`, 0, minute},
		"members of others are ignored":      {`,"request_id":7,"Expires_In":-1,"nested":{"expires_in":[{}]}`, 0, preauth.DefaultTokenLife},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			received := at.Add(999).In(time.FixedZone("CST", 8*3600)) // in any zone, with nanoseconds
			got, err := preauth.ParseTokenEvent("", nil, []byte(plain(test.members)), received)
			if err != nil {
				t.Fatal(err)
			}
			issued := at.Add(test.issued)
			want := preauth.TokenEvent{
				AppID: appID, Token: preauth.NewSecret(token), IssuedAt: issued, ExpiresAt: issued.Add(test.expiresIn),
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got life %v to %v, want %v to %v", got.IssuedAt, got.ExpiresAt, want.IssuedAt, want.ExpiresAt)
			}
		})
	}
}

func TestParseTokenEventAppID(t *testing.T) {
	without := `{"component_access_token":"` + token + `"}`
	tests := map[string]struct{ subject, body string }{
		"in the body":                       {"", plain("")},
		"in the subject":                    {appID, without},
		"in both":                           {appID, plain("")},
		"in the subject, null in the body":  {appID, `{"component_appid":null,"component_access_token":"` + token + `"}`},
		"in the subject, empty in the body": {appID, `{"component_appid":"","component_access_token":"` + token + `"}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseTokenEvent(test.subject, nil, []byte(test.body), at)
			if err != nil || got.AppID != appID {
				t.Errorf("got %q, %v", got.AppID, err)
			}
		})
	}
}

// Every form that CloudEvents defines for NATS parses to the same event.
func TestParseTokenEventFromCloudEvents(t *testing.T) {
	inner := plain(`,"expires_in":600`)
	envelope := `{"specversion":"1.0","type":"com.example.token","source":"/tokens","id":"1","time":"2026-03-14T09:26:53Z",` +
		`"expires_in":5,"traceparent":"00-ab-cd-01",`
	structured := nats.Header{"content-type": {"application/cloudevents+json; charset=UTF-8"}}
	tests := map[string]struct {
		header nats.Header
		body   string
	}{
		"plain":                        {nil, inner},
		"plain, with other headers":    {nats.Header{"Content-Type": {"application/json"}, "traceparent": {"00-ab-cd-01"}}, inner},
		"plain, data of others":        {nil, plain(`,"expires_in":600,"data":{"a":1},"data_base64":null`)},
		"plain, specversion null":      {nil, plain(`,"expires_in":600,"specversion":null`)},
		"binary":                       {nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}}, inner},
		"binary, names in upper case":  {nats.Header{"CE-SPECVERSION": {"1.0"}, "CONTENT-TYPE": {"application/json"}}, inner},
		"binary, canonical MIME names": {nats.Header{"Ce-Specversion": {"1.0"}, "Content-Type": {"application/json"}}, inner},
		"binary, without content type": {nats.Header{"ce-specversion": {"1.0"}}, inner},
		"binary, specversion in data":  {nats.Header{"ce-specversion": {"1.0"}}, plain(`,"expires_in":600,"specversion":"0.3"`)},
		"structured":                   {structured, envelope + `"data":` + inner + `}`},
		"structured, spaces":           {structured, "{ \"specversion\" : \"1.0\",\n\t\"data\" :\n " + inner + " }\n"},
		"structured, base64":           {structured, envelope + `"data_base64":"` + base64Of(inner) + `"}`},
		"structured, both, one null":   {structured, envelope + `"data":null,"data_base64":"` + base64Of(inner) + `"}`},
		"structured, the other null":   {structured, envelope + `"data_base64":null,"data":` + inner + `}`},
		"structured, names in any case": {
			nats.Header{"CONTENT-Type": {"Application/CloudEvents"}}, `{"SpecVersion":"1.0","DATA":` + inner + `}`,
		},
		"structured, no header":             {nil, envelope + `"data":` + inner + `}`},
		"structured, another case, base64":  {structured, envelope + `"Data_Base64":"` + base64Of(inner) + `"}`},
		"structured, no header, base64":     {nil, envelope + `"data_base64":"` + base64Of(inner) + `"}`},
		"structured, no header, any case":   {nil, `{"Data":` + inner + `,"SPECVERSION":"1.0"}`},
		"structured, plain content type":    {nats.Header{"Content-Type": {"application/json"}}, envelope + `"data":` + inner + `}`},
		"structured, and said in a header":  {nats.Header{"content-type": structured["content-type"], "ce-specversion": {"1.0"}}, envelope + `"data":` + inner + `}`},
		"structured, said twice":            {nats.Header{"content-type": {"application/json"}, "Content-Type": structured["content-type"]}, envelope + `"data":` + inner + `}`},
		"structured, subject attribute":     {structured, `{"specversion":"1.0","subject":"wxother","data":` + inner + `}`},
		"binary, subject attribute":         {nats.Header{"ce-specversion": {"1.0"}, "ce-subject": {"wxother"}}, inner},
		"structured, extension like member": {nil, `{"component_appid":"other","specversion":"1.0","data":` + inner + `}`},
	}
	want := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token), IssuedAt: at, ExpiresAt: at.Add(10 * time.Minute)}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseTokenEvent(appID, test.header, []byte(test.body), at)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestParseTokenEventTokens(t *testing.T) {
	tests := map[string]string{
		"one byte":              "t",
		"as WeChat's":           "61_W3mEQkP0VbZc5x5vJ8F1G7kPOq2yq0TtX8mZ9n-_",
		"any printable ASCII":   `!"#$%&'()*+,-./:;<=>?@[\]^_{|}~` + "`",
		"letters beyond ASCII":  "令牌",
		"as long as is allowed": strings.Repeat("t", preauth.MaxToken),
		"bytes, not characters": strings.Repeat("令", 682) + "tt", // 2,048 bytes
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			sent := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(text)}
			if err := sent.Check(); err != nil {
				t.Errorf("Check() = %v", err)
			}
			got, err := preauth.ParseTokenEvent("", nil, sent.Encode(), at)
			if err != nil || !got.Token.Equal(sent.Token) {
				t.Errorf("another token arrived: %v", err)
			}
		})
	}
}

// Appids that differ only in case are different components.
func TestParseTokenEventAppIDCase(t *testing.T) {
	for _, appid := range []string{"wxabc", "wxABC", "WXabc"} {
		body := `{"component_appid":"` + appid + `","component_access_token":"` + token + `"}`
		for _, inSubject := range []string{"", appid} {
			got, err := preauth.ParseTokenEvent(inSubject, nil, []byte(body), at)
			if err != nil || got.AppID != appid {
				t.Errorf("%s became %q, %v", appid, got.AppID, err)
			}
		}
		if got, err := preauth.ParseTokenEvent("wxAbc", nil, []byte(body), at); err == nil || got.AppID != "" {
			t.Errorf("%s in the body and wxAbc in the subject became %q, %v", appid, got.AppID, err)
		}
	}
}

func TestParseTokenEventReadsEscapes(t *testing.T) {
	body := `{"component_\u0061ppid":"w\u0078","component_access_token":"\u0036\/\uD834\udd1e"}`
	got, err := preauth.ParseTokenEvent("", nil, []byte(body), at)
	if err != nil || got.AppID != "wx" || got.Token.Reveal() != "6/𝄞" {
		t.Errorf("got %q, %v", got.AppID, err)
	}
}

// Members of a CloudEvent beside the data are extension attributes and say nothing about the token.
func TestParseTokenEventKeepsEnvelopeAndDataApart(t *testing.T) {
	body := `{"specversion":"1.0","component_appid":"wxother","component_access_token":"other","expires_in":5,"data":` + plain("") + `}`
	want := preauth.TokenEvent{
		AppID: appID, Token: preauth.NewSecret(token), IssuedAt: at, ExpiresAt: at.Add(preauth.DefaultTokenLife),
	}
	for _, header := range []nats.Header{nil, {"content-type": {"application/cloudevents+json"}}} {
		got, err := preauth.ParseTokenEvent("", header, []byte(body), at)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

type badEvent struct {
	appid  string // in the subject
	header nats.Header
	body   string
	says   string
	named  bool // the event still names appID
}

func badTokenEvents() map[string]badEvent {
	withToken := func(literal string) string {
		return `{"component_appid":"` + appID + `","component_access_token":` + literal + `}`
	}
	withAppID := func(literal string) string {
		return `{"component_appid":` + literal + `,"component_access_token":"` + token + `"}`
	}
	structured := nats.Header{"content-type": {"application/cloudevents+json"}}
	binary := nats.Header{"ce-specversion": {"1.0"}}
	life := "a life of more than 0 and at most 86400 seconds"
	bad := map[string]badEvent{
		"an empty body":          {"", nil, "", "must be a JSON object", false},
		"an empty object":        {"", nil, `{}`, "name the component", false},
		"an empty binary event":  {"", binary, "", "must be a JSON object", false},
		"names in another case":  {"", nil, `{"Component_AppID":"` + appID + `","Component_Access_Token":"` + token + `"}`, "name the component", false},
		"an object in a string":  {"", nil, `{"body":` + fmt.Sprintf("%q", plain("")) + `}`, "name the component", false},
		"an empty appid":         {"", nil, withAppID(`""`), "name the component", false},
		"an appid with a space":  {"", nil, withAppID(`"wx ` + marker + `"`), "64 letters, digits", false},
		"an appid with a dot":    {"", nil, withAppID(`"wx.` + marker + `"`), "64 letters, digits", false},
		"an appid with a *":      {"", nil, withAppID(`"*"`), "64 letters, digits", false},
		"an appid with a >":      {"", nil, withAppID(`">"`), "64 letters, digits", false},
		"an appid of dashes":     {"", nil, withAppID(`"-wx"`), "64 letters, digits", false},
		"the subject's stand-in": {"", nil, withAppID(`"_"`), "64 letters, digits", false},
		"an appid with a \\n":    {"", nil, withAppID(`"wx\n"`), "64 letters, digits", false},
		"an appid too long":      {"", nil, withAppID(`"` + strings.Repeat("w", 65) + `"`), "this one has 65 bytes", false},
		"an appid as a number":   {"", nil, withAppID(`17`), "component_appid must be a string", false},
		"an appid as an object":  {"", nil, withAppID(`{"id":"` + appID + `"}`), "component_appid must be a string", false},
		"one appid twice":        {appID, nil, `{"component_appid":"` + appID + `","component_appid":"` + appID + `"}`, "component_appid appears twice", true},
		"one appid and a null":   {"", nil, plain(`,"component_appid":null`), "component_appid appears twice", true},
		"one appid and an empty": {"", nil, plain(`,"component_appid":""`), "component_appid appears twice", true},
		"two appids":             {"", nil, plain(`,"component_appid":"wxother"`), "component_appid appears twice", false},
		"two appids, the second again": {
			"", nil, plain(`,"component_appid":"wxother","component_appid":"wxother"`), "component_appid appears twice", false,
		},
		"two appids, one again": {"", nil, plain(`,"component_appid":"wxother","component_appid":"` + appID + `"`), "component_appid appears twice", false},
		"two appids, one in the subject": {
			appID, nil, `{"component_appid":"wxother","component_appid":"` + appID + `"}`, "component_appid appears twice", false,
		},
		"two appids in the data": {
			"", structured, `{"specversion":"1.0","data":` + plain(`,"component_appid":"wxother"`) + `}`, "component_appid appears twice", false,
		},
		"another in the subject, token bad": {"wxother", nil, withToken(`7`), "component_access_token must be a string", false},
		"another in the subject, structured": {
			"wxother", structured, `{"specversion":"1.0","data":` + plain("") + `}`, "different components", false,
		},
		"another in the subject": {"wx" + marker, nil, plain(""), "different components", false},
		"case differs":           {strings.ToUpper(appID), nil, plain(""), "different components", false},
		"nonsense as subject":    {"a.b", nil, plain(""), "different components", false},

		"no token":                    {"", nil, `{"component_appid":"` + appID + `"}`, "component_access_token is missing", true},
		"no token, named by subject":  {appID, nil, `{}`, "component_access_token is missing", true},
		"an empty token":              {"", nil, withToken(`""`), "component_access_token is missing", true},
		"a null token":                {"", nil, withToken(`null`), "component_access_token is missing", true},
		"a token as a number":         {"", nil, withToken(`64`), "component_access_token must be a string", true},
		"a token as an array":         {"", nil, withToken(`["` + token + `"]`), "component_access_token must be a string", true},
		"a token as a boolean":        {"", nil, withToken(`true`), "component_access_token must be a string", true},
		"two tokens":                  {"", nil, plain(`,"component_access_token":"` + token + `"`), "component_access_token appears twice", true},
		"a null token and a token":    {"", nil, plain(`,"component_access_token":null`), "component_access_token appears twice", true},
		"a token twice, once escaped": {"", nil, plain(`,"component_access\u005ftoken":"` + token + `"`), "component_access_token appears twice", true},
		"a token with a space":        {"", nil, withToken(`"` + token + ` x"`), "without white space", true},
		"a token with a line break":   {"", nil, withToken(`"` + token + `\n"`), "without white space", true},
		"a token with a NUL":          {"", nil, withToken(`"` + token + `\u0000"`), "without white space", true},
		"a token with a DEL":          {"", nil, withToken(`"` + token + `\u007f"`), "without white space", true},
		"a token with a wide space":   {"", nil, withToken(`"` + token + `\u3000"`), "without white space", true},
		"a token with half a pair":    {"", nil, withToken(`"` + token + `\ud834"`), "must be UTF-8", true},
		"a token of 683 characters":   {"", nil, withToken(`"` + strings.Repeat("令", 683) + `"`), "has 2049 bytes: the limit is 2048", true},
		"a token too long":            {"", nil, withToken(`"` + strings.Repeat(marker[:1], preauth.MaxToken+1) + `"`), "has 2049 bytes: the limit is 2048", true},

		"expires_in 0":               {"", nil, plain(`,"expires_in":0`), "expires_in must give the token " + life, true},
		"expires_in negative":        {"", nil, plain(`,"expires_in":-7200`), "expires_in must give the token " + life, true},
		"expires_in in milliseconds": {"", nil, plain(`,"expires_in":7200000`), "expires_in must give the token " + life, true},
		"expires_in just too long":   {"", nil, plain(`,"expires_in":86401`), "expires_in must give the token " + life, true},
		"expires_in wraps to 0.3 s":  {"", nil, plain(`,"expires_in":18446744074`), "expires_in must give the token " + life, true},
		"expires_in wraps to 0.7 s":  {"", nil, plain(`,"expires_in":-18446744073`), "expires_in must give the token " + life, true},
		"expires_in as large as can": {"", nil, plain(`,"expires_in":9223372036854775807`), "expires_in must give the token " + life, true},
		"expires_in as small as can": {"", nil, plain(`,"expires_in":-9223372036854775808`), "expires_in must give the token " + life, true},
		"expires_in beyond 64 bits":  {"", nil, plain(`,"expires_in":9223372036854775808`), "expires_in must be a whole number", true},
		"expires_in with exponent":   {"", nil, plain(`,"expires_in":7.2e3`), "expires_in must be a whole number", true},
		"expires_in with a fraction": {"", nil, plain(`,"expires_in":7199.5`), "expires_in must be a whole number", true},
		"expires_in as a string":     {"", nil, plain(`,"expires_in":"7200"`), "expires_in must be a whole number", true},
		"expires_in twice":           {"", nil, plain(`,"expires_in":7200,"expires_in":7200`), "expires_in appears twice", true},
		"expires_at in the past and issued_at after it": {
			"", nil, plain(`,"issued_at":"2026-03-14T09:00:00Z","expires_at":"2026-03-14T08:00:00Z"`), "expires_at must give the token " + life, true,
		},
		"expires_at equal to issued_at": {
			"", nil, plain(`,"issued_at":"2026-03-14T09:00:00Z","expires_at":"2026-03-14T09:00:00Z"`), "expires_at must give the token " + life, true,
		},
		"expires_at just too late":  {"", nil, plain(`,"expires_at":"2026-03-15T09:26:53.589794Z"`), "expires_at must give the token " + life, true},
		"expires_at a day too late": {"", nil, plain(`,"expires_at":"2026-03-16T00:00:00Z"`), "expires_at must give the token " + life, true},
		"expires_at in Unix time":   {"", nil, plain(`,"expires_at":1773480413`), "expires_at must be an RFC 3339 time such as", true},
		"expires_at without a zone": {"", nil, plain(`,"expires_at":"2026-03-14T09:26:53"`), "expires_at must be an RFC 3339 time such as", true},
		"expires_at with a space":   {"", nil, plain(`,"expires_at":"2026-03-14 09:26:53Z"`), "expires_at must be an RFC 3339 time such as", true},
		"expires_at made up":        {"", nil, plain(`,"expires_at":"` + marker + `"`), "expires_at must be an RFC 3339 time such as", true},
		"expires_at past year 9999": {"", nil, plain(`,"expires_at":"9999-12-31T23:59:59-01:00"`), "expires_at must be an RFC 3339 time such as", true},
		"issued_at empty":           {"", nil, plain(`,"issued_at":""`), "issued_at must be an RFC 3339 time such as", true},
		"issued_at before year 0":   {"", nil, plain(`,"issued_at":"0000-01-01T00:00:00+01:00"`), "issued_at must be an RFC 3339 time such as", true},
		"issued_at long ago":        {"", nil, plain(`,"issued_at":"1970-01-01T00:00:00Z","expires_at":"9999-12-31T23:59:59Z"`), "expires_at must give the token " + life, true},
		"issued_at before 1970":     {"", nil, plain(`,"issued_at":"0500-01-01T00:00:00Z"`), "issued_at must be an RFC 3339 time", true},
		"expires_at of Go's zero":   {"", nil, plain(`,"expires_at":"0001-01-01T02:00:00Z"`), "expires_at must be an RFC 3339 time", true},
		"the first fault is told":   {"", nil, plain(`,"expires_in":"x","issued_at":"x"`), "expires_in must be a whole number", true},
		"a fault before the end of sense": {
			"", nil, `{"component_appid":"` + appID + `","expires_in":"x",}`, "expires_in must be a whole number", true,
		},
		"a fault in front of others": {
			"", nil, `{"expires_in":"x","component_appid":"` + appID + `","component_access_token":"` + token + `"} x`, "expires_in must be a whole number", true,
		},

		"specversion 0.3, binary":         {appID, nats.Header{"ce-specversion": {"0.3"}}, plain(""), "specversion of the CloudEvent must be 1.0", true},
		"specversion empty, binary":       {appID, nats.Header{"ce-specversion": {""}}, plain(""), "specversion of the CloudEvent must be 1.0", true},
		"specversion twice, binary":       {appID, nats.Header{"Ce-Specversion": {"1.0", "1.0"}}, plain(""), "specversion of the CloudEvent must be 1.0", true},
		"specversion two ways, binary":    {appID, nats.Header{"ce-specversion": {"1.0"}, "CE-specversion": {marker}}, plain(""), "specversion of the CloudEvent must be 1.0", true},
		"specversion 1.0.2, structured":   {appID, structured, `{"specversion":"1.0.2","data":` + plain("") + `}`, "specversion of the CloudEvent must be 1.0", true},
		"specversion 2.0, no header":      {appID, nil, `{"specversion":"2.0","data":` + plain("") + `}`, "specversion of the CloudEvent must be 1.0", true},
		"specversion missing, structured": {appID, structured, `{"data":` + plain("") + `}`, "no specversion: set it to 1.0", true},
		"specversion as a number, no header": {
			"", nil, `{"component_appid":"wxother","specversion":1.0,"data":` + plain("") + `}`, "specversion of the CloudEvent must be 1.0", false,
		},
		"an attribute like a member, data bad": {
			"", nil, `{"component_appid":"wxother","specversion":"1.0","data":[]}`, "data of the CloudEvent must be a JSON object", false,
		},
		"an attribute like a member, data twice": {
			"", nil, `{"component_appid":"wxother","specversion":"1.0","data":{},"data":{}}`, "data appears twice", false,
		},
		"a member specversion in plain JSON": {appID, nil, plain(`,"specversion":"1.0"`), "either data or data_base64", true},
		"specversion null, structured":       {appID, structured, `{"specversion":null,"data":` + plain("") + `}`, "no specversion: set it to 1.0", true},
		"specversion as a number":            {appID, structured, `{"specversion":1.0,"data":` + plain("") + `}`, "specversion of the CloudEvent must be 1.0", true},
		"specversion twice, structured":      {appID, structured, `{"specversion":"1.0","SpecVersion":"1.0","data":` + plain("") + `}`, "specversion appears twice", true},
		"specversion twice, no header":       {appID, nil, `{"specversion":"1.0","SpecVersion":"1.0","data":` + plain("") + `}`, "specversion appears twice", true},
		"plain, said to be structured":       {appID, structured, plain(""), "no specversion", true},
		"data and data_base64":               {appID, structured, `{"specversion":"1.0","data":` + plain("") + `,"data_base64":"` + base64Of(plain("")) + `"}`, "either data or data_base64", true},
		"neither":                            {appID, structured, `{"specversion":"1.0"}`, "either data or data_base64", true},
		"both null":                          {appID, nil, `{"specversion":"1.0","data":null,"data_base64":null}`, "either data or data_base64", true},
		"data twice":                         {appID, structured, `{"specversion":"1.0","data":` + plain("") + `,"Data":` + plain("") + `}`, "data appears twice", true},
		"data as text":                       {appID, structured, `{"specversion":"1.0","data":` + fmt.Sprintf("%q", plain("")) + `}`, "data of the CloudEvent must be a JSON object", true},
		"data as an array":                   {appID, structured, `{"specversion":"1.0","data":["` + token + `"]}`, "data of the CloudEvent must be a JSON object", true},
		"data without a token":               {"", structured, `{"specversion":"1.0","data":{"component_appid":"` + appID + `"}}`, "component_access_token is missing", true},
		"data_base64 not base64":             {appID, structured, `{"specversion":"1.0","data_base64":"` + token + `"}`, "must be standard base64 with padding", true},
		"data_base64 without padding":        {appID, structured, `{"specversion":"1.0","data_base64":"` + strings.TrimRight(base64Of(`{"a":1}`), "=") + `"}`, "must be standard base64 with padding", true},
		"data_base64 in the URL alphabet":    {appID, structured, `{"specversion":"1.0","data_base64":"` + base64.URLEncoding.EncodeToString([]byte(plain(`,"ÿ":"???>>>"`))) + `"}`, "must be standard base64 with padding", true},
		"data_base64 as an object":           {appID, structured, `{"specversion":"1.0","data_base64":{}}`, "data_base64 must be a string", true},
		"data_base64 of bytes":               {appID, structured, `{"specversion":"1.0","data_base64":"` + base64Of(token+"\xff") + `"}`, "UTF-8", true},
		"data_base64 of text":                {appID, structured, `{"specversion":"1.0","data_base64":"` + base64Of(token) + `"}`, "must be a JSON object", true},
		"data_base64 of nothing":             {appID, structured, `{"specversion":"1.0","data_base64":""}`, "must be a JSON object", true},
		"an event in an event":               {appID, structured, `{"specversion":"1.0","data":{"specversion":"1.0","data":` + plain("") + `}}`, "component_access_token is missing", true},
		"a batch":                            {appID, nats.Header{"Content-Type": {"application/cloudevents-batch+json"}}, `[]`, "publish each event as its own message", true},
		"a batch, in upper case":             {appID, nats.Header{"content-type": {"Application/CloudEvents-BATCH+json"}, "ce-specversion": {"1.0"}}, plain(""), "publish each event as its own message", true},
	}
	for name, malformed := range malformedBodies() {
		bad[name] = badEvent{appID, nil, malformed.body, malformed.says, true}
		bad[name+", binary"] = badEvent{appID, binary, malformed.body, malformed.says, true}
		bad[name+", structured"] = badEvent{appID, structured, malformed.body, malformed.says, true}
	}
	return bad
}

func TestParseTokenEventRefuses(t *testing.T) {
	for name, bad := range badTokenEvents() {
		t.Run(name, func(t *testing.T) {
			header := maps.Clone(bad.header)
			got, err := preauth.ParseTokenEvent(bad.appid, bad.header, []byte(bad.body), at)
			checkRefused(t, err, bad.says)
			if want := (preauth.TokenEvent{AppID: map[bool]string{true: appID}[bad.named]}); !reflect.DeepEqual(got, want) {
				t.Errorf("the event is %+v, want %+v", got, want)
			}
			if !reflect.DeepEqual(header, bad.header) {
				t.Error("the headers were changed")
			}
		})
	}
}

func TestTokenEventCheck(t *testing.T) {
	good := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token)}
	tests := map[string]struct {
		change func(*preauth.TokenEvent)
		says   string // "" if the event is good
	}{
		"no times":                 {func(*preauth.TokenEvent) {}, ""},
		"both times":               {func(e *preauth.TokenEvent) { e.IssuedAt, e.ExpiresAt = at, at.Add(time.Hour) }, ""},
		"only issued":              {func(e *preauth.TokenEvent) { e.IssuedAt = at }, ""},
		"only expires":             {func(e *preauth.TokenEvent) { e.ExpiresAt = at }, ""},
		"no appid":                 {func(e *preauth.TokenEvent) { e.AppID = "" }, "name the component"},
		"an impossible appid":      {func(e *preauth.TokenEvent) { e.AppID = "wx." + marker }, "64 letters, digits"},
		"no token":                 {func(e *preauth.TokenEvent) { e.Token = preauth.Secret{} }, "component_access_token is missing"},
		"a token with a space":     {func(e *preauth.TokenEvent) { e.Token = preauth.NewSecret(token + " ") }, "without white space"},
		"a token that is no UTF-8": {func(e *preauth.TokenEvent) { e.Token = preauth.NewSecret(token + "\xff") }, "must be UTF-8"},
		"expires before issued":    {func(e *preauth.TokenEvent) { e.IssuedAt, e.ExpiresAt = at, at.Add(-1) }, "expires_at must give"},
		"a life of a week":         {func(e *preauth.TokenEvent) { e.IssuedAt, e.ExpiresAt = at, at.AddDate(0, 0, 7) }, "expires_at must give"},
		"a life beyond counting":   {func(e *preauth.TokenEvent) { e.IssuedAt, e.ExpiresAt = at, at.AddDate(5000, 0, 0) }, "expires_at must give"},
		"issued before 1970":       {func(e *preauth.TokenEvent) { e.IssuedAt = at.AddDate(-100, 0, 0) }, "issued_at must be in the years"},
		"ends in the year 1":       {func(e *preauth.TokenEvent) { e.ExpiresAt = time.Time{}.Add(2 * time.Hour) }, "expires_at must be in the years"},
		"a life below microseconds": {
			func(e *preauth.TokenEvent) { e.IssuedAt, e.ExpiresAt = at, at.Add(time.Microsecond-1) }, "expires_at must give",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			event := good
			test.change(&event)
			err := event.Check()
			if test.says != "" {
				checkRefused(t, err, test.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := preauth.ParseTokenEvent(appID, nil, event.Encode(), at.Add(time.Second))
			if err != nil || !got.Token.Equal(event.Token) {
				t.Errorf("what passed Check was refused on the other side: %v", err)
			}
		})
	}
}

func TestTokenEventEncode(t *testing.T) {
	tests := map[string]struct {
		event preauth.TokenEvent
		want  string
	}{
		"without times": {
			preauth.TokenEvent{AppID: "wx1", Token: preauth.NewSecret("t&<>")},
			`{"component_appid":"wx1","component_access_token":"t&<>"}`,
		},
		"times in UTC with microseconds": {
			preauth.TokenEvent{
				AppID: "wx1", Token: preauth.NewSecret("t"), IssuedAt: at.Add(999).In(time.FixedZone("CST", 8*3600)),
				ExpiresAt: at.Truncate(time.Second).Add(2 * time.Hour),
			},
			`{"component_appid":"wx1","component_access_token":"t",` +
				`"issued_at":"2026-03-14T09:26:53.589793Z","expires_at":"2026-03-14T11:26:53Z"}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.event.Encode()); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
