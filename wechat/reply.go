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

// MaxExpiresIn is the longest life that a code is believed to have: twice the longest that WeChat
// ever documented (1,800 s). A reply that claims more is taken to say this, so that a slip at WeChat,
// such as milliseconds, cannot keep a dead code in use for weeks.
const MaxExpiresIn = time.Hour

// MaxCode is the length in characters of the longest code taken. Real ones have 78 or 100.
const MaxCode = 512

// Code is what WeChat gave.
type Code struct {
	// PreAuthCode is the code as WeChat wrote it, its prefix "preauthcode@@@" included.
	PreAuthCode preauth.Secret
	// ExpiresIn is the life of the code, which WeChat began to count at some time during the call: whole
	// seconds, at least one and at most [MaxExpiresIn].
	ExpiresIn time.Duration
}

// reply is a whole HTTP response.
type reply struct {
	status      int
	contentType string
	body        []byte
}

// read returns the code in the reply or the *Error that the reply is.
func (r reply) read(host string, token preauth.Secret) (Code, error) {
	said, flaw := parse(r.body)
	ok := r.status >= 200 && r.status <= 299
	if ok && said.errCode == 0 && flaw == nil {
		return Code{PreAuthCode: preauth.NewSecret(said.code), ExpiresIn: said.expiresIn}, nil
	}
	censor := newCensor(token.Reveal(), said.code)
	e := &Error{Host: host, Status: r.status, ErrCode: said.errCode}
	switch {
	case r.status == http.StatusTooManyRequests || r.status >= 500:
		e.Class = preauth.ClassTransient
	case r.status >= 300 && r.status <= 399:
		e.Class, e.Err = preauth.ClassBadReply, errors.New("a redirect, which is not followed")
	case said.errCode != 0:
		e.Class = classOf(said.errCode)
	default:
		e.Class = preauth.ClassBadReply
		if flaw != nil {
			e.Err = fmt.Errorf("%w (%d bytes of %q)", flaw, len(r.body), bounded(censor.text(r.contentType)))
		}
	}
	message := censor.text(said.errMsg)
	e.ErrMsg, e.RID = bounded(message), rid(message)
	if e.Class == preauth.ClassAddressNotAllowed {
		e.RequestIP = requestIP(message)
	}
	return Code{}, e
}

// statement is what the body of a reply says, as far as it can be understood.
type statement struct {
	errCode   int
	errMsg    string
	code      string
	expiresIn time.Duration
}

// parse reads the body of a reply. The error says why there is no usable code in it; with an errCode
// other than 0 it means nothing. It never repeats what it is about.
//
// A member that stands twice, or a second time with other capitals, makes the body unusable: another
// reader could take the other one. The errmsg is for people, so its last one is as good as any.
func parse(body []byte) (statement, error) {
	var said statement
	if len(body) > maxReply {
		return said, fmt.Errorf("longer than %d bytes", maxReply)
	}
	var members members
	if json.Unmarshal(body, &members) != nil {
		return said, errors.New("not a JSON object")
	}
	said.errMsg, said.code = members.ErrMsg.text(), members.PreAuthCode.text()
	var err error
	if said.errCode, err = members.ErrCode.errCode(); err != nil {
		return said, err
	}
	if members.PreAuthCode.times > 1 || members.ExpiresIn.times > 1 {
		return said, errors.New("pre_auth_code or expires_in stands twice")
	}
	if err := checkCode(said.code); err != nil {
		return said, err
	}
	said.expiresIn, err = members.ExpiresIn.lifetime()
	return said, err
}

// members are those of a reply that say anything, in whatever capitals.
type members struct {
	ErrCode     member `json:"errcode"`
	ErrMsg      member `json:"errmsg"`
	PreAuthCode member `json:"pre_auth_code"`
	ExpiresIn   member `json:"expires_in"`
}

// member is a member of the reply that is read by its own rules. A null is as good as none.
type member struct {
	value []byte
	times int
}

// UnmarshalJSON takes a value.
func (m *member) UnmarshalJSON(value []byte) error {
	m.times++
	m.value = nil
	if string(value) != "null" {
		m.value = slices.Clone(value)
	}
	return nil
}

// text returns the text of a string, and "" for anything else.
func (m *member) text() string {
	var text string
	_ = json.Unmarshal(m.value, &text)
	return text
}

// number returns what stands for a number, also in a string.
func (m *member) number() (string, error) {
	var number json.Number // takes a number in a string too, and nothing else in one
	err := json.Unmarshal(m.value, &number)
	return number.String(), err
}

// errCode returns the errcode, a whole number that may stand in a string, and 0 where there is none.
func (m *member) errCode() (int, error) {
	if m.times > 1 {
		return 0, errors.New("errcode stands twice")
	}
	if m.value == nil {
		return 0, nil
	}
	number, err := m.number()
	if err != nil {
		return 0, errors.New("errcode is no number")
	}
	code, err := strconv.Atoi(number)
	if err != nil {
		return 0, errors.New("errcode is no whole number")
	}
	return code, nil
}

// lifetime returns the expires_in, a number of seconds that may stand in a string.
func (m *member) lifetime() (time.Duration, error) {
	if m.value == nil {
		return 0, errors.New("no expires_in")
	}
	number, err := m.number()
	if err != nil {
		return 0, errors.New("expires_in is no number")
	}
	// A number too large for a float64 comes as an infinity, which the limits deal with.
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
		return fmt.Errorf("pre_auth_code of %d characters", len(code))
	case slices.ContainsFunc([]byte(code), func(c byte) bool { return c <= ' ' || c > '~' }):
		return errors.New("pre_auth_code with characters that no code has")
	}
	return nil
}
