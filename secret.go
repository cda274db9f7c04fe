package preauth

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Secret holds a component_access_token, a pre_auth_code or a link that carries one.
//
// It prints as "[redacted]" with every verb of package fmt and in every slog handler, also from
// inside another struct, and it refuses to be marshalled, so that a value which reaches a log, a
// metric or an error text by accident says nothing. The text leaves through [Secret.Reveal] alone.
//
// The zero Secret is empty. Secrets are compared with [Secret.Equal]; == does not compile.
type Secret struct {
	_ [0]func() // not comparable: == would compare the pointers
	// A pointer, because fmt prints the unexported fields of a surrounding struct without asking
	// for their methods: it then prints an address and not the text.
	text *string
}

const redacted = "[redacted]"

// errSecretMarshal is what every marshaller gets.
var errSecretMarshal = errors.New("preauth: a Secret does not marshal itself; encode the message that carries it")

// NewSecret returns a Secret with the given text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal returns the text itself. Use it only where the text goes to its destination: a request to
// WeChat, a statement's argument, a message body.
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

// Hint returns the first and the last few characters of a long text, for a screen on which a person
// has to tell two codes of a development run apart. At most 20 of at least 40 characters are shown;
// a shorter text is redacted whole. It is not for logs.
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

// UnmarshalText takes the text over.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}
