package preauth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"preauth"
)

var (
	entryKey   = preauth.NewSecret("5f4dcc3b5aa765d61d8327deb882cf99")
	entryOlder = preauth.NewSecret("0cc175b9c0f1b6a831c399e269772661")
)

// fullEntry is a link that says all it can.
func fullEntry() preauth.EntryLink {
	return preauth.EntryLink{
		AppID: "wx0123456789abcdef", ClaimID: "visitor 4f1c", Reference: "订单 7 & 8", AuthType: 3, BizAppID: "wx8888888888888888",
		CategoryIDList: "1|17|99", Language: "zh-CN", ExpiresAt: time.Now().Add(10 * time.Minute).UTC().Truncate(time.Second),
	}
}

// signedEntry returns the part of a link that a gateway sees.
func signedEntry(t testing.TB, link preauth.EntryLink, key preauth.Secret) string {
	t.Helper()
	text, err := link.Sign("https://auth.example.com", key)
	if err != nil {
		t.Fatal(err)
	}
	target, ok := strings.CutPrefix(text, "https://auth.example.com")
	if !ok {
		t.Fatalf("the link is %s", text)
	}
	return target
}

// signedByHand signs as other languages do.
func signedByHand(text string) string {
	mac := hmac.New(sha256.New, []byte(entryKey.Reveal()))
	mac.Write([]byte(text))
	return fmt.Sprintf("%s&signature=%x", text, mac.Sum(nil))
}

func TestEntryLinkSaysWhatWasSigned(t *testing.T) {
	full := fullEntry()
	least := preauth.EntryLink{AppID: "wx1", ClaimID: "v", ExpiresAt: full.ExpiresAt}
	more := least
	more.AuthType, more.Language = 1, "zh-Hant-"+strings.Repeat("x", 27)
	for _, want := range []preauth.EntryLink{full, least, more} {
		target := signedEntry(t, want, entryKey)
		for _, added := range []string{"", "&from=singlemessage&isappinstalled=0", "&lang=en", "&signature=another", "&"} {
			got, extra, err := preauth.ParseEntryLink(target+added, []preauth.Secret{entryOlder, entryKey}, time.Now())
			if err != nil || got != want || extra != added {
				t.Errorf("%s%s: %+v, %q, %v, want %+v", target, added, got, extra, err, want)
			}
			if strings.Contains(target, "auth_type=") != (want.AuthType != 0) {
				t.Errorf("the auth_type is %d, and the link %s", want.AuthType, target)
			}
		}
	}
}

func TestEntryLinkWithAnyOtherByteIsRefused(t *testing.T) {
	target := signedEntry(t, fullEntry(), entryKey)
	keys := []preauth.Secret{entryOlder, entryKey}
	refused := func(changed string) {
		t.Helper()
		link, extra, err := preauth.ParseEntryLink(changed+"&from=timeline", keys, time.Now())
		if !errors.Is(err, preauth.ErrEntrySignature) || !strings.HasSuffix(extra, "&from=timeline") && strings.Contains(changed, "&signature=") || link != (preauth.EntryLink{}) {
			t.Errorf("%q: %+v, %v", changed, link, err)
		}
	}
	for i := range len(target) {
		for _, bit := range []byte{0x01, 0x20, 0x80} {
			changed := []byte(target)
			changed[i] ^= bit
			refused(string(changed))
		}
		refused(target[:i])                // cut off
		refused(target[:i] + target[i+1:]) // one is missing
		refused(target[:i] + "0" + target[i:])
	}
	refused("")
	refused(target + "0")
	signed, signature, _ := strings.Cut(target, "&signature=")
	refused(signed + "&auth_type=1&signature=" + signature)
	refused(signed + "&signature=" + strings.ToUpper(signature))
	refused(signed + "&signature=&signature=" + signature)
	refused(signed + "&signature=%00" + signature)
	refused("/x" + target)

	keys = nil
	refused(target)
	refused(signed + "&signature=")
	keys = []preauth.Secret{entryOlder}
	refused(target)
}

