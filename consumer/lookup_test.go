package consumer

import (
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/internal/view"
)

// fromMemory returns a look-up handler that has one code in memory. It fails the test if memory is
// not enough to answer.
func fromMemory(tb testing.TB) func(data []byte) []byte {
	now := time.Now()
	codes := view.NewCodes()
	codes.Add(preauth.Update{
		AppID: "wx0123456789abcdef", PreAuthCode: preauth.NewSecret("preauthcode@@@" + strings.Repeat("x", 64)),
		IssuedAt: now, ExpiresAt: now.Add(30 * time.Minute), Revision: 42, Cause: preauth.CauseToken,
	})
	l := lookups{subject: "preauth.lookup", codes: codes, tokens: view.NewTokens(), now: time.Now}
	handle := l.handler()
	return func(data []byte) []byte {
		body, w, err := handle("preauth.lookup.wx0123456789abcdef", data)
		if w != nil || err != nil {
			tb.Fatalf("not answered from memory: %v", err)
		}
		return body
	}
}

// An empty request answered from memory allocates nothing: each answer is written into the buffer
// of the one before.
func TestAllocationsOfALookUp(t *testing.T) {
	answer := fromMemory(t)
	if got := testing.AllocsPerRun(1000, func() { answer(nil) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

// A look-up that memory cannot serve goes to MySQL.
func TestLookUpsThatNeedMoreThanMemory(t *testing.T) {
	now := time.Now()
	codes := view.NewCodes()
	code := preauth.Update{AppID: "wx1", PreAuthCode: preauth.NewSecret("c"), IssuedAt: now, ExpiresAt: now.Add(10 * time.Minute), Revision: 7}
	codes.Add(code)
	clock := now
	l := lookups{subject: "preauth.lookup", codes: codes, tokens: view.NewTokens(), now: func() time.Time { return clock }}
	handle := l.handler()
	for name, test := range map[string]struct {
		at      time.Time
		subject string
		data    string
		memory  bool
	}{
		"the code":             {now, "preauth.lookup.wx1", "", true},
		"named in the body":    {now, "preauth.lookup", `{"component_appid":"wx1"}`, true},
		"its full life":        {now, "preauth.lookup.wx1", `{"min_ttl":600}`, true},
		"more than its life":   {now, "preauth.lookup.wx1", `{"min_ttl":601}`, false},
		"its revision":         {now, "preauth.lookup.wx1", `{"min_revision":7}`, true},
		"a later revision":     {now, "preauth.lookup.wx1", `{"min_revision":8}`, false},
		"just before expiry":   {now.Add(10*time.Minute - 1), "preauth.lookup.wx1", "", true},
		"expired":              {now.Add(10 * time.Minute), "preauth.lookup.wx1", "", false},
		"an unknown component": {now, "preauth.lookup.wx2", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			clock = test.at
			body, w, err := handle(test.subject, []byte(test.data))
			if err != nil || (w == nil) != test.memory || (body != nil) != test.memory {
				t.Errorf("body %q, work %v, error %v; want memory to answer: %v", body, w != nil, err, test.memory)
			}
		})
	}
}

func BenchmarkLookUpInMemory(b *testing.B) {
	answer := fromMemory(b)
	for name, body := range map[string]string{
		"empty": "", "min_ttl": `{"min_ttl":300}`, "links": `{"redirect_uri":"https://example.com/authorized","auth_type":3}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				answer([]byte(body))
			}
		})
	}
}
