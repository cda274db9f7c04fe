package preauth_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/internal/allocation"
)

// The seeds are those of hostileBodies and those in testdata/fuzz. Run a target with:
//
//	go test -run '^$' -fuzz '^FuzzTokenEvent$' -fuzztime 5m .

// hostileValues are JSON values that a faulty or hostile publisher may send for any member.
var hostileValues = []string{
	// numbers
	`0`, `-0`, `-1`, `0.5`, `1e3`, `1E+400`, `-1e400`, `1e-400`, `00`, `+1`, `.5`, `1.`, `0x10`, `1_000`, `NaN`, `Infinity`, `-Infinity`,
	`7200.0`, `86401`, `2147483648`, `4294967296`, `9007199254740993`, `9223372036854775807`, `9223372036854775808`,
	`-9223372036854775808`, `-9223372036854775809`, `18446744073709551615`, `18446744073709551616`, strings.Repeat("9", 5000),
	`"7200"`, `"NaN"`, `"-1"`,
	// times
	`"2026-03-14T09:26:53Z"`, `"2026-03-14T09:26:53.123456789123456789Z"`, `"2026-03-14T09:26:53+23:59"`, `"2026-03-14T09:26:53-23:59"`,
	`"2026-03-14T09:26:53+24:00"`, `"0000-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, `"0000-01-01T00:00:00+01:00"`, `"9999-12-31T23:59:59.9999999Z"`,
	`"9999-12-31T23:59:59-00:01"`, `"10000-01-01T00:00:00Z"`, `"-0001-01-01T00:00:00Z"`, `"2026-02-30T00:00:00Z"`, `"2026-03-14T24:00:00Z"`,
	`"2026-06-30T23:59:60Z"`, `"2026-03-14 09:26:53Z"`, `"2026-03-14T09:26:53"`, `1773480413`,
	// strings: characters with a meaning in NATS subjects, invalid Unicode, characters that may end
	// a string early
	`""`, `" "`, `"."`, `"a.b"`, `".a"`, `"a."`, `"*"`, `">"`, `"a.>"`, `"a b"`, `"a\tb"`, `"a\r\nPUB x 0\r\n"`, `"$SYS"`, `"$JS.API.>"`, `"_INBOX.x"`, `"_"`,
	`"-a"`, `"wx\u0000"`, `"\u0000"`, `"wx１"`, `"ｗｘ"`, `"预授权"`, `"wx\u200b"`, `"\ud800"`, `"\udc00\ud800"`, `"\ufeffwx"`, `"\u2028"`, `"\"`, `"\x"`,
	"\"wx\x00\"", "\"wx\xff\"", "\"\xed\xa0\x80\"", "\"\xc0\xaf\"", `"` + strings.Repeat("x", 64) + `"`, `"` + strings.Repeat("x", 65) + `"`,
	`"` + marker + strings.Repeat("x", 3000) + `"`, `"` + strings.Repeat("预", 700) + `"`,
	`"http://"`, `"javascript:alert(1)"`, `"https://a.example/\u202e"`, `"https://user:` + marker + `@a.example/?a=b#c"`, `"https://[::1"`, `"//a.example"`,
	// anything else
	`null`, `true`, `[]`, `{}`, `[[[[]]]]`, `{"a":{"a":{}}}`, `[` + "`" + marker + `]`, ``,
	strings.Repeat("[", 20_000), strings.Repeat("[", 9_990) + strings.Repeat("]", 9_990), strings.Repeat(`{"a":`, 11_000),
}

// hostileBodies returns seeds for a parser of objects with the given members: each hostile value in
// each member, alone and in an otherwise good object; members that appear twice; and bodies that no
// parser accepts.
func hostileBodies(good string, members ...string) [][]byte {
	bodies := [][]byte{[]byte(good), []byte("\ufeff" + good), []byte(good + good), []byte(good + "\x00"), []byte(strings.ToUpper(good))}
	for _, malformed := range malformedBodies() {
		bodies = append(bodies, []byte(malformed.body))
	}
	open := strings.TrimSuffix(good, "}")
	for _, member := range members {
		for _, value := range hostileValues {
			bodies = append(bodies, fmt.Appendf(nil, `{%q:%s}`, member, value), fmt.Appendf(nil, `%s,%q:%s}`, open, member, value))
		}
		bodies = append(bodies,
			fmt.Appendf(nil, `%s,%q:null,%q:null}`, open, member, member),
			fmt.Appendf(nil, `%s,%q:"%s"}`, open, strings.ToUpper(member), marker),
			fmt.Appendf(nil, `%s,%q:"%s"}`, open, member, strings.Repeat("x", preauth.MaxBody)),
		)
	}
	return bodies
}

