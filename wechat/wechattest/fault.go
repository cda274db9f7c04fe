package wechattest

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Fault is what goes wrong with one call. Its fields act in the order in which they stand here, and
// can be combined; the zero Fault does nothing. The functions that return a Fault make the common
// ones.
type Fault struct {
	// Delay is how long the call waits when it arrives, in real time.
	Delay time.Duration
	// Hold is where the call stops when it arrives, before anything is decided.
	Hold *Hold
	// Reset ends the connection in place of an answer: [ResetBefore] here, [ResetAfter] where the answer
	// would begin.
	Reset Reset
	// ErrCode answers with an error of WeChat in place of whatever is true. ErrMsg is its text, to
	// which a rid is added; by default it is what WeChat says with that code.
	ErrCode int
	ErrMsg  string
	// Status and Body answer in place of WeChat, as a gateway would: nothing is checked and no code is
	// issued. A Status without a Body has its own name for one; a Body without a Status comes with
	// 200. With an ErrCode, Status is the status of the error, and Body has no effect.
	Status int
	Body   string
	// Reply changes members of a success, for which a code is issued: a nil removes one, anything else
	// is set as encoding/json encodes it.
	Reply map[string]any
	// HoldAnswer is where the call stops when it is decided, before the answer begins.
	HoldAnswer *Hold
	// Header sets headers of the answer.
	Header http.Header
	// HoldBody is where the call stops in the middle of the body.
	HoldBody *Hold
	// CutBody ends the connection in the middle of the body.
	CutBody bool
}

// Reset says when a connection is reset in place of an answer.
type Reset int

const (
	// NoReset leaves the connection alone.
	NoReset Reset = iota
	// ResetBefore resets before the call has had any effect.
	ResetBefore
	// ResetAfter resets after the call has had its effect: a code was issued, and nobody is told.
	ResetAfter
)

// Error returns the fault of a call that WeChat answers with an error. An empty errMsg stands for
// what WeChat says with that code.
func Error(errCode int, errMsg string) Fault { return Fault{ErrCode: errCode, ErrMsg: errMsg} }

// HTTPStatus returns the fault of a call that a gateway answers with a bare HTTP status.
func HTTPStatus(status int) Fault { return Fault{Status: status} }

// Redirect returns the fault of a call that is redirected to another address, with 307, on which a
// client that follows sends the request again.
func Redirect(to string) Fault {
	return Fault{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {to}}}
}

// HTML returns the fault of a call that something else than WeChat answers with a web page.
func HTML() Fault {
	return Fault{
		Body:   "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in to the network.</body></html>\n",
		Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
	}
}

// Garbage returns the fault of a call whose answer is no text at all.
func Garbage() Fault { return Fault{Body: "\x1f\x8b\x08\x00\xff\xfe{\"pre_auth_code\":\x00"} }

// TruncatedJSON returns the fault of a call whose answer is complete for HTTP and is the beginning of
// a success.
func TruncatedJSON() Fault { return Fault{Body: `{"pre_auth_code":"preauthcode@@@`} }

// Huge returns the fault of a call whose answer is a success of more than a megabyte.
func Huge() Fault {
	return Fault{Reply: map[string]any{"padding": strings.Repeat("0", 1<<20)}}
}

// EmptyCode returns the fault of a success with an empty code.
func EmptyCode() Fault { return Fault{Reply: map[string]any{"pre_auth_code": ""}} }

// WithoutExpiresIn returns the fault of a success that does not say how long the code lives.
func WithoutExpiresIn() Fault { return Fault{Reply: map[string]any{"expires_in": nil}} }

// ExpiresIn returns the fault of a success whose expires_in is the given JSON, such as `"1800"`.
func ExpiresIn(raw string) Fault {
	return Fault{Reply: map[string]any{"expires_in": json.RawMessage(raw)}}
}

// WithErrCodeZero returns the fault, which is none, of a success that also says errcode 0 and ok.
func WithErrCodeZero() Fault {
	return Fault{Reply: map[string]any{"errcode": 0, "errmsg": "ok"}}
}

// Hold stops calls at one of the points that a [Fault] names. A call whose client gave up meanwhile
// goes on when it is released all the same, as it would at WeChat.
type Hold struct {
	arrived, released chan struct{}
	arriveOnce        sync.Once
	releaseOnce       sync.Once
}

// NewHold returns a hold that no call has reached.
func NewHold() *Hold {
	return &Hold{arrived: make(chan struct{}), released: make(chan struct{})}
}

// Reached is closed when the first call has reached the hold.
func (h *Hold) Reached() <-chan struct{} { return h.arrived }

// Release lets all calls go on, those that stand at the hold and those to come.
func (h *Hold) Release() { h.releaseOnce.Do(func() { close(h.released) }) }

func (h *Hold) arrive() { h.arriveOnce.Do(func() { close(h.arrived) }) }
