package preauth_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
)

// The seeds are in testdata/fuzz. Run a target with: go test -run '^$' -fuzz FuzzTokenEvent .

func FuzzTokenEvent(f *testing.F) {
	f.Fuzz(func(t *testing.T, appid, contentType, specVersion string, body []byte, received int64) {
		header := nats.Header{}
		if contentType != "" {
			header.Set("Content-Type", contentType)
		}
		if specVersion != "" {
			header.Set("ce-specversion", specVersion)
		}
		arrived := time.Unix(0, received)
		event, err := preauth.ParseTokenEvent(appid, header, body, arrived)
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
		if event.IssuedAt.Year() < 1 {
			return // has no form on the wire
		}
		again, err := preauth.ParseTokenEvent("", nil, event.Encode(), arrived)
		if err != nil || !reflect.DeepEqual(again, event) {
			t.Errorf("%+v became %+v, %v", event, again, err)
		}
	})
}

func FuzzLookupRequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, appid string, body []byte) {
		request, err := preauth.ParseLookupRequest(appid, body)
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
	f.Fuzz(func(t *testing.T, body []byte) {
		update, err := preauth.ParseUpdate(body)
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
	f.Fuzz(func(t *testing.T, body []byte) {
		lookup, err := preauth.ParseLookup(body)
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
	f.Fuzz(func(t *testing.T, body []byte) {
		failure, err := preauth.ParseFailure(body)
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

func FuzzError(f *testing.F) {
	f.Fuzz(func(t *testing.T, code, message string, body []byte) {
		header := nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {message}}
		failed := preauth.ParseError(header.Get, body)
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

// checkFuzzedError requires a refusal that repeats nothing; the seeds hold the marker where tokens and
// codes are.
func checkFuzzedError(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, preauth.ErrInvalid) {
		t.Errorf("%v does not wrap ErrInvalid", err)
	}
	if text := err.Error(); strings.Contains(text, marker) || len(text) > 200 || !utf8.ValidString(text) {
		t.Errorf("the error repeats the message: %q", text)
	}
}

// checkFuzzedAppID requires a valid appid, the one in the subject if that names one.
func checkFuzzedAppID(t *testing.T, inSubject, appid string) {
	t.Helper()
	if err := preauth.CheckAppID(appid); err != nil || (inSubject != "" && inSubject != appid) {
		t.Errorf("subject %q, event %q: %v", inSubject, appid, err)
	}
}

func FuzzClaimRequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, appid string, body []byte) {
		request, err := preauth.ParseClaimRequest(appid, body)
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
	f.Fuzz(func(t *testing.T, body []byte) {
		claim, err := preauth.ParseClaim(body)
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

// FuzzResolve reads each body as the request and as the answer.
func FuzzResolve(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		if request, err := preauth.ParseResolveRequest(body); err != nil {
			checkFuzzedError(t, err)
		} else if again, err := preauth.ParseResolveRequest(request.Encode()); err != nil || !again.PreAuthCode.Equal(request.PreAuthCode) {
			t.Errorf("the request became another: %v", err)
		}
		resolved, err := preauth.ParseResolved(body)
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
