package wechat

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"preauth"
)

// Error says why there is no code. It and all that it wraps are free of tokens and codes.
type Error struct {
	// Class says what ends the failure.
	Class preauth.Class
	// ErrCode is WeChat's errcode, 0 if there was none.
	ErrCode int
	// ErrMsg is WeChat's errmsg without control characters, tokens and codes, at most 512 bytes.
	ErrMsg string
	// RID is the handle for WeChat's support that ends its errmsg, "" if there was none.
	RID string
	// RequestIP is the caller's address as WeChat saw it, for [preauth.ClassAddressNotAllowed]; ""
	// if WeChat did not name it.
	RequestIP string
	// Host is the host that answered, with its port if that is not the usual one; "" if none did.
	Host string
	// Status is the HTTP status of the answer, 0 if there was none.
	Status int
	// Err is what went wrong on this side of WeChat's answer: the network, the context, or what makes
	// the answer unusable. It is nil where the answer speaks for itself.
	Err error
}

// Error returns all of it in one line.
func (e *Error) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "wechat: no pre_auth_code: %s", e.Class)
	if e.Status != 0 {
		fmt.Fprintf(&text, ": HTTP %d from %s", e.Status, e.Host)
	}
	if e.ErrCode != 0 {
		fmt.Fprintf(&text, ": errcode %d", e.ErrCode)
	}
	if e.ErrMsg != "" {
		fmt.Fprintf(&text, ": %s", e.ErrMsg)
	}
	if e.Err != nil {
		fmt.Fprintf(&text, ": %v", e.Err)
	}
	return text.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// classes is the one table of WeChat's error codes. What is not in it is [preauth.ClassUnknown].
var classes = map[int]preauth.Class{
	-1: preauth.ClassTransient, // system busy

	45011: preauth.ClassThrottled,

	45009: preauth.ClassQuota,
	48006: preauth.ClassQuota,

	40001: preauth.ClassTokenRejected,
	40014: preauth.ClassTokenRejected,
	40091: preauth.ClassTokenRejected,
	40094: preauth.ClassTokenRejected,
	42001: preauth.ClassTokenRejected,
	42006: preauth.ClassTokenRejected,
	61005: preauth.ClassTokenRejected,
	61006: preauth.ClassTokenRejected,

	40090: preauth.ClassAddressNotAllowed,
	40164: preauth.ClassAddressNotAllowed,
	40187: preauth.ClassAddressNotAllowed,
	45035: preauth.ClassAddressNotAllowed,
	61004: preauth.ClassAddressNotAllowed,

	40013: preauth.ClassConfiguration,
	40125: preauth.ClassConfiguration,
	41004: preauth.ClassConfiguration,
	48001: preauth.ClassConfiguration,
	48004: preauth.ClassConfiguration,
	50002: preauth.ClassConfiguration,
	61000: preauth.ClassConfiguration,
	61001: preauth.ClassConfiguration,
	61003: preauth.ClassConfiguration,
	61007: preauth.ClassConfiguration,
	61011: preauth.ClassConfiguration,
	61014: preauth.ClassConfiguration,
	61016: preauth.ClassConfiguration,
	61024: preauth.ClassConfiguration,
	61028: preauth.ClassConfiguration,

	41001: preauth.ClassRequest,
	41002: preauth.ClassRequest,
	41018: preauth.ClassRequest,
	41021: preauth.ClassRequest,
	43002: preauth.ClassRequest,
	43003: preauth.ClassRequest,
	44002: preauth.ClassRequest,
	47001: preauth.ClassRequest,
	47002: preauth.ClassRequest,
}

func classOf(errCode int) preauth.Class {
	if class, ok := classes[errCode]; ok {
		return class
	}
	return preauth.ClassUnknown
}

var (
	ridForm = regexp.MustCompile(`\brid: ?([0-9A-Za-z-]{1,64})`)

	// "requestIP: 203.0.113.9" with 61004, "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in
	// whitelist" with 40164.
	addressForm = regexp.MustCompile(`(?i)\b(?:requestip|ip|ipv4|ipv6)(?::\s*|\s+)([0-9a-f:.]+)`)

	// secretForm is a run of the characters that tokens and codes are made of, URL-escaped or not,
	// which is longer than anything else in an error message: a rid has 26.
	secretForm = regexp.MustCompile(`[A-Za-z0-9_%@~+=-]{32,}`)
)

