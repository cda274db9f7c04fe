// Package preauth is the contract of the preauth service and a small client for it.
//
// preauth turns each new component_access_token of a WeChat third-party platform into a
// pre_auth_code, keeps it in MySQL, announces it on NATS and answers look-ups. These
// programs meet it on NATS, and all they need is here:
//
//   - the token service announces tokens: [TokenEvent], [Client.Announce];
//   - subscribers receive codes and failures: [Update], [Failure], [Client.Subscribe];
//   - whoever sends an account's owner to WeChat asks for a code of this visitor's own, [Client.Claim], and for the
//     visit that an authorization belongs to, [Client.Resolve];
//   - who needs the current code, which everybody sees and one visitor can use, looks it up: [Client.Lookup].
//
// Bodies are JSON in UTF-8 with RFC 3339 times in UTC; unknown members are ignored, a known member
// that stands twice is refused. Tokens and codes are of type [Secret] and do not print themselves.
package preauth

import (
	"errors"
	"fmt"
	"strings"
)

// MaxBody is the size in bytes of the largest message body the service reads.
const MaxBody = 64 << 10

// NoAppID stands in a subject for a component_appid that is missing or impossible: such a failure
// is announced on "preauth.failed._".
const NoAppID = "_"

// ErrInvalid is wrapped by every error about a message that breaks the contract. The text says
// which member is wrong and what it has to be; it never repeats a value.
var ErrInvalid = errors.New("invalid")

// Subjects are the NATS subjects of the contract. Each stands for itself and for itself with a
// component_appid as one more token.
type Subjects struct {
	// TokenUpdated is where the token service announces tokens.
	TokenUpdated string
	// Updated is where codes are announced.
	Updated string
	// Failed is where failures are announced.
	Failed string
	// Lookup is where the current code of a component is asked for.
	Lookup string
	// Claim is where a code of one's own is asked for.
	Claim string
	// Resolve is where it is asked which claim a code was given to.
	Resolve string
}

// DefaultSubjects returns the subjects that are in use where nobody chose others.
func DefaultSubjects() Subjects {
	return Subjects{
		TokenUpdated: "component.token.updated",
		Updated:      "preauth.updated",
		Failed:       "preauth.failed",
		Lookup:       "preauth.lookup",
		Claim:        "preauth.claim",
		Resolve:      "preauth.resolve",
	}
}

// WithPrefix returns the subjects below a common prefix: with "acme", "preauth.updated" becomes
// "acme.preauth.updated". An empty prefix changes nothing.
func (s Subjects) WithPrefix(prefix string) Subjects {
	if prefix == "" {
		return s
	}
	for _, subject := range []*string{&s.TokenUpdated, &s.Updated, &s.Failed, &s.Lookup, &s.Claim, &s.Resolve} {
		*subject = prefix + "." + *subject
	}
	return s
}

// SubjectFor returns the subject that belongs to one component below a subject of the contract, such as
// "preauth.updated.wx0123456789abcdef" below "preauth.updated".
func SubjectFor(subject, appid string) string { return subject + "." + appid }

// AppIDFromSubject returns what follows a subject of the contract in the subject of a message: the
// component_appid, or "" when the message did not come on a subject below it. It may be no valid
// appid: where more than one token follows, all are returned.
func AppIDFromSubject(subject, message string) string {
	below, ok := strings.CutPrefix(message, subject)
	if !ok || below == "" || below[0] != '.' {
		return ""
	}
	return below[1:]
}

// isAppID reports whether the text matches [A-Za-z0-9][A-Za-z0-9_-]{0,63}. It is asked for every message,
// so no regular expression does it.
func isAppID(text string) bool {
	if text == "" || len(text) > 64 {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// CheckAppID returns an error that wraps [ErrInvalid] unless appid can be a component_appid: 1 to
// 64 letters, digits, "_" and "-", the first a letter or digit. It becomes a token of subjects, so
// nothing that NATS gives a meaning to can pass.
func CheckAppID(appid string) error {
	switch {
	case appid == "":
		return invalid("component_appid is missing: name the component in the body or as the last token of the subject")
	case !isAppID(appid):
		return invalid("component_appid must be 1 to 64 letters, digits, '_' or '-' and begin with a letter or digit; this one has %d bytes", len(appid))
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}
