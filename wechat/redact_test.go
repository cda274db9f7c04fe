package wechat_test

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"testing"
	"unicode/utf8"

	"preauth/wechat"
)

// discreet hides the text of what it wraps.
type discreet struct{ inner error }

func (discreet) Error() string   { return "something failed" }
func (d discreet) Unwrap() error { return d.inner }

func TestRedactedErrors(t *testing.T) {
	told := errors.New("no " + token)
	for _, test := range []struct {
		name  string
		err   error
		text  string
		keeps error // what the error still wraps
	}{
		{"clean", fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), "reading: unexpected EOF", io.ErrUnexpectedEOF},
		{"clean and joined", fmt.Errorf("%w; %w", io.EOF, io.ErrUnexpectedEOF), "EOF; unexpected EOF", io.ErrUnexpectedEOF},
		{"with an address", &url.Error{Op: "Post", URL: "https://example.com/?component_access_token=" + token, Err: io.EOF}, "EOF", io.EOF},
		{"with an address, wrapped", fmt.Errorf("sending: %w", &url.Error{Op: "Post", URL: token, Err: io.EOF}), "EOF", io.EOF},
		{"told", fmt.Errorf("%w: %w", io.EOF, told), "EOF: no [redacted]", nil},
		{"told inside", discreet{told}, "something failed", nil},
		{"told deep inside", discreet{discreet{told}}, "something failed", nil},
		{"told beside", fmt.Errorf("%w; %w", io.EOF, discreet{told}), "EOF; something failed", nil},
		{"of two lines", errors.New("one\nanother"), "one another", nil},
		{"wraps nothing", discreet{nil}, "something failed", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := wechat.RedactError(token, test.err)
			saysNothing(t, err, token)
			if err.Error() != test.text || test.keeps != nil && !errors.Is(err, test.keeps) {
				t.Errorf("%#v, want %q and %v", err, test.text, test.keeps)
			}
		})
	}
}

func TestRedactedTextIsUTF8(t *testing.T) {
	// é and © end with the same byte, so the redacted piece begins inside a character.
	got := wechat.RedactText("éabcdefghijklmno", "预 ©abcdefghijklmno 授")
	if got != "预 [redacted] 授" || !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
}
