package wechat

import "preauth"

// Classes returns the table of error codes.
func Classes() map[int]preauth.Class { return classes }

// ParseReply parses a reply as the client does.
func ParseReply(status int, body []byte, token preauth.Secret) (Code, error) {
	return reply{status: status, contentType: "application/json", body: body}.code("api.example.com", token)
}

// ParseQuota parses a reply to the question for a quota as the client does.
func ParseQuota(status int, body []byte, token preauth.Secret) (Quota, error) {
	return reply{status: status, contentType: "application/json", body: body}.quota("api.example.com", token)
}

// RequestIP and RID parse an errmsg.
var (
	RequestIP = requestIP
	RID       = rid
)

// RedactError and RedactText redact an error and a text about a call with a token.
func RedactError(token string, err error) error   { return newRedactor(token).error(err) }
func RedactText(token string, text string) string { return newRedactor(token).text(text) }