// parse calls a parser and checks that its allocations stay in proportion to the body.
func parse[T any](t *testing.T, body []byte, parser func() (T, error)) (T, error) {
	t.Helper()
	var parsed T
	var err error
	grown := allocation.Bytes(func() { parsed, err = parser() })
	// Nested brackets cost the most; encoding/json accepts 10,000 levels.
	if grown > uint64(128<<10+96*len(body)) {
		t.Errorf("%d bytes took %d bytes of memory to read", len(body), grown)
	}
	return parsed, err
}

// FuzzSubject parses any subject as one below a subject of the contract.
func FuzzSubject(f *testing.F) {
	const below = "component.token.updated"
	for _, appid := range []string{
		appID, "", ".", "..", "a.b", "*", ">", "a.*", "a.>", "$JS", "_INBOX", "_", "-a", "a b", "a\tb", "a\r\nPUB x 0\r\n", "wx\x00", "wx\xff",
		"预授权", "ｗｘ", "wx\u200b", strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("a.", 1000), marker + "!",
	} {
		f.Add(preauth.SubjectFor(below, appid))
	}
	f.Add(below)
	f.Add(below + "x")
	f.Add("")
	f.Fuzz(func(t *testing.T, subject string) {
		appid := preauth.AppIDFromSubject(below, subject)
		if err := preauth.CheckAppID(appid); err != nil {
			checkFuzzedError(t, err)
			return
		}
		if preauth.SubjectFor(below, appid) != subject {
			t.Errorf("%q is said to be about %q", subject, appid)
		}
		// In any other subject it must be a single token.
		failed := preauth.Failure{AppID: appid}.Subject("preauth.failed")
		if strings.Count(failed, ".") != 2 || strings.ContainsAny(failed, "*> \t\r\n$\x00") || len(appid) > 64 {
			t.Errorf("%q is taken for an appid", appid)
		}
	})
}

func FuzzTokenEvent(f *testing.F) {
	good := `{"component_appid":"` + appID + `","component_access_token":"` + token + `"}`
	for _, body := range hostileBodies(good, "component_appid", "component_access_token", "expires_in", "issued_at", "expires_at") {
		f.Add("", "", "", body, at.UnixNano())
		f.Add("", "", "1.0", body, at.UnixNano())
		f.Add("", "", "", fmt.Appendf(nil, `{"specversion":"1.0","data":%s}`, body), at.UnixNano())
	}
	event := `{"specversion":"1.0","id":"1","type":"t","source":"/s","data":` + good + `}`
	for _, body := range hostileBodies(event, "specversion", "data", "data_base64", "component_access_token") {
		f.Add("", "application/cloudevents+json", "", body, at.UnixNano())
		f.Add("", "", "", body, at.UnixNano())
	}
	for _, value := range hostileValues {
		text := strings.Trim(value, `"`)
		f.Add(text, "", "", []byte(good), at.UnixNano())
		f.Add("", text, text, []byte(good), at.UnixNano())
	}
	f.Fuzz(func(t *testing.T, appid, contentType, specVersion string, body []byte, received int64) {
		header := nats.Header{}
		if contentType != "" {
			header.Set("Content-Type", contentType)
		}
		if specVersion != "" {
			header.Set("ce-specversion", specVersion)
		}
		arrived := time.Unix(0, received)
		event, err := parse(t, body, func() (preauth.TokenEvent, error) { return preauth.ParseTokenEvent(appid, header, body, arrived) })
		if event.AppID != "" || err == nil {
			checkFuzzedAppID(t, appid, event.AppID)
		}
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		if life := event.ExpiresAt.Sub(event.IssuedAt); life <= 0 || life > preauth.MaxTokenLife {
			t.Errorf("the token lives %v", life)
		}
		if event.IssuedAt.After(arrived) {
			t.Errorf("issued at %v, after it arrived at %v", event.IssuedAt, arrived)
		}
		if err := event.Check(); err != nil {
			t.Errorf("what was taken does not pass Check: %v", err)
		}
		if event.IssuedAt.Year() < 1970 {
			return // cannot be encoded
		}
		again, err := preauth.ParseTokenEvent("", nil, event.Encode(), arrived)
		if err != nil || !reflect.DeepEqual(again, event) {
			t.Errorf("%+v became %+v, %v", event, again, err)
		}
	})
}

