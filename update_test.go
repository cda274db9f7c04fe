package preauth_test

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

func anUpdate() preauth.Update {
	return preauth.Update{
		AppID: appID, PreAuthCode: preauth.NewSecret(code), IssuedAt: at, ExpiresAt: at.Add(30 * time.Minute),
		Revision: 42, Cause: preauth.CauseRenewal,
	}
}

func TestUpdateOnTheWire(t *testing.T) {
	update := anUpdate()
	want := `{"component_appid":"` + appID + `","pre_auth_code":"` + code + `",` +
		`"issued_at":"2026-03-14T09:26:53.589793Z","expires_at":"2026-03-14T09:56:53.589793Z","expires_in":1800,` +
		`"revision":42,"cause":"renewal"}`
	if got := string(update.Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	got, err := preauth.ParseUpdate([]byte(want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, update) {
		t.Errorf("got %+v, want %+v", got, update)
	}
}

// An update of a spent code has one member more, and its code has expired for those that do not
// know it.
func TestSpentUpdateOnTheWire(t *testing.T) {
	update := anUpdate()
	update.Spent, update.ExpiresAt = true, at.Add(time.Minute)
	want := `{"component_appid":"` + appID + `","pre_auth_code":"` + code + `",` +
		`"issued_at":"2026-03-14T09:26:53.589793Z","expires_at":"2026-03-14T09:27:53.589793Z","expires_in":60,` +
		`"revision":42,"cause":"renewal","spent":true}`
	if got := string(update.Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, err := preauth.ParseUpdate([]byte(want)); err != nil || !reflect.DeepEqual(got, update) {
		t.Errorf("got %+v, %v, want %+v", got, err, update)
	}
	if got := update.Header("/preauth/test")["ce-time"]; !reflect.DeepEqual(got, []string{"2026-03-14T09:27:53.589793Z"}) {
		t.Errorf("ce-time is %q, want when it was spent", got)
	}
}

func TestUpdateUsable(t *testing.T) {
	alive, spent := anUpdate(), anUpdate()
	spent.Spent = true
	for name, test := range map[string]struct {
		update preauth.Update
		now    time.Time
		want   bool
	}{
		"alive":                    {alive, at, true},
		"in its last microsecond":  {alive, alive.ExpiresAt.Add(-time.Microsecond), true},
		"expired":                  {alive, alive.ExpiresAt, false},
		"spent":                    {spent, at, false},
		"no update was ever seen":  {preauth.Update{}, at, false},
		"spent, by a slower clock": {spent, at.Add(-time.Hour), false},
	} {
		if got := test.update.Usable(test.now); got != test.want {
			t.Errorf("%s: Usable() = %v", name, got)
		}
	}
}

func TestUpdateHeader(t *testing.T) {
	update := anUpdate()
	update.IssuedAt = at.In(time.FixedZone("CST", 8*3600)).Add(999)
	want := nats.Header{
		"Nats-Msg-Id": {appID + ".42"}, "ce-id": {appID + ".42"}, "ce-specversion": {"1.0"}, "ce-type": {"preauth.updated"},
		"ce-source": {"/preauth/test"}, "ce-subject": {appID}, "ce-time": {"2026-03-14T09:26:53.589793Z"},
		"ce-datacontenttype": {"application/json"}, "content-type": {"application/json"},
	}
	if got := update.Header("/preauth/test"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if update.MessageID() == (preauth.Update{AppID: appID, Revision: 43}).MessageID() {
		t.Error("two revisions have the same message id")
	}
}

func TestParseUpdateTakes(t *testing.T) {
	tests := map[string]struct {
		body  string
		check func(preauth.Update) bool
	}{
		"the least": {
			`{"component_appid":"wx1","pre_auth_code":"c","expires_at":"2026-03-14T09:26:53Z","revision":1}`,
			func(u preauth.Update) bool { return u.Revision == 1 && u.Cause == "" && u.IssuedAt.IsZero() },
		},
		"a cause of the future": {
			`{"component_appid":"wx1","pre_auth_code":"c","expires_at":"2026-03-14T09:26:53Z","revision":1,"cause":"x"}`,
			func(u preauth.Update) bool { return u.Cause == "x" },
		},
		"members of the future": {
			`{"v":[{}],"component_appid":"wx1","pre_auth_code":"c","expires_at":"2026-03-14T09:26:53Z","revision":1,"expires_in":null}`,
			func(u preauth.Update) bool { return u.AppID == "wx1" },
		},
		"the largest revision": {
			`{"component_appid":"wx1","pre_auth_code":"c","expires_at":"2026-03-14T09:26:53Z","revision":9007199254740991}`,
			func(u preauth.Update) bool { return u.Revision == preauth.MaxRevision },
		},
		"a code with case, spaces and signs": {
			`{"component_appid":"wx1","pre_auth_code":" Aa@&+/\u4ee4 ","expires_at":"2026-03-14T09:26:53Z","revision":1}`,
			func(u preauth.Update) bool { return u.PreAuthCode.Reveal() == " Aa@&+/令 " },
		},
		"another zone": {
			`{"component_appid":"wx1","pre_auth_code":"c","expires_at":"2026-03-14T17:26:53.5897931+08:00","revision":1}`,
			func(u preauth.Update) bool { return u.ExpiresAt.Equal(at) && u.ExpiresAt.Location() == time.UTC },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseUpdate([]byte(test.body))
			if err != nil || !test.check(got) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestParseUpdateRefuses(t *testing.T) {
	good := string(anUpdate().Encode())
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, changed, 1)
	}
	tests := map[string]struct{ body, says string }{
		"an empty body":         {``, "must be a JSON object"},
		"no appid":              {with(`"component_appid":"`+appID+`",`, ``), "component_appid is missing"},
		"an impossible appid":   {with(appID, "wx."+marker), "64 letters, digits"},
		"no code":               {with(`"pre_auth_code"`, `"code"`), "needs pre_auth_code, expires_at and revision"},
		"an empty code":         {with(code, ``), "needs pre_auth_code, expires_at and revision"},
		"a code as an object":   {with(`"`+code+`"`, `{"code":"`+code+`"}`), "pre_auth_code must be a string"},
		"two codes":             {with(`{`, `{"pre_auth_code":"`+code+`",`), "pre_auth_code appears twice"},
		"no expires_at":         {with(`"expires_at"`, `"expires"`), "needs pre_auth_code, expires_at and revision"},
		"expires_at made up":    {with(`2026-03-14T09:56`, marker), "expires_at must be an RFC 3339 time such as"},
		"issued_at as a number": {with(`"2026-03-14T09:26:53.589793Z"`, `1`), "issued_at must be an RFC 3339 time such as"},
		"no revision":           {with(`,"revision":42`, ``), "needs pre_auth_code, expires_at and revision"},
		"revision 0":            {with(`"revision":42`, `"revision":0`), "needs pre_auth_code, expires_at and revision"},
		"a negative revision":   {with(`"revision":42`, `"revision":-1`), "revision must be a whole number, 0 or more"},
		"a revision too large":  {with(`"revision":42`, `"revision":9007199254740992`), "revision must be 1 to 9007199254740991"},
		"the largest uint64":    {with(`"revision":42`, `"revision":18446744073709551615`), "revision must be 1 to 9007199254740991"},
		"beyond 64 bits":        {with(`"revision":42`, `"revision":18446744073709551616`), "revision must be a whole number, 0 or more"},
		"a revision as text":    {with(`"revision":42`, `"revision":"`+marker+`"`), "revision must be a whole number, 0 or more"},
		"a cause as a number":   {with(`"renewal"`, `1`), "cause must be a string"},
		"spent as text":         {with(`{`, `{"spent":"`+marker+`",`), "spent must be true or false"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseUpdate([]byte(test.body))
			checkRefused(t, err, test.says)
			if !reflect.DeepEqual(got, preauth.Update{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}
