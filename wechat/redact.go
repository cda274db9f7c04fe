package wechat

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const redacted = "[redacted]"

const (
	// minPiece is the length in bytes of the shortest piece of a known secret that is redacted. A
	// shorter secret is redacted as a whole.
	minPiece = 16

	// maxText is the longest foreign text that is kept, in bytes.
	maxText = 512
)

// secretPattern is a run of the characters of tokens and codes, URL-escaped or not. It is longer
// than any other word of an error message: a rid has 26.
var secretPattern = regexp.MustCompile(`[A-Za-z0-9_%@~+=-]{32,}`)

// A redactor removes secrets from text that others wrote: the secrets that it knows, whole or in
// pieces, plain or URL-escaped, and everything else that looks like one.
type redactor struct{ known []string }

func newRedactor(secrets ...string) redactor {
	var r redactor
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			if form != "" && !slices.Contains(r.known, form) {
				r.known = append(r.known, form)
			}
		}
	}
	return r
}

// text returns the redacted text in one line. It removes invisible characters first, because a
// secret could hide behind them, and drops the end of a very long text.
func (r redactor) text(text string) string {
	text = strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return ' '
		case !unicode.IsPrint(c):
			return -1
		}
		return c
	}, text)
	// Callers keep maxText bytes. A secret that is cut here is far beyond them.
	text = text[:min(len(text), 4*maxText)]
	return secretPattern.ReplaceAllString(r.cut(text), redacted)
}

// cut replaces every piece of a known secret. It bounds its memory by the text, not by the secrets:
// a secret may be whatever a reply calls a code.
func (r redactor) cut(text string) string {
	secret := make([]bool, len(text))          // which bytes belong to a secret
	pieces := make(map[string]bool, len(text)) // the text's pieces, and whether the current secret has them
	for _, known := range r.known {
		n := min(minPiece, len(known))
		for i := range len(text) - n + 1 {
			pieces[text[i:i+n]] = false
		}
		for i := range len(known) - n + 1 {
			if _, ok := pieces[known[i:i+n]]; ok {
				pieces[known[i:i+n]] = true
			}
		}
		for i := range len(text) - n + 1 {
			if pieces[text[i:i+n]] {
				for j := range n {
					secret[i+j] = true
				}
			}
		}
	}
	var rest strings.Builder
	for i := range len(text) {
		switch {
		case !secret[i]:
			rest.WriteByte(text[i])
		case i == 0 || !secret[i-1]:
			rest.WriteString(redacted)
		}
	}
	return strings.ToValidUTF8(rest.String(), "") // a piece may begin inside a character
}

// error returns err if nothing in its tree needs redacting, and otherwise an error with the
// redacted text that wraps nothing. An error of the network may quote what the peer sent.
func (r redactor) error(err error) error {
	if inURL, ok := errors.AsType[*url.Error](err); ok {
		err = inURL.Err // a *url.Error quotes the URL with the token
	}
	if r.clean(err) {
		return err
	}
	return errors.New(truncate(r.text(err.Error())))
}

// clean reports whether nothing in the tree of err needs redacting.
func (r redactor) clean(err error) bool {
	if text := err.Error(); text != truncate(r.text(text)) {
		return false
	}
	switch err := err.(type) { //nolint:errorlint // visits each error of the tree by itself
	case interface{ Unwrap() error }:
		inner := err.Unwrap()
		return inner == nil || r.clean(inner)
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(err.Unwrap(), func(inner error) bool { return !r.clean(inner) })
	}
	return true
}

// truncate cuts text to maxText bytes at the end of a character. Redact first: half a secret would
// not be recognised.
func truncate(text string) string {
	const mark = "…"
	if len(text) <= maxText {
		return text
	}
	end := maxText - len(mark)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}