func FuzzAuthorizationEvent(f *testing.F) {
	good := `{"component_appid":"` + appID + `","pre_auth_code":"` + code + `","authorizer_appid":"` + authorizer + `"}`
	for _, body := range hostileBodies(good, "component_appid", "pre_auth_code", "authorizer_appid", "info_type", "authorized_at") {
		f.Add("", aTrace, body, at.UnixNano())
		f.Add(appID, "", fmt.Appendf(nil, `{"specversion":"1.0","data":%s}`, body), at.UnixNano())
	}
	for _, value := range hostileValues {
		text := strings.Trim(value, `"`)
		f.Add(text, text, []byte(good), at.UnixNano())
	}
	f.Fuzz(func(t *testing.T, appid, trace string, body []byte, received int64) {
		header, arrived := nats.Header{"traceparent": {trace}}, time.Unix(0, received)
		event, err := parse(t, body, func() (preauth.AuthorizationEvent, error) {
			return preauth.ParseAuthorizationEvent(appid, header, body, arrived)
		})
		if event.AppID != "" || err == nil {
			checkFuzzedAppID(t, appid, event.AppID)
		}
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, "", event.AuthorizerAppID)
		if event.AuthorizedAt.IsZero() || event.AuthorizedAt.After(arrived) {
			t.Errorf("authorized at %v, and the event arrived at %v", event.AuthorizedAt, arrived)
		}
		if event.TraceParent != "" && (event.TraceParent != trace || len(trace) != len(aTrace)) {
			t.Errorf("the trace %q became %q", trace, event.TraceParent)
		}
		if event.AuthorizedAt.Year() < 1970 {
			return // cannot be encoded
		}
		again, err := preauth.ParseAuthorizationEvent("", header, event.Encode(), arrived)
		if err != nil || !reflect.DeepEqual(again, event) {
			t.Errorf("%+v became %+v, %v", event, again, err)
		}
	})
}

func FuzzAuthorized(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`","claim_id":"visitor","authorizer_appid":"`+authorizer+`","authorized_at":"2026-03-14T09:06:00Z"}`, "component_appid", "claim_id", "reference", "claimed_at", "revision", "authorizer_appid", "info_type", "authorized_at", "issued_at", "expires_at") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		authorized, err := parse(t, body, func() (preauth.Authorized, error) { return preauth.ParseAuthorized(body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, "", authorized.AppID)
		if again, err := preauth.ParseAuthorized(authorized.Encode()); err != nil || again != authorized {
			t.Errorf("%+v became %+v, %v", authorized, again, err)
		}
	})
}

func FuzzLookupRequest(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`"}`, "component_appid", "min_ttl", "min_revision", "redirect_uri", "auth_type", "biz_appid", "category_id_list") {
		f.Add("", body)
		f.Add(appID, body)
	}
	f.Fuzz(func(t *testing.T, appid string, body []byte) {
		request, err := parse(t, body, func() (preauth.LookupRequest, error) { return preauth.ParseLookupRequest(appid, body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, appid, request.AppID)
		if request.MinTTL < 0 || request.MinTTL > preauth.MaxTokenLife {
			t.Errorf("MinTTL is %v", request.MinTTL)
		}
		again, err := preauth.ParseLookupRequest("", request.Encode())
		if err != nil || again != request {
			t.Errorf("%+v became %+v, %v", request, again, err)
		}
	})
}

func FuzzUpdate(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`","pre_auth_code":"`+code+`","issued_at":"2026-03-14T09:00:00.25Z","expires_at":"2026-03-14T09:30:00.25Z","revision":42,"cause":"token"}`, "component_appid", "pre_auth_code", "issued_at", "expires_at", "revision", "cause", "spent") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		update, err := parse(t, body, func() (preauth.Update, error) { return preauth.ParseUpdate(body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, "", update.AppID)
		again, err := preauth.ParseUpdate(update.Encode())
		if err != nil || !reflect.DeepEqual(again, update) {
			t.Errorf("%+v became %+v, %v", update, again, err)
		}
	})
}

