package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"preauth"
)

func TestValuesOfPHP(t *testing.T) {
	for value, want := range map[string]string{
		`s:5:"token";`:             "token",
		`s:4:"token";`:             "",
		`s:5:"token"`:              "",
		`s:5:token;`:               "",
		`s:5:"token";x`:            "",
		`s:7:"to"en;s";`:           "",
		`s:3:"a b";`:               "",
		`S:5:"token";`:             "",
		`i:5;`:                     "",
		`N;`:                       "",
		`a:1:{i:0;s:1:"x";}`:       "",
		"":                         "",
		"token":                    "",
		"\x00\x00\x00\x02\x11\x05": "",
	} {
		if got, err := decodePHP(value); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", value, got, err, want)
		}
	}
	if _, err := decodePHP("\x00\x00\x00\x02\x11\x05token"); err == nil || !strings.Contains(err.Error(), "igbinary") {
		t.Errorf("igbinary's value: %v", err)
	}
}

// What is decoded can be announced. An error is about the value and does not repeat it.
func FuzzDecode(f *testing.F) {
	for _, value := range []string{`s:5:"token";`, "token", `s:99999999999999999999:"x";`, `"token"`, "\x00\x00\x00\x02", "s::\"\";"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, decode := range []func(string) (string, error){decodeText, decodePHP} {
			token, err := decode(value)
			switch {
			case err == nil && token != "" && len(token) <= preauth.MaxToken:
				event := preauth.TokenEvent{AppID: "wx1", Token: preauth.NewSecret(token)}
				if err := event.Check(); err != nil {
					t.Errorf("%q: %v", token, err)
				}
			case err != nil && (!errors.Is(err, errUnusable) || token != "" || len(value) > 40 && strings.Contains(err.Error(), value)):
				t.Errorf("the error of %q is %v", value, err)
			}
		}
		if token, err := decodePHP(fmt.Sprintf(`s:%d:"%s";`, len(value), value)); err == nil && token != value {
			t.Errorf("%q became %q", value, token)
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("a{appid}b", "wx1", "awx1b")
	f.Add("{appid}", "wx1", "wx1:revision")
	f.Fuzz(func(t *testing.T, text, appid, key string) {
		p, err := parsePattern("--key", text)
		if err != nil {
			return
		}
		if got, ok := p.appid(key); ok && p.key(got) != key {
			t.Errorf("%q: the key %q is taken for that of %q", text, key, got)
		}
		if preauth.CheckAppID(appid) != nil {
			return
		}
		if got, ok := p.appid(p.key(appid)); !ok || got != appid {
			t.Errorf("%q: the component of %q is %q, %v", text, p.key(appid), got, ok)
		}
		if got, ok := p.appid(revisionKey(p.key(appid))); ok {
			t.Errorf("%q: the key of a revision is the code's of %q", text, got)
		}
	})
}