// Rotation: what either key signed is good as long as both are there.
func TestEntryKeysAreRotated(t *testing.T) {
	oldFile := entryOlder.Reveal() + "\n"
	both := "# since March\n\n" + entryKey.Reveal() + "\r\n" + entryOlder.Reveal()
	byOld, byNew := signedEntry(t, fullEntry(), entryOlder), signedEntry(t, fullEntry(), entryKey)
	for _, test := range []struct {
		file, target string
		good         bool
	}{{oldFile, byOld, true}, {oldFile, byNew, false}, {both, byOld, true}, {both, byNew, true}} {
		keys, err := preauth.ParseEntryKeys([]byte(test.file))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := preauth.ParseEntryLink(test.target, keys, time.Now()); (err == nil) != test.good {
			t.Errorf("%d keys: %v, want good: %v", len(keys), err, test.good)
		}
	}
	if keys, _ := preauth.ParseEntryKeys([]byte(both)); !keys[0].Equal(entryKey) {
		t.Error("the first line is not the first key")
	}
}

func TestEntryKeysThatAreNone(t *testing.T) {
	for name, test := range map[string]struct{ file, says string }{
		"empty":      {"", "there is no key"},
		"blank":      {"\n#\n", "there is no key"},
		"short":      {entryKey.Reveal() + "\nshort\n", "line 2: invalid: a key of entry links has 5 bytes"},
		"long":       {strings.Repeat("x", 257), "it must have 32 to 256"},
		"a DEL":      {entryKey.Reveal() + "\x7f", "printable ASCII"},
		"a space":    {"key: " + entryKey.Reveal(), "printable ASCII without spaces"},
		"not ASCII":  {strings.Repeat("钥", 32), "printable ASCII"},
		"a PEM file": {"-----BEGIN EC PRIVATE KEY-----", "it must have 32"},
	} {
		keys, err := preauth.ParseEntryKeys([]byte(test.file))
		if !errors.Is(err, preauth.ErrInvalid) || keys != nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
		if strings.Contains(err.Error(), entryKey.Reveal()) {
			t.Errorf("%s: the error has a key: %v", name, err)
		}
	}
}

func TestEntryKeysAtTheirLimits(t *testing.T) {
	for _, key := range []string{strings.Repeat("!", 32), strings.Repeat("~", 256)} {
		if keys, err := preauth.ParseEntryKeys([]byte(key)); err != nil || len(keys) != 1 || keys[0].Reveal() != key {
			t.Errorf("%d bytes: %v", len(key), err)
		}
	}
}