func FuzzLookup(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`","pre_auth_code":"`+code+`","issued_at":"2026-03-14T09:00:00.25Z","expires_at":"2026-03-14T09:30:00.25Z","expires_in":1799,"revision":42}`, "component_appid", "pre_auth_code", "issued_at", "expires_at", "expires_in", "revision", "links") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		lookup, err := parse(t, body, func() (preauth.Lookup, error) { return preauth.ParseLookup(body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, "", lookup.AppID)
		again, err := preauth.ParseLookup(lookup.Encode())
		if err != nil || !reflect.DeepEqual(again, lookup) {
			t.Errorf("%+v became %+v, %v", lookup, again, err)
		}
	})
}

func FuzzFailure(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`","class":"quota","errcode":45009,"attempt":1,"occurred_at":"2026-03-14T09:00:00Z"}`, "component_appid", "class", "errcode", "errmsg", "rid", "request_ip", "stream", "stream_sequence", "attempt", "retry_at", "occurred_at") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		failure, err := parse(t, body, func() (preauth.Failure, error) { return preauth.ParseFailure(body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		if failure.AppID != "" {
			checkFuzzedAppID(t, "", failure.AppID)
		}
		again, err := preauth.ParseFailure(failure.Encode())
		if err != nil || again != failure {
			t.Errorf("%+v became %+v, %v", failure, again, err)
		}
	})
}

// FuzzStatus parses each body as a request, as an answer of each kind and as what a replica says.
func FuzzStatus(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`","state":"failing","spares":1,"failure":{"class":"quota","attempt":1},"quota":{"limit":9,"remaining":1}}`, "component_appid", "state", "after", "due_at", "failure", "quota") {
		f.Add("", body)
		f.Add(appID, fmt.Appendf(nil, `{"summary":%s,"components":[%s],"next":"wx"}`, body, body))
	}
	f.Fuzz(func(t *testing.T, appid string, body []byte) {
		fuzzMessage(t, body, preauth.StatusRequest.Encode,
			func(body []byte) (preauth.StatusRequest, error) { return preauth.ParseStatusRequest(appid, body) },
			func(body []byte) (preauth.StatusRequest, error) { return preauth.ParseStatusRequest("", body) })
		fuzzMessage(t, body, preauth.RenewRequest.Encode,
			func(body []byte) (preauth.RenewRequest, error) { return preauth.ParseRenewRequest(appid, body) },
			func(body []byte) (preauth.RenewRequest, error) { return preauth.ParseRenewRequest("", body) })
		fuzzMessage(t, body, preauth.Status.Encode, preauth.ParseStatus, preauth.ParseStatus)
		fuzzMessage(t, body, preauth.StatusPage.Encode, preauth.ParseStatusPage, preauth.ParseStatusPage)
		fuzzMessage(t, body, preauth.Replica.Encode, preauth.ParseReplica, preauth.ParseReplica)
	})
}

// fuzzMessage parses a body, and what it encodes to once more.
func fuzzMessage[T any](t *testing.T, body []byte, encode func(T) []byte, first, again func([]byte) (T, error)) {
	t.Helper()
	message, err := parse(t, body, func() (T, error) { return first(body) })
	if err != nil {
		checkFuzzedError(t, err)
		return
	}
	if len(encode(message)) > preauth.MaxBody {
		return // escapes take more room than what they stand for
	}
	if same, err := again(encode(message)); err != nil || !reflect.DeepEqual(same, message) {
		t.Errorf("%+v became %+v, %v", message, same, err)
	}
}

