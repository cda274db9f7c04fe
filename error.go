package preauth

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/micro"
)

// The codes of an [Error].
const (
	// StatusBadRequest: the request breaks the contract; the message says what to change.
	StatusBadRequest = 400
	// StatusNotFound: no valid token event ever named the component.
	StatusNotFound = 404
	// StatusConflict: the claim id was used with another reference.
	StatusConflict = 409
	// StatusTooMany: more requests at once than the service takes on; try again a little later.
	StatusTooMany = 429
	// StatusInternal: a fault of the service.
	StatusInternal = 500
	// StatusUnavailable: there is no valid code now. Class and RetryAt say why and when the service
	// tries again.
	StatusUnavailable = 503
)

// Error is the answer to a request that cannot be served. It travels in the headers of NATS micro
// services (Nats-Service-Error-Code, Nats-Service-Error) and, whole, in the body.
type Error struct {
	// Code is one of the Code constants.
	Code int
	// Message says what is wrong, for a person.
	Message string
	// Class, ErrCode, ErrMsg, RID and RequestIP are those of the component's last [Failure], where
	// that is the reason.
	Class     Class
	ErrCode   int
	ErrMsg    string
	RID       string
	RequestIP string
	// RetryAt is when the service tries again, in UTC; the zero time where it does not, or does not
	// know.
	RetryAt time.Time
}

// Error returns the message with what is known of the reason.
func (e *Error) Error() string {
	text := fmt.Sprintf("%d: %s", e.Code, e.Message)
	if e.Class != "" {
		text += fmt.Sprintf(" (%s", e.Class)
		if e.ErrCode != 0 {
			text += fmt.Sprintf(", errcode %d", e.ErrCode)
		}
		text += ")"
	}
	return text
}

// wireError is an error as it is read.
type wireError struct {
	Code      int     `json:"code"`
	Message   string  `json:"message"`
	Class     Class   `json:"class"`
	ErrCode   int     `json:"errcode"`
	ErrMsg    string  `json:"errmsg"`
	RID       string  `json:"rid"`
	RequestIP string  `json:"request_ip"`
	RetryAt   instant `json:"retry_at"`
}

// Encode returns the body.
func (e *Error) Encode() []byte {
	return newObject(512).object("error", newObject(512).
		int("code", int64(e.Code)).
		text("message", e.Message).
		text("class", string(e.Class)).
		int("errcode", int64(e.ErrCode)).
		text("errmsg", e.ErrMsg).
		text("rid", e.RID).
		text("request_ip", e.RequestIP).
		time("retry_at", e.RetryAt)).
		end()
}

// ParseError returns the error that a reply carries, and nil if the reply is an answer. header gives
// the value of a header of the reply.
func ParseError(header func(string) string, body []byte) *Error {
	code := header(micro.ErrorCodeHeader)
	if code == "" {
		return nil
	}
	number, err := strconv.Atoi(code)
	if err != nil {
		number = StatusInternal
	}
	var wire wireError
	_ = decodeObject(body, []member{{name: "error", into: &wire}}) // the headers say enough
	return &Error{
		Code: number, Message: cmp.Or(wire.Message, header(micro.ErrorHeader)), Class: wire.Class, ErrCode: wire.ErrCode,
		ErrMsg: wire.ErrMsg, RID: wire.RID, RequestIP: wire.RequestIP, RetryAt: wire.RetryAt.Time,
	}
}