func TestEntryLinkAtItsLimits(t *testing.T) {
	link := preauth.EntryLink{AppID: "wx1", ClaimID: "v", Reference: "r", ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	keys := []preauth.Secret{entryKey}
	room := preauth.MaxEntryLink - len(signedEntry(t, link, entryKey))
	link.Reference = strings.Repeat("单", room/9) + strings.Repeat("r", 1+room%9)
	target := signedEntry(t, link, entryKey)
	if got, _, err := preauth.ParseEntryLink(target, keys, time.Now()); len(target) != preauth.MaxEntryLink || err != nil || got != link {
		t.Errorf("%d bytes: %v", len(target), err)
	}
	link.Reference += "r"
	if _, err := link.Sign("https://auth.example.com", entryKey); !errors.Is(err, preauth.ErrInvalid) ||
		!strings.Contains(err.Error(), "has 1025 bytes without scheme and host, of at most 1024") {
		t.Errorf("a byte more: %v", err)
	}

	link.Reference = ""
	target = signedEntry(t, link, entryKey)
	early := link.ExpiresAt.Add(-preauth.MaxEntryLife - 5*time.Minute) // what the clocks may differ
	if _, _, err := preauth.ParseEntryLink(target, keys, early); err != nil {
		t.Error(err)
	}
	if _, _, err := preauth.ParseEntryLink(target, keys, early.Add(-time.Nanosecond)); !errors.Is(err, preauth.ErrInvalid) {
		t.Errorf("a moment earlier: %v", err)
	}

	link.Language = strings.Repeat("x", 36)
	if _, err := link.Sign("https://auth.example.com", entryKey); !errors.Is(err, preauth.ErrInvalid) {
		t.Errorf("a language of 36 letters: %v", err)
	}
}

// Who signs by hand may have a template with all parameters.
func TestEntryLinkWithAnEmptyAuthType(t *testing.T) {
	expires := time.Now().Add(time.Minute).UTC().Truncate(time.Second)
	target := signedByHand(fmt.Sprint("/authorize/wx1?claim_id=v&auth_type=&reference=&expires=", expires.Unix()))
	want := preauth.EntryLink{AppID: "wx1", ClaimID: "v", ExpiresAt: expires}
	if got, _, err := preauth.ParseEntryLink(target, []preauth.Secret{entryKey}, time.Now()); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEntryLinkExpires(t *testing.T) {
	link := fullEntry()
	target, keys := signedEntry(t, link, entryKey), []preauth.Secret{entryKey}
	if _, _, err := preauth.ParseEntryLink(target, keys, link.ExpiresAt.Add(-time.Nanosecond)); err != nil {
		t.Error(err)
	}
	got, extra, err := preauth.ParseEntryLink(target+"&from=timeline", keys, link.ExpiresAt)
	if !errors.Is(err, preauth.ErrEntryExpired) || got != link || extra != "&from=timeline" {
		t.Errorf("%+v, %q, %v", got, extra, err)
	}
	// The clock of the program that signed may be ahead, but not by a day.
	link.ExpiresAt = time.Now().Add(preauth.MaxEntryLife).UTC()
	target = signedEntry(t, link, entryKey)
	if _, _, err := preauth.ParseEntryLink(target, keys, time.Now().Add(-4*time.Minute)); err != nil {
		t.Error(err)
	}
	if _, _, err := preauth.ParseEntryLink(target, keys, time.Now().Add(-6*time.Minute)); !errors.Is(err, preauth.ErrInvalid) {
		t.Error(err)
	}
}

// Who signs by hand may get it wrong, and is told what.
func TestEntryLinkThatMakesNoSense(t *testing.T) {
	soon := fmt.Sprint("&expires=", time.Now().Add(time.Minute).Unix())
	for signed, says := range map[string]string{
		"/authorize/wx1?claim_id=v":                                                      "needs expires",
		"/authorize/wx1?claim_id=v&expires=":                                             "seconds since 1970",
		"/authorize/wx1?claim_id=v&expires=2026-03-14T09:00:00Z":                         "seconds since 1970",
		fmt.Sprint("/authorize/wx1?claim_id=v&expires=", time.Now().UnixMilli()):         "in seconds since 1970",
		"/authorize/wx1?reference=7" + soon:                                              "needs a claim_id",
		"/authorize/wx1?claim_id=" + strings.Repeat("v", 129) + soon:                     "the limit is 128",
		"/authorize/wx1?claim_id=%00" + soon:                                             "without control characters",
		"/authorize/wx1?claim_id=%ff" + soon:                                             "UTF-8",
		"/authorize/wx1?claim_id=%zz" + soon:                                             "URL-encoded",
		"/authorize/wx1?claim_id=v;" + soon:                                              "URL-encoded",
		"/authorize/wx1?claim_id=v&claim_id=w" + soon:                                    "twice",
		"/authorize/wx1?claim_id=v&redirect_uri=https://a.example" + soon:                "another parameter than",
		"/authorize/wx1?claim_id=v&auth_type=many" + soon:                                "auth_type",
		"/authorize/wx1?claim_id=v&auth_type=7" + soon:                                   "auth_type",
		"/authorize/wx1?claim_id=v&biz_appid=a.b" + soon:                                 "biz_appid",
		"/authorize/wx1?claim_id=v&category_id_list=1,2" + soon:                          "category_id_list",
		"/authorize/wx1?claim_id=v&lang=zh_CN" + soon:                                    "lang",
		"/authorize/%77x1?claim_id=v" + soon:                                             "component_appid",
		"/authorize/?claim_id=v" + soon:                                                  "component_appid",
		"/Authorize/wx1?claim_id=v" + soon:                                               "begin with /authorize/",
		"":                                                                               "begin with /authorize/",
		"/authorize/wx1?claim_id=v&reference=" + strings.Repeat("%E5%8D%95", 200) + soon: "shorten",
	} {
		link, extra, err := preauth.ParseEntryLink(signedByHand(signed)+"&from=timeline", []preauth.Secret{entryKey}, time.Now())
		if !errors.Is(err, preauth.ErrInvalid) || !strings.Contains(err.Error(), says) || link != (preauth.EntryLink{}) || extra != "&from=timeline" {
			t.Errorf("%s: %v, want %q", signed, err, says)
		}
	}
}

func TestEntryLinkThatCannotBeSigned(t *testing.T) {
	change := func(do func(*preauth.EntryLink)) preauth.EntryLink {
		link := fullEntry()
		do(&link)
		return link
	}
	base := "https://auth.example.com"
	for name, test := range map[string]struct {
		link preauth.EntryLink
		base string
		key  preauth.Secret
		says string
	}{
		"no claim id":  {change(func(l *preauth.EntryLink) { l.ClaimID = "" }), base, entryKey, "claim_id"},
		"no appid":     {change(func(l *preauth.EntryLink) { l.AppID = "" }), base, entryKey, "component_appid"},
		"no expiry":    {change(func(l *preauth.EntryLink) { l.ExpiresAt = time.Time{} }), base, entryKey, "expires"},
		"too late":     {change(func(l *preauth.EntryLink) { l.ExpiresAt = time.Now().Add(25 * time.Hour) }), base, entryKey, "more than 24 h"},
		"too long":     {change(func(l *preauth.EntryLink) { l.Reference = strings.Repeat("单", 256) }), base, entryKey, "shorten"},
		"no key":       {fullEntry(), base, preauth.Secret{}, "has 0 bytes"},
		"no base":      {fullEntry(), "", entryKey, "scheme and a host"},
		"no host":      {fullEntry(), "https://", entryKey, "scheme and a host"},
		"no URL":       {fullEntry(), "https://%zz", entryKey, "scheme and a host"},
		"no scheme":    {fullEntry(), "auth.example.com", entryKey, "scheme and a host"},
		"a path":       {fullEntry(), base + "/authorize", entryKey, "scheme and a host"},
		"a query":      {fullEntry(), base + "?", entryKey, "scheme and a host"},
		"a user":       {fullEntry(), "https://me@auth.example.com", entryKey, "scheme and a host"},
		"other scheme": {fullEntry(), "javascript://auth.example.com", entryKey, "scheme and a host"},
	} {
		link, err := test.link.Sign(test.base, test.key)
		if !errors.Is(err, preauth.ErrInvalid) || !strings.Contains(err.Error(), test.says) || link != "" {
			t.Errorf("%s: %q, %v, want %q", name, link, err, test.says)
		}
	}
	if link, err := fullEntry().Sign("http://localhost:8080", entryKey); err != nil || !strings.HasPrefix(link, "http://localhost:8080/authorize/wx0") {
		t.Errorf("%q, %v", link, err)
	}
	if link, err := fullEntry().Sign(base+"/", entryKey); err != nil || !strings.HasPrefix(link, base+"/authorize/wx0") {
		t.Errorf("%q, %v", link, err)
	}
}

// What is accepted is what was signed, and can be signed again. Run it with:
//
//	go test -run '^$' -fuzz '^FuzzEntryLink$' -fuzztime 5m .
func FuzzEntryLink(f *testing.F) {
	f.Add("/authorize/wx1", "claim_id=v&expires=1773479190", "")
	f.Add("/authorize/wx1", "claim_id=v&reference=%E5%8D%95&auth_type=6&lang=zh&expires=1773479190", "&from=timeline")
	f.Add("/authorize/wx1", "claim_id=v&signature=&expires=1773479190", "&signature=")
	f.Add("/authorize/%2e%2e", "claim_id=v&expires=-1;", "#")
	now := time.Unix(1773479000, 0)
	keys := []preauth.Secret{entryOlder, entryKey}
	f.Fuzz(func(t *testing.T, path, query, added string) {
		if link, _, err := preauth.ParseEntryLink(path+"?"+query+added, keys, now); !errors.Is(err, preauth.ErrEntrySignature) {
			t.Fatalf("without a signature: %+v, %v", link, err)
		}
		target := signedByHand(path + "?" + query)
		link, extra, err := preauth.ParseEntryLink(target+added, keys, now)
		if errors.Is(err, preauth.ErrEntrySignature) || errors.Is(err, preauth.ErrEntryExpired) || errors.Is(err, preauth.ErrInvalid) {
			return
		}
		if err != nil || extra != added {
			t.Fatalf("%v; %q was added, %q found", err, added, extra)
		}
		if !strings.HasPrefix(target, preauth.EntryPath+link.AppID+"?") || len(target) > preauth.MaxEntryLink {
			t.Fatalf("accepted: %q as %+v", target, link)
		}
		values, err := url.ParseQuery(query)
		if err != nil || values.Get("claim_id") != link.ClaimID || values.Get("reference") != link.Reference {
			t.Fatalf("%q says %+v", query, link)
		}
		if link.ExpiresAt.After(now.Add(preauth.MaxEntryLife+time.Hour)) || !link.ExpiresAt.After(now) {
			t.Fatalf("it expires at %v", link.ExpiresAt)
		}
	})
}
