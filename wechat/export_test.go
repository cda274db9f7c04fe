package wechat

import "preauth"

// Classes is the table of error codes.
func Classes() map[int]preauth.Class { return classes }

// ReadReply reads a reply as the client does.
func ReadReply(status int, body []byte, token preauth.Secret) (Code, error) {
	return reply{status: status, contentType: "application/json", body: body}.read("api.example.com", token)
}

// RequestIP and RID read an errmsg.
var (
	RequestIP = requestIP
	RID       = rid
)

// CensorError and CensorText censor what others say about a call with a token.
func CensorError(token string, err error) error    { return newCensor(token).error(err) }
func CensorText(token string, words string) string { return newCensor(token).text(words) }
