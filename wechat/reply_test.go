package wechat_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/internal/allocation"
	"preauth/wechat"
)

func TestExpiresIn(t *testing.T) {
	for raw, want := range map[string]time.Duration{ // 0: refused
		`1`:                      time.Second,
		`600`:                    10 * time.Minute,
		`1800`:                   30 * time.Minute,
		`"600"`:                  10 * time.Minute,
		`1800.9`:                 30 * time.Minute,
		`1.8e3`:                  30 * time.Minute,
		`3600`:                   time.Hour,
		`3601`:                   time.Hour,
		`1800000`:                time.Hour,
		`4294967296`:             time.Hour,
		`9223372036854775808`:    time.Hour,
		`1e400`:                  time.Hour,
		`"99999999999999999999"`: time.Hour,

		`0`: 0, `-0`: 0, `0.9`: 0, `-1`: 0, `-1e400`: 0, `1e-400`: 0, `"0"`: 0, `"-600"`: 0,
		`null`: 0, `true`: 0, `""`: 0, `" 600"`: 0, `"600 s"`: 0, `"0x258"`: 0, `"Inf"`: 0, `"NaN"`: 0, `"6_00"`: 0, `"+600"`: 0,
		`[600]`: 0, `{"s":600}`: 0,
	} {
		t.Run(raw, func(t *testing.T) {
			body := fmt.Sprintf(`{"pre_auth_code":"preauthcode@@@x","expires_in":%s}`, raw)
			code, err := wechat.ParseReply(200, []byte(body), preauth.NewSecret(token))
			if want == 0 {
				if e := failure(t, code, err); e.Class != preauth.ClassBadReply {
					t.Errorf("class %s, want bad_reply", e.Class)
				}
				return
			}
			if err != nil || code.ExpiresIn != want {
				t.Errorf("%v, %v; want %v", code.ExpiresIn, err, want)
			}
		})
	}
}

func TestForm(t *testing.T) {
	for _, test := range []struct {
		name, code string
		taken      bool
	}{
		{"a real one", "preauthcode@@@blzWgoI6xZdn4fqdDH-5HsJfmTiiNrvGHeg22SZMxsmOMlGhCna5C7lgjhR1kTAY7wdyiOlq7Cab-zizPTyoVg", true},
		{"without prefix, as in the documentation", "Cx_Dk6qiBE0Dmx4EmlT3oRfArPvwSQ-oa3NL_fwHM7VI08r52wazoZX2Rhpz1dEw", true},
		{"of one character", "x", true},
		{"of every character", `!#$%&'()*+,-./09:;<=>?@AZ[]^_{|}~`, true},
		{"of 512 characters", strings.Repeat("x", 512), true},
		{"of 513 characters", strings.Repeat("x", 513), false},
		{"with a space at its end", "preauthcode@@@x ", false},
		{"with a space in it", "preauth code", false},
		{"of two lines", `preauth\ncode`, false},
		{"with a NUL", `preauth\u0000code`, false},
		{"with a DEL", "preauth\x7fcode", false},
		{"not ASCII", "预授权码", false},
		{"not UTF-8", "preauth\xff", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := `{"pre_auth_code":"` + test.code + `","expires_in":1800}`
			code, err := wechat.ParseReply(200, []byte(body), preauth.NewSecret(token))
			if test.taken {
				if err != nil || code.PreAuthCode.Reveal() != test.code {
					t.Errorf("%q, %v", code.PreAuthCode.Reveal(), err)
				}
				return
			}
			if e := failure(t, code, err); e.Class != preauth.ClassBadReply {
				t.Errorf("class %s, want bad_reply", e.Class)
			}
		})
	}
}

