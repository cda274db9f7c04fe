// Package preauth defines the messages of the preauth service and provides a client for them.
//
// The service turns each new component_access_token of a WeChat third-party platform into a
// pre_auth_code, stores the code in MySQL, announces it on NATS and answers look-ups. Other
// programs talk to the service over NATS only:
//
//   - A token service announces tokens: [Client.Announce].
//   - A subscriber receives each new code: [Client.Subscribe]. It parses failures with
//     [ParseFailure].
//   - A web application that sends an account's owner to WeChat claims a code for this visitor:
//     [Client.Claim]. After the authorization it asks which claim the code belongs to:
//     [Client.Resolve].
//   - The receiver of WeChat's pushes announces each authorization: [Client.AnnounceAuthorization].
//     The service then gives the code to nobody any more, and says whose it was:
//     [Client.SubscribeAuthorized].
//   - A program that needs only the current code looks it up: [Client.Lookup]. Everybody sees that
//     code, and WeChat lets it serve a single authorization.
//   - An operator asks how components and replicas fare, and has the service work on a component now:
//     [Client.Status], [Client.StatusPage], [Client.Replicas], [Client.Renew].
//
// Message bodies are JSON in UTF-8 of at most [MaxBody] bytes. Times are RFC 3339 in UTC. Unknown
// members are ignored, a null counts as an absent member, and a known member that appears twice is
// refused. Tokens and codes have the type [Secret], which does not print itself.
//
// Clients do not need ParseTokenEvent, ParseAuthorizationEvent, ParseLookupRequest,
// ParseClaimRequest, ParseResolveRequest, ParseStatusRequest and ParseRenewRequest: with these the
// service reads what clients send. They are exported for tests and for programs that stand in for
// the service.
package preauth

import (
	"errors"
	"fmt"
	"strings"
)

// MaxBody is the largest message body, in bytes. Larger ones are refused.
const MaxBody = 64 << 10

// ServiceName is the name of the NATS micro service that answers requests.
const ServiceName = "preauth"

// NoAppID takes the place of the appid in the subject of a [Failure] that belongs to no valid
// component: "preauth.failed._". It is not a valid appid itself.
const NoAppID = "_"

// ErrInvalid is wrapped by every error about a message that breaks the contract. The error's text
// names the member and says what to change. It never repeats a value from the message.
var ErrInvalid = errors.New("invalid")

// Subjects are the NATS subjects of the contract. Except for Resolve, each of them also exists with
// a component_appid as one more token: see [SubjectFor].
type Subjects struct {
	// TokenUpdated carries token events from the token service.
	TokenUpdated string
	// Authorization carries authorizations from the receiver of WeChat's pushes.
	Authorization string
	// Updated carries announcements of new codes.
	Updated string
	// Failed carries announcements of failures.
	Failed string
	// Authorized carries announcements of codes that are spent.
	Authorized string
	// Lookup takes requests for the current code of a component.
	Lookup string
	// Claim takes requests for a code that nobody else gets.
	Claim string
	// Resolve takes requests for what a code was used for.
	Resolve string
	// Status takes requests for how components fare.
	Status string
	// Renew takes requests to work on a component now.
	Renew string
}

// DefaultSubjects returns the subjects that the service and [NewClient] use unless they are told
// otherwise.
func DefaultSubjects() Subjects {
	return Subjects{
		TokenUpdated:  "component.token.updated",
		Authorization: "component.authorized",
		Updated:       "preauth.updated",
		Failed:        "preauth.failed",
		Authorized:    "preauth.authorized",
		Lookup:        "preauth.lookup",
		Claim:         "preauth.claim",
		Resolve:       "preauth.resolve",
		Status:        "preauth.status",
		Renew:         "preauth.renew",
	}
}

// WithPrefix returns the subjects below a common prefix: with "acme", "preauth.updated" becomes
// "acme.preauth.updated". An empty prefix changes nothing.
func (s Subjects) WithPrefix(prefix string) Subjects {
	if prefix == "" {
		return s
	}
	for _, subject := range []*string{
		&s.TokenUpdated, &s.Authorization, &s.Updated, &s.Failed, &s.Authorized, &s.Lookup, &s.Claim, &s.Resolve, &s.Status, &s.Renew,
	} {
		*subject = prefix + "." + *subject
	}
	return s
}

// SubjectFor returns the subject of one component below a subject of the contract: for
// "preauth.updated" and "wx0123456789abcdef" it is "preauth.updated.wx0123456789abcdef". It does
// not check the appid; see [CheckAppID].
func SubjectFor(subject, appid string) string { return subject + "." + appid }

// AppIDFromSubject is the reverse of [SubjectFor]. It returns what follows subject in the subject
// of a message, and "" if the message came on subject itself or on an unrelated one. The result is
// not checked: it has dots if more than one token follows, and [CheckAppID] then refuses it.
func AppIDFromSubject(subject, message string) string {
	below, ok := strings.CutPrefix(message, subject)
	if !ok || below == "" || below[0] != '.' {
		return ""
	}
	return below[1:]
}

// CheckAppID returns an error that wraps [ErrInvalid] unless appid is a valid component_appid: 1 to
// 64 ASCII letters, digits, "_" and "-", starting with a letter or a digit. Appids that differ only
// in case are different components. A valid appid is a single token of a NATS subject and contains
// no wildcard.
func CheckAppID(appid string) error {
	switch {
	case appid == "":
		return invalid("component_appid is missing: name the component in the body or as the last token of the subject")
	case !isAppID(appid):
		return invalid("component_appid must be 1 to 64 letters, digits, '_' or '-' and begin with a letter or digit; this one has %d bytes", len(appid))
	}
	return nil
}

// isAppID reports whether text matches [A-Za-z0-9][A-Za-z0-9_-]{0,63}. It runs for every message,
// so it does without a regular expression.
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

// invalid returns an error that wraps [ErrInvalid].
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}
