package consumer_test

import (
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
)

func lookUpsInMemory() func(subject string, body []byte) []byte {
	now := time.Now()
	return consumer.LookUpsInMemory(preauth.Update{
		AppID: "wx0123456789abcdef", PreAuthCode: preauth.NewSecret("preauthcode@@@" + strings.Repeat("x", 64)),
		IssuedAt: now, ExpiresAt: now.Add(30 * time.Minute), Revision: 42, Cause: preauth.CauseToken,
	})
}

// An empty request that memory can answer costs no memory: the answer is written where the one before was.
func TestAllocationsOfALookUp(t *testing.T) {
	answer := lookUpsInMemory()
	got := testing.AllocsPerRun(1000, func() {
		if answer("preauth.lookup.wx0123456789abcdef", nil) == nil {
			t.Fatal("not answered")
		}
	})
	if got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func BenchmarkLookUpInMemory(b *testing.B) {
	answer := lookUpsInMemory()
	for name, body := range map[string]string{
		"empty": "", "min_ttl": `{"min_ttl":300}`, "links": `{"redirect_uri":"https://example.com/authorized","auth_type":3}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if answer("preauth.lookup.wx0123456789abcdef", []byte(body)) == nil {
					b.Fatal("not answered")
				}
			}
		})
	}
}
