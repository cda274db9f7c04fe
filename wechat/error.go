package wechat

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"preauth"
)

// Error says why a call failed. Neither it nor anything it wraps contains a token or a code.
type Error struct {
	// Class is the kind of failure and says what ends it.
	Class preauth.Class
	// ErrCode is WeChat's errcode, 0 if WeChat gave none.
	ErrCode int
	// ErrMsg is WeChat's errmsg in one line of at most 512 bytes, with tokens and codes redacted.
	// It is otherwise unaltered, and "" if WeChat gave none.
	ErrMsg string
	// RID is the request id at the end of WeChat's errmsg, which WeChat's support asks for. It is
	// "" if there is none.
	RID string
	// RequestIP is the caller's address as WeChat saw it. It is "" if WeChat did not name it or
	// Class is not [preauth.ClassAddressNotAllowed].
	RequestIP string
	// Host is the host that answered, with the port if the base URL has one. It is "" if none did.
	Host string
	// Status is the HTTP status of the answer, 0 if there was no answer.
	Status int
	// Err is the error of the network or the context, or says why the answer is unusable. It is nil
	// if the answer is an error of WeChat's.
	Err error

	// what the call did not return; "" for a pre_auth_code.
	what string
}

// quotaAnswer is what [Client.Quota] returns.
const quotaAnswer = "quota"

// Error returns the fields that are set, except RID and RequestIP, which are part of ErrMsg. It is
// a single line.
func (e *Error) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "wechat: no %s: %s", cmp.Or(e.what, "pre_auth_code"), e.Class)
	if e.Status != 0 {
		fmt.Fprintf(&text, ": HTTP %d from %s", e.Status, e.Host)
	}
	if e.ErrCode != 0 {
		fmt.Fprintf(&text, ": errcode %d", e.ErrCode)
	}
	if e.ErrMsg != "" {
		fmt.Fprintf(&text, ": %s", e.ErrMsg)
	}
	if e.Err != nil {
		fmt.Fprintf(&text, ": %v", e.Err)
	}
	return text.String()
}

// ErrorType returns the class, which OpenTelemetry has as error.type.
func (e *Error) ErrorType() string { return string(e.Class) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// classes maps WeChat's error codes to classes. Codes that it lacks are [preauth.ClassUnknown].
var classes = map[int]preauth.Class{
	-1: preauth.ClassTransient, // system busy

	45011: preauth.ClassThrottled,

	45009: preauth.ClassQuota,
	48006: preauth.ClassQuota,

	40001: preauth.ClassTokenRejected,
	40014: preauth.ClassTokenRejected,
	40091: preauth.ClassTokenRejected,
	40094: preauth.ClassTokenRejected,
	42001: preauth.ClassTokenRejected,
	42006: preauth.ClassTokenRejected,
	61005: preauth.ClassTokenRejected,
	61006: preauth.ClassTokenRejected,

	40090: preauth.ClassAddressNotAllowed,
	40164: preauth.ClassAddressNotAllowed,
	40187: preauth.ClassAddressNotAllowed,
	45035: preauth.ClassAddressNotAllowed,
	61004: preauth.ClassAddressNotAllowed,

	40013: preauth.ClassConfiguration,
	40125: preauth.ClassConfiguration,
	41004: preauth.ClassConfiguration,
	48001: preauth.ClassConfiguration,
	48004: preauth.ClassConfiguration,
	50002: preauth.ClassConfiguration,
	61000: preauth.ClassConfiguration,
	61001: preauth.ClassConfiguration,
	61003: preauth.ClassConfiguration,
	61007: preauth.ClassConfiguration,
	61011: preauth.ClassConfiguration,
	61014: preauth.ClassConfiguration,
	61016: preauth.ClassConfiguration,
	61024: preauth.ClassConfiguration,
	61028: preauth.ClassConfiguration,

	41001: preauth.ClassRequest,
	41002: preauth.ClassRequest,
	41018: preauth.ClassRequest,
	41021: preauth.ClassRequest,
	43002: preauth.ClassRequest,
	43003: preauth.ClassRequest,
	44002: preauth.ClassRequest,
	47001: preauth.ClassRequest,
	47002: preauth.ClassRequest,
}

func classOf(errCode int) preauth.Class {
	if class, ok := classes[errCode]; ok {
		return class
	}
	return preauth.ClassUnknown
}

var (
	ridPattern = regexp.MustCompile(`\brid: ?([0-9A-Za-z-]{1,64})`)

	// WeChat writes "requestIP: 203.0.113.9" with 61004, and "invalid ip 203.0.113.9 ipv6
	// ::ffff:203.0.113.9, not in whitelist" with 40164.
	addressPattern = regexp.MustCompile(`(?i)\b(?:requestip|ip|ipv4|ipv6)(?::\s*|\s+)([0-9a-f:.]+)`)
)

// rid returns the last request id in a redacted errmsg, where WeChat puts it. It returns "" if
// there is none.
func rid(errMsg string) string {
	all := ridPattern.FindAllStringSubmatch(errMsg, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

// requestIP returns the first address that a redacted errmsg names as the caller's, and "" if there
// is none. It returns an IPv4 address that is mapped to IPv6 as IPv4.
func requestIP(errMsg string) string {
	for _, match := range addressPattern.FindAllStringSubmatch(errMsg, -1) {
		if addr, err := netip.ParseAddr(strings.TrimRight(match[1], ".")); err == nil {
			return addr.Unmap().String()
		}
	}
	return ""
}