func TestReplySize(t *testing.T) {
	reply := `{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`
	for size, taken := range map[int]bool{64 << 10: true, 64<<10 + 1: false} {
		body := []byte(reply + strings.Repeat(" ", size-len(reply)))
		code, err := wechat.ParseReply(200, body, preauth.NewSecret(token))
		if taken {
			if err != nil || code.PreAuthCode.IsZero() {
				t.Errorf("%d bytes: %v", size, err)
			}
			continue
		}
		if e := failure(t, code, err); !strings.Contains(e.Error(), "longer than 65536 bytes") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// An errmsg is WeChat's help for people, whatever else is wrong with the reply.
func TestErrMsgOfAnUnusableReply(t *testing.T) {
	for _, test := range []struct{ body, errMsg, says string }{
		{`{"errmsg":"some words","errcode":"x"}`, "some words", "errcode is not a number"},
		{`{"errmsg":"some words","pre_auth_code":"x","pre_auth_code":"y","expires_in":1800}`, "some words", "twice"},
		{`{"errmsg":"some words","errmsg":"other words"}`, "other words", "no pre_auth_code"},
		{`{"errmsg":"some words","errmsg":null}`, "", "no pre_auth_code"},
	} {
		code, err := wechat.ParseReply(200, []byte(test.body), preauth.NewSecret(token))
		if e := failure(t, code, err); e.ErrMsg != test.errMsg || !strings.Contains(e.Err.Error(), test.says) {
			t.Errorf("%s: errmsg %q, %v; want %q and %q", test.body, e.ErrMsg, e.Err, test.errMsg, test.says)
		}
	}
}

func TestStatusOfASuccess(t *testing.T) {
	body := []byte(`{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`)
	for status, taken := range map[int]bool{199: false, 200: true, 299: true, 300: false} {
		code, err := wechat.ParseReply(status, body, preauth.NewSecret(token))
		if taken {
			if err != nil || code.PreAuthCode.IsZero() {
				t.Errorf("%d: %v", status, err)
			}
			continue
		}
		if e := failure(t, code, err); e.Class != preauth.ClassBadReply {
			t.Errorf("%d: class %s", status, e.Class)
		}
	}
}

// These errmsgs were captured in public. WeChat added the hint first and the rid later.
func TestSupportHandleAndAddress(t *testing.T) {
	for _, test := range []struct{ errMsg, ip, rid string }{
		{"access clientip is not registered requestIP: 203.0.113.9 rid: 62ea13fb-4b491949-0aa4f69d", "203.0.113.9", "62ea13fb-4b491949-0aa4f69d"},
		{"access clientip is not registered requestIP: 203.0.113.9 hint: [0AOzcA0341vr32!]", "203.0.113.9", ""},
		{"access clientip is not registered hint: [ZJ6NTA0211e578] requestIP: 203.0.113.9", "203.0.113.9", ""},
		{"access clientip is not registered requestIP:203.0.113.9, rid:1", "203.0.113.9", "1"},
		{"access clientip is not registered requestIP: 2001:db8::9 rid: 1-2-3", "2001:db8::9", "1-2-3"},
		{"access clientip is not registered requestIP: ::ffff:203.0.113.9 rid: 1", "203.0.113.9", "1"},
		{"invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: 60196b9b-4c5ba79c-066b49c8", "203.0.113.9", "60196b9b-4c5ba79c-066b49c8"},
		{"invalid ip 203.0.113.9, not in whitelist hint: [wgirhA04751512]", "203.0.113.9", ""},
		{"invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist hint: [H.BDtZFFE-Q7bNKA] rid: 5f283869-46321ea1-07d7260c", "203.0.113.9", "5f283869-46321ea1-07d7260c"},
		{"invalid ip 2001:db8:1:2:3:4:5:6 ipv6 2001:db8:1:2:3:4:5:6, not in whitelist", "2001:db8:1:2:3:4:5:6", ""},
		{"invalid ip  ipv6 ::1, not in whitelist", "::1", ""},
		{"invalid ip, not in whitelist hint: [59FKqA0797e514]", "", ""},
		{"add the ip bad.cafe to the list, then 203.0.113.9 ip 198.51.100.7.", "198.51.100.7", ""},
		{"access clientip is not registered", "", ""},
		{"a grid: 17 is no handle", "", ""},
		{"rid: 1 is asked for, this is rid: 2", "", "2"},
		{"", "", ""},
	} {
		t.Run(test.errMsg, func(t *testing.T) {
			if ip, rid := wechat.RequestIP(test.errMsg), wechat.RID(test.errMsg); ip != test.ip || rid != test.rid {
				t.Errorf("ip %q, rid %q; want %q, %q", ip, rid, test.ip, test.rid)
			}
		})
	}
}

func FuzzReply(f *testing.F) {
	for _, body := range []string{
		`{"pre_auth_code":"preauthcode@@@x","expires_in":1800}`,
		`{"pre_auth_code":"preauthcode@@@x","expires_in":"600","errcode":0,"errmsg":"ok"}`,
		`{"errcode":40001,"errmsg":"invalid credential rid: 62ea13fb-4b491949-0aa4f69d"}`,
		`{"errcode":"61004","errmsg":"access clientip is not registered requestIP: 203.0.113.9"}`,
		`{"errcode":40164,"errmsg":"invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist"}`,
		`{"errcode":40001,"errmsg":"no ` + token + `","pre_auth_code":"` + token[:50] + `"}`,
		`{"errcode":0,"errcode":1}`, `{"expires_in":1e999}`, `[]`, `null`, `<html>`, ``, "\xff", `{"errmsg":"` + strings.Repeat("预", 300) + `"}`,
	} {
		f.Add(200, []byte(body))
	}
	good := `"pre_auth_code":"preauthcode@@@x","expires_in":1800`
	for _, name := range []string{"pre_auth_code", "expires_in", "errcode", "errmsg"} {
		for _, value := range []string{
			`0`, `-0`, `-1`, `0.5`, `1e3`, `1e400`, `-1e400`, `1e-400`, `NaN`, `Infinity`, `0x10`, `00`, `4294967296`, `9223372036854775808`, `-9223372036854775809`,
			`18446744073709551616`, strings.Repeat("9", 5000), `"0"`, `"-1"`, `" 1"`, `"NaN"`, `"1e3"`, `""`, `null`, `true`, `[]`, `{}`,
			`"a\u0000b"`, "\"a\x00b\"", "\"\xff\"", `"\ud800"`, `"` + token + `"`, `"\u0036\u0031` + token[2:] + `"`, `"` + strings.Repeat("预", 3000) + `"`,
			`"` + strings.Repeat("x", 513) + `"`, `"rid: ` + strings.Repeat("1", 1000) + `"`, `"requestIP: ` + strings.Repeat("1.", 1000) + `"`,
			strings.Repeat("[", 20_000), strings.Repeat(`{"a":`, 9_000) + strings.Repeat("}", 9_000), `"` + strings.Repeat("x", 64<<10) + `"`,
		} {
			f.Add(200, fmt.Appendf(nil, `{%s,%q:%s}`, good, name, value))
			f.Add(200, fmt.Appendf(nil, `{%q:%s}`, name, value))
			f.Add(200, fmt.Appendf(nil, `{"errcode":40001,%q:%s}`, strings.ToUpper(name), value))
		}
	}
	f.Add(200, []byte("\ufeff{"+good+"}"))
	f.Add(200, []byte("{"+good+"}{"+good+"}"))
	f.Add(0, []byte(nil))
	f.Add(-1, []byte("{"+good+"}"))
	f.Add(302, []byte(`{"pre_auth_code":"x","expires_in":1}`))
	f.Add(503, []byte(`{"errcode":-1}`))
	f.Add(400, []byte(`{"errcode":41002}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		var code wechat.Code
		var err error
		// An errmsg costs the most, but the client keeps a bounded part of it. Brackets come next.
		read := func() { code, err = wechat.ParseReply(status, body, preauth.NewSecret(token)) }
		if grown := allocation.Bytes(read); grown > uint64(256<<10+64*len(body)) {
			t.Errorf("%d bytes took %d bytes of memory to read", len(body), grown)
		}
		if err == nil {
			text := code.PreAuthCode.Reveal()
			if status < 200 || status > 299 || text == "" || len(text) > wechat.MaxCode || strings.ContainsAny(text, " \n\t\x00") {
				t.Errorf("status %d, code %q taken", status, text)
			}
			if code.ExpiresIn < time.Second || code.ExpiresIn > wechat.MaxExpiresIn || code.ExpiresIn%time.Second != 0 {
				t.Errorf("life of %v taken", code.ExpiresIn)
			}
			return
		}
		e := failure(t, code, err)
		if e.Class == "" || e.Status != status {
			t.Errorf("%#v", e)
		}
		if len(e.ErrMsg) > 512 || len(e.RID) > 64 || len(err.Error()) > 2048 || strings.ContainsAny(err.Error(), "\r\n\x00") {
			t.Errorf("the text of the error is out of bounds: %q", err)
		}
	})
}

func BenchmarkReply(b *testing.B) {
	secret := preauth.NewSecret(token)
	body := []byte(`{"pre_auth_code":"preauthcode@@@blzWgoI6xZdn4fqdDH-5HsJfmTiiNrvGHeg22SZMxsmOMlGhCna5C7lgjhR1kTAY7wdyiOlq7Cab-zizPTyoVg","expires_in":1800}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wechat.ParseReply(200, body, secret); err != nil {
			b.Fatal(err)
		}
	}
}
