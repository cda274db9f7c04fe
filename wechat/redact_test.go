package wechat_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"preauth"
	"preauth/internal/allocation"
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

// An errmsg of up to 512 bytes is kept as WeChat sent it, and a longer one loses its end.
func TestErrMsgLength(t *testing.T) {
	words := strings.Repeat("api unauthorized! ", 40)
	for _, test := range []struct{ sent, kept string }{
		{"", ""},
		{"a <b> & \"c\" 预授权码", "a <b> & \"c\" 预授权码"},
		{words[:512], words[:512]},
		{words[:513], words[:509] + "…"},
		{"x" + strings.Repeat(" 授", 300), "x" + strings.Repeat(" 授", 127) + "…"}, // 509 bytes, the next character would not fit
		{"xx" + strings.Repeat(" 授", 300), "xx" + strings.Repeat(" 授", 126) + " …"},
	} {
		body, err := json.Marshal(map[string]any{"errcode": 48001, "errmsg": test.sent})
		if err != nil {
			t.Fatal(err)
		}
		code, err := wechat.ParseReply(200, body, preauth.NewSecret(token))
		if e := failure(t, code, err); e.ErrMsg != test.kept || len(e.ErrMsg) > 512 {
			t.Errorf("%d bytes became %d: %q, want %q", len(test.sent), len(e.ErrMsg), e.ErrMsg, test.kept)
		}
	}
}

// Only the beginning of a very long text is searched, since no more of it is kept.
func TestRedactedTextIsBounded(t *testing.T) {
	if got := wechat.RedactText(token, strings.Repeat("words ", 1<<16)); len(got) != 2048 {
		t.Errorf("%d bytes", len(got))
	}
}

// What a reply calls a code may be long. Its forms are remembered, but not all pieces of them.
func TestLongSecretTakesLittleMemory(t *testing.T) {
	var text strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&text, "%08x+", i)
	}
	long := text.String()
	grown := allocation.Bytes(func() { wechat.RedactText(long, "a few words") })
	if grown > 20*uint64(len(long)) {
		t.Errorf("%d bytes for a secret of %d", grown, len(long))
	}
}
