package preauth

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/micro"
)

// The status codes of an [Error].
const (
	// StatusBadRequest means that the request breaks the contract. The message says what to change.
	StatusBadRequest = 400
	// StatusNotFound means that no valid token event ever named the component, or that the code to
	// resolve was never claimed.
	StatusNotFound = 404
	// StatusConflict means that the claim id was used with another reference.
	StatusConflict = 409
	// StatusTooMany means that the service is busy with other requests. Try again a little later.
	StatusTooMany = 429
	// StatusInternal means that the service or its database failed.
	StatusInternal = 500
	// StatusUnavailable means that there is no valid code now. Class says why, and RetryAt when the
	// service tries again.
	StatusUnavailable = 503
)

// Error is the service's answer to a request that it cannot serve. On the wire it is in the headers
// of a NATS micro service (Nats-Service-Error-Code, Nats-Service-Error) and, in full, in the body.
type Error struct {
	// Code is one of the Status constants.
	Code int
	// Message says what is wrong, in English and for a person. Do not compare it.
	Message string
	// Class, ErrCode, ErrMsg, RID and RequestIP are those of the component's last [Failure], if
	// that is the reason. Otherwise they are zero, or Class alone is set.
	Class     Class
	ErrCode   int
	ErrMsg    string
	RID       string
	RequestIP string
	// RetryAt is when the service tries again, in UTC. It is zero if the service waits for a newer
	// token or does not know.
	RetryAt time.Time
}

// Error returns the code and the message, and the class and errcode if they are known.
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

// wireError is an [Error] as it is parsed.
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

// ParseError returns the error in a reply, and nil if the reply is not an error. header returns the
// value of one of the reply's headers: pass the Get method of its Header.
//
// A reply is an error if it has the header Nats-Service-Error-Code, whatever its body is. If the
// body cannot be parsed, the error has what the headers say.
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
	_ = decodeObject(body, []member{{name: "error", into: &wire}}) // the headers are enough
	return &Error{
		Code: number, Message: cmp.Or(wire.Message, header(micro.ErrorHeader)), Class: wire.Class, ErrCode: wire.ErrCode,
		ErrMsg: wire.ErrMsg, RID: wire.RID, RequestIP: wire.RequestIP, RetryAt: wire.RetryAt.Time,
	}
}
