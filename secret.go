package preauth

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Secret holds a component_access_token, a pre_auth_code or a link that contains one.
//
// A Secret prints as "[redacted]" with every verb of package fmt and in every slog handler, also as
// a field of another struct, and it refuses to be marshalled. So a Secret that ends up in a log, a
// metric or an error by accident discloses nothing. Only [Secret.Reveal] returns the text.
//
// The zero Secret is empty. Compare Secrets with [Secret.Equal]; == does not compile.
type Secret struct {
	_ [0]func() // not comparable: == would compare the pointers
	// A pointer, because fmt does not call methods of unexported fields. It then prints an address
	// instead of the text.
	text *string
}

const redacted = "[redacted]"

// errSecretMarshal is the error of MarshalText.
var errSecretMarshal = errors.New("preauth: a Secret cannot be marshalled: use the Encode method of the message that contains it")

// NewSecret returns a Secret that holds text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal returns the text. Call it only where the text goes to its destination: a request to
// WeChat, an argument of an SQL statement, a message body, a redirect.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether the Secret is empty.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal reports whether both hold the same text, byte for byte.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// Hint returns the first 16 and the last 4 bytes of the text, so that a person can tell two codes
// apart on a developer's screen. A text of less than 40 bytes is redacted whole. Do not log hints.
func (s Secret) Hint() string {
	text := s.Reveal()
	if len(text) < 40 {
		return redacted
	}
	return text[:16] + "…" + text[len(text)-4:]
}

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[redacted]" for package slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText always fails: see [Secret].
func (Secret) MarshalText() ([]byte, error) { return nil, errSecretMarshal }

// UnmarshalText sets the text.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}
