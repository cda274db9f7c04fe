package wechat

import (
	"encoding/json"
	"reflect"

	"preauth"
)

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

// SameMembers reports whether the members of a reply are read as encoding/json alone reads them.
func SameMembers(body []byte) bool {
	read, err := membersOf(body)
	var decoded members
	return (err == nil) == (json.Unmarshal(body, &decoded) == nil) && (err != nil || reflect.DeepEqual(read, decoded))
}
