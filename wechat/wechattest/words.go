package wechattest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"time"
)

// codePrefix begins every code.
const codePrefix = "preauthcode@@@"

// newCode returns a random code of 78 or 100 characters.
func newCode(length int) string {
	random := make([]byte, (length-len(codePrefix))*6/8) // 6 bits in each character
	_, _ = rand.Read(random)                             // never fails
	return codePrefix + base64.RawURLEncoding.EncodeToString(random)
}

// newRID returns a request id in WeChat's form: the time and two random words, in hexadecimal.
func newRID(now time.Time) string {
	return fmt.Sprintf("%08x-%08x-%08x", uint32(now.Unix()), mathrand.Uint32(), mathrand.Uint32())
}

// messages are WeChat's texts for error codes, from its documentation and captured replies.
var messages = map[int]string{
	-1:    "system error",
	40001: "invalid credential, access_token is invalid or not latest, could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r",
	40013: "invalid appid",
	40014: "invalid access_token",
	40125: "invalid appsecret",
	41001: "access_token missing",
	41002: "appid missing",
	41004: "appsecret missing",
	42001: "access_token expired",
	43002: "require POST method",
	43003: "require https",
	44002: "empty post data",
	45009: "reach max api daily quota limit",
	45011: "api minute-quota reach limit must slower retry next minute",
	47001: "data format error",
	48001: "api unauthorized",
	48004: "api forbidden for irregularities",
	50002: "user limited",
	61005: "component ticket is expired",
	61006: "component ticket is invalid",
	61007: "api is unauthorized to component",
	61011: "invalid component",
	76021: "cgi_path not found",
	76022: "could not use this cgi_path, no permission",
}

// message returns WeChat's text for an error code. Some texts contain the caller's address.
func message(errCode int, remote netip.Addr) string {
	switch errCode {
	case 61004:
		return fmt.Sprintf("access clientip is not registered requestIP: %s", remote)
	case 45035:
		return fmt.Sprintf("access clientip is not registered, not in ip-white-list requestIP: %s", remote)
	case 40164:
		mapped := netip.AddrFrom16(remote.As16()) // prints IPv4 as ::ffff:203.0.113.9
		return fmt.Sprintf("invalid ip %s ipv6 %s, not in whitelist", remote, mapped)
	}
	if text, ok := messages[errCode]; ok {
		return text
	}
	return "error"
}

// encode returns the JSON of an answer.
func encode(answer any) []byte {
	body, err := json.Marshal(answer)
	if err != nil {
		panic("wechattest: Fault.Reply does not marshal: " + err.Error())
	}
	return body
}