func FuzzError(f *testing.F) {
	for _, body := range hostileBodies(`{"error":{"code":503,"message":"there is no valid code now"}}`, "error") {
		f.Add("503", "there is no valid code now", body)
	}
	for _, value := range hostileValues {
		f.Add(strings.Trim(value, `"`), "", []byte(`{"error":{"code":`+value+`,"retry_at":`+value+`}}`))
	}
	f.Fuzz(func(t *testing.T, code, message string, body []byte) {
		header := nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {message}}
		failed, _ := parse(t, body, func() (*preauth.Error, error) { return preauth.ParseError(header.Get, body), nil })
		if (failed != nil) != (code != "") {
			t.Fatalf("code %q gave %v", code, failed)
		}
		if failed == nil || !utf8.ValidString(message) {
			return
		}
		header, body = answerOf(failed)
		if again := preauth.ParseError(header.Get, body); !reflect.DeepEqual(again, failed) {
			t.Errorf("%+v became %+v", failed, again)
		}
	})
}

// checkFuzzedError requires an ErrInvalid that repeats nothing of the message. In the seeds, tokens
// and codes contain the marker.
func checkFuzzedError(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, preauth.ErrInvalid) {
		t.Errorf("%v does not wrap ErrInvalid", err)
	}
	if text := err.Error(); strings.Contains(text, marker) || len(text) > 200 || !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x00") {
		t.Errorf("the error repeats the message: %q", text)
	}
}

// checkFuzzedAppID requires a valid appid, and the subject's if the subject names one.
func checkFuzzedAppID(t *testing.T, inSubject, appid string) {
	t.Helper()
	if err := preauth.CheckAppID(appid); err != nil || (inSubject != "" && inSubject != appid) {
		t.Errorf("subject %q, event %q: %v", inSubject, appid, err)
	}
}

func FuzzClaimRequest(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`"}`, "component_appid", "claim_id", "reference", "min_ttl", "redirect_uri", "auth_type", "biz_appid", "category_id_list") {
		f.Add("", body)
		f.Add(appID, body)
	}
	f.Fuzz(func(t *testing.T, appid string, body []byte) {
		request, err := parse(t, body, func() (preauth.ClaimRequest, error) { return preauth.ParseClaimRequest(appid, body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, appid, request.AppID)
		again, err := preauth.ParseClaimRequest("", request.Encode())
		if err != nil || again != request {
			t.Errorf("%+v became %+v, %v", request, again, err)
		}
	})
}

func FuzzClaim(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`","pre_auth_code":"`+code+`","issued_at":"2026-03-14T09:00:00.25Z","expires_at":"2026-03-14T09:30:00.25Z","expires_in":1799,"claim_id":"visitor","claimed_at":"2026-03-14T09:04:48.8Z"}`, "component_appid", "pre_auth_code", "issued_at", "expires_at", "expires_in", "claim_id", "reference", "claimed_at", "links") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		claim, err := parse(t, body, func() (preauth.Claim, error) { return preauth.ParseClaim(body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, "", claim.AppID)
		again, err := preauth.ParseClaim(claim.Encode())
		if err != nil || !reflect.DeepEqual(again, claim) {
			t.Errorf("%+v became %+v, %v", claim, again, err)
		}
	})
}

// FuzzResolve parses each body as a request and as an answer.
func FuzzResolve(f *testing.F) {
	for _, body := range hostileBodies(`{"component_appid":"`+appID+`","pre_auth_code":"`+code+`","claim_id":"visitor","claimed_at":"2026-03-14T09:04:48.8Z"}`, "component_appid", "pre_auth_code", "claim_id", "reference", "claimed_at", "revision", "issued_at", "expires_at", "authorizer_appid", "authorized_at") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if request, err := parse(t, body, func() (preauth.ResolveRequest, error) { return preauth.ParseResolveRequest(body) }); err != nil {
			checkFuzzedError(t, err)
		} else if again, err := preauth.ParseResolveRequest(request.Encode()); err != nil || !again.PreAuthCode.Equal(request.PreAuthCode) {
			t.Errorf("the request became another: %v", err)
		}
		resolved, err := parse(t, body, func() (preauth.Resolved, error) { return preauth.ParseResolved(body) })
		if err != nil {
			checkFuzzedError(t, err)
			return
		}
		checkFuzzedAppID(t, "", resolved.AppID)
		if again, err := preauth.ParseResolved(resolved.Encode()); err != nil || again != resolved {
			t.Errorf("%+v became %+v, %v", resolved, again, err)
		}
	})
}