// rid returns the last rid in a censored errmsg: WeChat puts it at the end.
func rid(errMsg string) string {
	all := ridForm.FindAllStringSubmatch(errMsg, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

// requestIP returns the first address that a censored errmsg names as the caller's, IPv4 in its own
// form also where it is wrapped in IPv6.
func requestIP(errMsg string) string {
	for _, match := range addressForm.FindAllStringSubmatch(errMsg, -1) {
		if addr, err := netip.ParseAddr(strings.TrimRight(match[1], ".")); err == nil {
			return addr.Unmap().String()
		}
	}
	return ""
}

const redacted = "[redacted]"

// leak is how many characters of a known secret in a row give it away. A shorter secret is looked for
// as a whole.
const leak = 16

// A censor cuts secrets out of words that are not ours: those it knows, in pieces too and as a URL has
// them, and whatever else looks like one.
type censor struct{ known []string }

func newCensor(secrets ...string) censor {
	var c censor
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			if form != "" && !slices.Contains(c.known, form) {
				c.known = append(c.known, form)
			}
		}
	}
	return c
}

// text returns the words, or the beginning of very many, as one line without control and other invisible
// characters, which go first: without them a secret could hide.
func (c censor) text(words string) string {
	words = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, words)
	// Far more than is kept, so that a secret at this end is not at the end of what is kept.
	words = words[:min(len(words), 4*maxWords)]
	return secretForm.ReplaceAllString(c.cut(words), redacted)
}

// cut replaces every piece of a known secret. What it takes of memory is bounded by the words: a secret may
// be whatever the reply calls a code.
func (c censor) cut(words string) string {
	secret := make([]bool, len(words))          // which bytes belong to one
	pieces := make(map[string]bool, len(words)) // those of the words, and whether the secret at hand has them
	for _, known := range c.known {
		clear(pieces)
		n := min(leak, len(known))
		for i := range len(words) - n + 1 {
			pieces[words[i:i+n]] = false
		}
		for i := range len(known) - n + 1 {
			if _, ok := pieces[known[i:i+n]]; ok {
				pieces[known[i:i+n]] = true
			}
		}
		for i := range len(words) - n + 1 {
			if pieces[words[i:i+n]] {
				for j := range n {
					secret[i+j] = true
				}
			}
		}
	}
	var rest strings.Builder
	for i := range len(words) {
		switch {
		case !secret[i]:
			rest.WriteByte(words[i])
		case i == 0 || !secret[i-1]:
			rest.WriteString(redacted)
		}
	}
	return strings.ToValidUTF8(rest.String(), "") // a piece may have begun inside a character
}

// error returns err itself if none of the texts in its tree needs censoring, and else an error with
// the censored text and nothing inside. A reason from the network may quote what the peer sent.
func (c censor) error(err error) error {
	if inURL, ok := errors.AsType[*url.Error](err); ok {
		err = inURL.Err // a *url.Error quotes the whole address, the token included
	}
	if c.passes(err) {
		return err
	}
	return errors.New(bounded(c.text(err.Error())))
}

func (c censor) passes(err error) bool {
	if text := err.Error(); text != bounded(c.text(text)) {
		return false
	}
	switch err := err.(type) { //nolint:errorlint // each error of the tree has its turn
	case interface{ Unwrap() error }:
		inner := err.Unwrap()
		return inner == nil || c.passes(inner)
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(err.Unwrap(), func(inner error) bool { return !c.passes(inner) })
	}
	return true
}

// maxWords is the length in bytes of the longest foreign text kept.
const maxWords = 512

// bounded cuts a text that is too long at a character's end. It comes after censoring: half a secret
// would not be recognised.
func bounded(text string) string {
	const mark = "…"
	if len(text) <= maxWords {
		return text
	}
	end := maxWords - len(mark)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}
