package preauth_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"preauth"
)

func BenchmarkParseTokenEvent(b *testing.B) {
	plainBody := plain(`,"expires_in":7200,"issued_at":"2026-03-14T09:26:53Z"`)
	events := []struct {
		name   string
		header nats.Header
		body   string
	}{
		{"plain", nil, plainBody},
		{"binary", nats.Header{"ce-specversion": {"1.0"}, "content-type": {"application/json"}}, plainBody},
		{"structured", nil, `{"specversion":"1.0","type":"token","source":"/tokens","id":"1","data":` + plainBody + `}`},
	}
	for _, event := range events {
		b.Run(event.name, func(b *testing.B) {
			body := []byte(event.body)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := preauth.ParseTokenEvent(appID, event.header, body, at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLookupEncode(b *testing.B) {
	withLinks := aLookup()
	bare := withLinks
	bare.Links = preauth.Links{}
	for name, lookup := range map[string]preauth.Lookup{"bare": bare, "links": withLinks} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				lookup.Encode()
			}
		})
	}
}
