package preauth_test

import (
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
)

// answerOf returns the headers and the body with which a micro service answers an error.
func answerOf(e *preauth.Error) (nats.Header, []byte) {
	return nats.Header{micro.ErrorCodeHeader: {strconv.Itoa(e.Code)}, micro.ErrorHeader: {e.Message}}, e.Encode()
}

func TestErrorOnTheWire(t *testing.T) {
	tests := map[string]struct {
		err  *preauth.Error
		wire string
		text string
	}{
		"the least": {
			&preauth.Error{Code: preauth.StatusNotFound, Message: "component never seen"},
			`{"error":{"code":404,"message":"component never seen"}}`,
			"404: component never seen",
		},
		"with the reason": {
			&preauth.Error{
				Code: preauth.StatusUnavailable, Message: "no valid code", Class: preauth.ClassAddressNotAllowed, ErrCode: 61004,
				ErrMsg: "access clientip is not registered", RID: "62ea13fb", RequestIP: "203.0.113.9", RetryAt: at.Add(time.Minute),
			},
			`{"error":{"code":503,"message":"no valid code","class":"address_not_allowed","errcode":61004,` +
				`"errmsg":"access clientip is not registered","rid":"62ea13fb","request_ip":"203.0.113.9",` +
				`"retry_at":"2026-03-14T09:27:53.589793Z"}}`,
			"503: no valid code (address_not_allowed, errcode 61004)",
		},
		"with a reason that is not WeChat's": {
			&preauth.Error{Code: preauth.StatusUnavailable, Message: "no valid code", Class: preauth.ClassTokenExpired},
			`{"error":{"code":503,"message":"no valid code","class":"token_expired"}}`,
			"503: no valid code (token_expired)",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			header, body := answerOf(test.err)
			if string(body) != test.wire {
				t.Errorf("got  %s\nwant %s", body, test.wire)
			}
			if got := preauth.ParseError(header.Get, body); !reflect.DeepEqual(got, test.err) {
				t.Errorf("got %+v, want %+v", got, test.err)
			}
			if got := test.err.Error(); got != test.text {
				t.Errorf("Error() = %q, want %q", got, test.text)
			}
		})
	}
}

func TestParseErrorOfAnAnswer(t *testing.T) {
	for _, body := range []string{``, `{"component_appid":"wx1"}`, `{"error":{"code":500,"message":"m"}}`} {
		if got := preauth.ParseError(nats.Header{}.Get, []byte(body)); got != nil {
			t.Errorf("%s without the header is an answer; got %v", body, got)
		}
	}
}

// An error has what the headers say, whatever the body is.
func TestParseErrorOfAnotherService(t *testing.T) {
	bodies := map[string]string{
		"none":                 ``,
		"plain text":           `boom`,
		"another object":       `{"error":"boom"}`,
		"a null":               `{"error":null}`,
		"members of no use":    `{"error":{"message":17,"retry_at":"soon"}}`,
		"another code":         `{"error":{"code":200}}`,
		"an empty message":     `{"error":{"message":""}}`,
		"two errors":           `{"error":{},"error":{}}`,
		"more than is allowed": `{"error":{}}` + string(make([]byte, preauth.MaxBody)),
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			header := nats.Header{micro.ErrorCodeHeader: {"503"}, micro.ErrorHeader: {"said in the header"}}
			got := preauth.ParseError(header.Get, []byte(body))
			if want := (&preauth.Error{Code: 503, Message: "said in the header"}); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	t.Run("a fuller message in the body", func(t *testing.T) {
		header := nats.Header{micro.ErrorCodeHeader: {"429"}, micro.ErrorHeader: {"too many"}}
		got := preauth.ParseError(header.Get, []byte(`{"error":{"message":"too many at once:\ntry again"}}`))
		if want := (&preauth.Error{Code: 429, Message: "too many at once:\ntry again"}); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("a code that is not a number", func(t *testing.T) {
		header := nats.Header{micro.ErrorCodeHeader: {"NOPE"}, micro.ErrorHeader: {"message"}}
		got := preauth.ParseError(header.Get, nil)
		if want := (&preauth.Error{Code: preauth.StatusInternal, Message: "message"}); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
