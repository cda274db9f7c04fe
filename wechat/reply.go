package wechat

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"preauth"
)

// MaxExpiresIn is the longest life that a code may have: twice the longest that WeChat ever
// documented, 1,800 s. A longer expires_in counts as MaxExpiresIn, so that a mistake at WeChat,
// such as milliseconds, cannot keep a dead code in use for weeks.
const MaxExpiresIn = time.Hour

// MaxCode is the longest code that the client accepts, in characters. WeChat's have 78 or 100.
const MaxCode = 512

// Code is a pre_auth_code from WeChat.
type Code struct {
	// PreAuthCode is the code as WeChat sent it, with its prefix "preauthcode@@@".
	PreAuthCode preauth.Secret
	// ExpiresIn is the life of the code in whole seconds, from one second to [MaxExpiresIn]. It
	// began at some time during the call, so count it from before the call.
	ExpiresIn time.Duration
}

// reply is an HTTP response.
type reply struct {
	status      int
	contentType string
	date        string
	body        []byte
}

// code returns the code in the reply, and an [*Error] if there is none. token is redacted in the
// error.
func (r reply) code(host string, token preauth.Secret) (Code, error) {
	answer, unusable := parseAnswer(r.body)
	if r.ok() && answer.errCode == 0 && unusable == nil {
		return Code{PreAuthCode: preauth.NewSecret(answer.code), ExpiresIn: answer.expiresIn}, nil
	}
	return Code{}, r.failure(host, newRedactor(token.Reveal(), answer.code), answer.errCode, answer.errMsg, unusable)
}

// ok reports whether the status is that of a success.
func (r reply) ok() bool { return r.status >= 200 && r.status <= 299 }

// failure returns the error of a reply that has no answer. unusable says why, if WeChat itself does
// not.
func (r reply) failure(host string, redactor redactor, errCode int, errMsg string, unusable error) *Error {
	e := &Error{Host: host, Status: r.status, ErrCode: errCode}
	switch {
	case r.status == http.StatusTooManyRequests || r.status >= 500:
		e.Class = preauth.ClassTransient
	case r.status >= 300 && r.status <= 399:
		e.Class, e.Err = preauth.ClassBadReply, errors.New("a redirect, which the client does not follow")
	case errCode != 0:
		e.Class = classOf(errCode)
	default:
		e.Class = preauth.ClassBadReply
		if unusable != nil {
			e.Err = fmt.Errorf("%w (%d bytes of %q)", unusable, len(r.body), truncate(redactor.text(r.contentType)))
		}
	}
	errMsg = redactor.text(errMsg)
	e.ErrMsg, e.RID = truncate(errMsg), rid(errMsg)
	if e.Class == preauth.ClassAddressNotAllowed {
		e.RequestIP = requestIP(errMsg)
	}
	return e
}

// answer holds the members of a reply's body that could be parsed.
type answer struct {
	errCode   int
	errMsg    string
	code      string
	expiresIn time.Duration
}

// parseAnswer parses the body of a reply. The error says why the body has no usable code, and
// repeats nothing from it. It has no meaning if errCode is not 0.
//
// A member that appears twice, in whatever case, makes the body unusable, because another reader
// could use the other value. Of several errmsgs the last one counts: it is only for people.
func parseAnswer(body []byte) (answer, error) {
	var a answer
	if len(body) > maxReply {
		return a, fmt.Errorf("longer than %d bytes", maxReply)
	}
	var members struct {
		ErrCode     member `json:"errcode"`
		ErrMsg      member `json:"errmsg"`
		PreAuthCode member `json:"pre_auth_code"`
		ExpiresIn   member `json:"expires_in"`
	}
	if json.Unmarshal(body, &members) != nil {
		return a, errors.New("not a JSON object")
	}
	a.errMsg, a.code = members.ErrMsg.text(), members.PreAuthCode.text()
	var err error
	if a.errCode, err = members.ErrCode.errCode(); err != nil {
		return a, err
	}
	if members.PreAuthCode.times > 1 || members.ExpiresIn.times > 1 {
		return a, errors.New("pre_auth_code or expires_in appears twice")
	}
	if err := checkCode(a.code); err != nil {
		return a, err
	}
	a.expiresIn, err = members.ExpiresIn.lifetime()
	return a, err
}

// member is a member of a reply. Its value is nil if the member is absent or null.
type member struct {
	value []byte
	times int // how often it appears
}

// UnmarshalJSON keeps the value for later.
func (m *member) UnmarshalJSON(value []byte) error {
	m.times++
	m.value = nil
	if string(value) != "null" {
		m.value = slices.Clone(value)
	}
	return nil
}

// text returns the value of a string, and "" for any other value.
func (m *member) text() string {
	var text string
	_ = json.Unmarshal(m.value, &text)
	return text
}

// number returns the value of a number, which may be in a string.
func (m *member) number() (string, error) {
	var number json.Number // encoding/json also accepts a number in a string
	err := json.Unmarshal(m.value, &number)
	return number.String(), err
}

// errCode returns an errcode, and 0 if there is none.
func (m *member) errCode() (int, error) {
	if m.times > 1 {
		return 0, errors.New("errcode appears twice")
	}
	if m.value == nil {
		return 0, nil
	}
	number, err := m.number()
	if err != nil {
		return 0, errors.New("errcode is not a number")
	}
	code, err := strconv.Atoi(number)
	if err != nil {
		return 0, errors.New("errcode is not a whole number")
	}
	return code, nil
}

// lifetime returns an expires_in, which is in seconds.
func (m *member) lifetime() (time.Duration, error) {
	if m.value == nil {
		return 0, errors.New("no expires_in")
	}
	number, err := m.number()
	if err != nil {
		return 0, errors.New("expires_in is not a number")
	}
	// ParseFloat returns an infinity for a number that is too large, and the limits apply to it.
	seconds, _ := strconv.ParseFloat(number, 64)
	if seconds < 1 {
		return 0, errors.New("expires_in is less than a second")
	}
	return time.Duration(min(seconds, MaxExpiresIn.Seconds())) * time.Second, nil
}

func checkCode(code string) error {
	switch {
	case code == "":
		return errors.New("no pre_auth_code")
	case len(code) > MaxCode:
		return fmt.Errorf("pre_auth_code has %d characters: the limit is %d", len(code), MaxCode)
	case slices.ContainsFunc([]byte(code), func(c byte) bool { return c <= ' ' || c > '~' }):
		return errors.New("pre_auth_code has characters other than printable ASCII")
	}
	return nil
}
