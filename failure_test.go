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

func aFailure() preauth.Failure {
	return preauth.Failure{
		AppID: appID, Class: preauth.ClassAddressNotAllowed, ErrCode: 61004, ErrMsg: "access clientip is not registered",
		RID: "62ea13fb-1a2b3c4d-5e6f7a8b", RequestIP: "203.0.113.9", Stream: "COMPONENT_TOKENS", StreamSequence: 17,
		Attempt: 3, RetryAt: at.Add(time.Minute), OccurredAt: at,
	}
}

func TestFailureOnTheWire(t *testing.T) {
	tests := map[string]struct {
		failure preauth.Failure
		wire    string
	}{
		"of WeChat, tried again": {
			aFailure(),
			`{"component_appid":"` + appID + `","class":"address_not_allowed","errcode":61004,` +
				`"errmsg":"access clientip is not registered","rid":"62ea13fb-1a2b3c4d-5e6f7a8b","request_ip":"203.0.113.9",` +
				`"stream":"COMPONENT_TOKENS","stream_sequence":17,"attempt":3,` +
				`"retry_at":"2026-03-14T09:27:53.589793Z","occurred_at":"2026-03-14T09:26:53.589793Z"}`,
		},
		"of an event that names no component, given up": {
			preauth.Failure{Class: preauth.ClassBadEvent, ErrMsg: "a < b & c", Stream: "S", StreamSequence: 1, OccurredAt: at},
			`{"class":"bad_event","errmsg":"a < b & c","stream":"S","stream_sequence":1,"occurred_at":"2026-03-14T09:26:53.589793Z"}`,
		},
		"a negative error code": {
			preauth.Failure{AppID: appID, Class: preauth.ClassTransient, ErrCode: -1, Attempt: 1, OccurredAt: at},
			`{"component_appid":"` + appID + `","class":"transient","errcode":-1,"attempt":1,"occurred_at":"2026-03-14T09:26:53.589793Z"}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(test.failure.Encode()); got != test.wire {
				t.Errorf("got  %s\nwant %s", got, test.wire)
			}
			got, err := preauth.ParseFailure([]byte(test.wire))
			if err != nil || !reflect.DeepEqual(got, test.failure) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.failure)
			}
		})
	}
}

// Every character survives, whether or not JSON has to escape it.
func TestErrMsgOnTheWire(t *testing.T) {
	for c := range rune(0x180) {
		f := aFailure()
		f.ErrMsg = "a" + string(c) + "b"
		got, err := preauth.ParseFailure(f.Encode())
		if err != nil || got != f {
			t.Errorf("%q became %q, %v", f.ErrMsg, got.ErrMsg, err)
		}
	}
}

func TestLargestBody(t *testing.T) {
	f := aFailure()
	f.ErrMsg = ""
	f.ErrMsg = strings.Repeat("x", preauth.MaxBody-len(f.Encode())-len(`"errmsg":"",`))
	if body := f.Encode(); len(body) != preauth.MaxBody {
		t.Fatalf("the body has %d bytes", len(body))
	}
	if got, err := preauth.ParseFailure(f.Encode()); err != nil || got != f {
		t.Errorf("a body of %d bytes: %v", preauth.MaxBody, err)
	}
	f.ErrMsg += "x"
	_, err := preauth.ParseFailure(f.Encode())
	checkRefused(t, err, "the body has 65537 bytes: the limit is 65536")
}

func TestFailureSubjectAndHeader(t *testing.T) {
	if got := aFailure().Subject("preauth.failed"); got != "preauth.failed."+appID {
		t.Errorf("Subject() = %q", got)
	}
	if got := (preauth.Failure{}).Subject("preauth.failed"); got != "preauth.failed._" {
		t.Errorf("Subject() of a failure without a component = %q", got)
	}
	want := nats.Header{
		"Nats-Msg-Id": {"S.17"}, "ce-id": {"S.17"}, "ce-specversion": {"1.0"}, "ce-type": {"preauth.failed"},
		"ce-source": {"/preauth/test"}, "ce-subject": {"_"}, "ce-time": {"2026-03-14T09:26:53.589793Z"},
		"ce-datacontenttype": {"application/json"}, "content-type": {"application/json"},
	}
	if got := preauth.FailureHeader("S.17", "/preauth/test", "", at); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := preauth.FailureHeader("S.17", "/preauth/test", appID, at)["ce-subject"]; got[0] != appID {
		t.Errorf("ce-subject is %q", got)
	}
}

func TestParseFailureRefuses(t *testing.T) {
	good := string(aFailure().Encode())
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, changed, 1)
	}
	tests := map[string]struct{ body, says string }{
		"an empty body":              {``, "must be a JSON object"},
		"an empty object":            {`{}`, "needs a class"},
		"an empty class":             {with(`"address_not_allowed"`, `""`), "needs a class"},
		"a class as a number":        {with(`"address_not_allowed"`, `61004`), "class must be a string"},
		"an impossible appid":        {with(appID, "_"), "64 letters, digits"},
		"an error code as text":      {with(`61004`, `"`+marker+`"`), "errcode must be a whole number"},
		"a sequence below 0":         {with(`"stream_sequence":17`, `"stream_sequence":-17`), "stream_sequence must be a whole number, 0 or more"},
		"a sequence with a fraction": {with(`"stream_sequence":17`, `"stream_sequence":1.5`), "stream_sequence must be a whole number, 0 or more"},
		"an attempt as text":         {with(`"attempt":3`, `"attempt":"3"`), "attempt must be a whole number"},
		"retry_at made up":           {with(`2026-03-14T09:27`, marker), "retry_at must be an RFC 3339 time such as"},
		"occurred_at twice":          {with(`{`, `{"occurred_at":"2026-03-14T09:26:53Z",`), "occurred_at appears twice"},
	}
	maps.Copy(tests, malformedBodies())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := preauth.ParseFailure([]byte(test.body))
			checkRefused(t, err, test.says)
			if got != (preauth.Failure{}) {
				t.Error("something was returned beside the error")
			}
		})
	}
}
