package wechattest

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Fault says what goes wrong with a call. The fields take effect in the order of their declaration
// and can be combined. The zero Fault does nothing.
type Fault struct {
	// Delay delays the call on arrival, in real time.
	Delay time.Duration
	// Hold stops the call on arrival, before it is decided.
	Hold *Hold
	// Reset resets the connection instead of answering: [ResetBefore] on arrival, [ResetAfter] when
	// the answer would begin.
	Reset Reset
	// ErrCode answers with an error of WeChat, whether or not the call deserves it. ErrMsg is its
	// text; the server appends a rid. The default is WeChat's text for that code.
	ErrCode int
	ErrMsg  string
	// Status and Body answer as a gateway in front of WeChat would: nothing is checked and no code
	// is issued. The default Body is the name of the status, the default Status is 200. With an
	// ErrCode, Status is the status of the error, and Body has no effect.
	Status int
	Body   string
	// Reply changes members of a successful answer: nil removes a member, any other value is
	// encoded with encoding/json and set. A code is issued all the same.
	Reply map[string]any
	// HoldAnswer stops the call after it is decided, before the answer begins.
	HoldAnswer *Hold
	// Header sets headers of the answer.
	Header http.Header
	// HoldBody stops the call in the middle of the body.
	HoldBody *Hold
	// CutBody closes the connection in the middle of the body.
	CutBody bool
}

// Reset says when the server resets the connection instead of answering.
type Reset int

const (
	// NoReset leaves the connection alone.
	NoReset Reset = iota
	// ResetBefore resets it before the call has any effect.
	ResetBefore
	// ResetAfter resets it after the call took effect: a code is issued, and the client never gets
	// it.
	ResetAfter
)

// Error answers with an error of WeChat. If errMsg is empty, it is WeChat's text for that code.
func Error(errCode int, errMsg string) Fault { return Fault{ErrCode: errCode, ErrMsg: errMsg} }

// HTTPStatus answers with a bare HTTP status, as a gateway does.
func HTTPStatus(status int) Fault { return Fault{Status: status} }

// Redirect redirects the call to another URL with status 307, on which a client that follows
// redirects sends the whole request again.
func Redirect(to string) Fault {
	return Fault{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {to}}}
}

// HTML answers with a web page, as a captive portal does.
func HTML() Fault {
	return Fault{
		Body:   "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in to the network.</body></html>\n",
		Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
	}
}

// Garbage answers with bytes that are not text.
func Garbage() Fault { return Fault{Body: "\x1f\x8b\x08\x00\xff\xfe{\"pre_auth_code\":\x00"} }

// TruncatedJSON answers with the beginning of a success. The HTTP response is complete.
func TruncatedJSON() Fault { return Fault{Body: `{"pre_auth_code":"preauthcode@@@`} }

// Huge answers with a success of more than a megabyte.
func Huge() Fault {
	return Fault{Reply: map[string]any{"padding": strings.Repeat("0", 1<<20)}}
}

// EmptyCode answers with a success whose code is empty.
func EmptyCode() Fault { return Fault{Reply: map[string]any{"pre_auth_code": ""}} }

// WithoutExpiresIn answers with a success without expires_in.
func WithoutExpiresIn() Fault { return Fault{Reply: map[string]any{"expires_in": nil}} }

// ExpiresIn answers with a success whose expires_in is the given JSON, such as `"1800"`.
func ExpiresIn(raw string) Fault {
	return Fault{Reply: map[string]any{"expires_in": json.RawMessage(raw)}}
}

// WithErrCodeZero answers with a success that also has errcode 0 and errmsg ok, as WeChat's may.
func WithErrCodeZero() Fault {
	return Fault{Reply: map[string]any{"errcode": 0, "errmsg": "ok"}}
}

// Hold stops calls at one of the points of a [Fault] until it is released. A released call goes on
// even if its client has given up, as it would at WeChat.
type Hold struct {
	arrived, released chan struct{}
	arriveOnce        sync.Once
	releaseOnce       sync.Once
}

// NewHold returns a hold that no call has reached.
func NewHold() *Hold {
	return &Hold{arrived: make(chan struct{}), released: make(chan struct{})}
}

// Reached returns a channel that is closed when the first call reaches the hold.
func (h *Hold) Reached() <-chan struct{} { return h.arrived }

// Release lets calls go on: those at the hold and all that reach it later.
func (h *Hold) Release() { h.releaseOnce.Do(func() { close(h.released) }) }

func (h *Hold) arrive() { h.arriveOnce.Do(func() { close(h.arrived) }) }
