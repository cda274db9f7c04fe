package preauth_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"preauth"
)

// measured are the parsers and encoders that each event or request goes through, and how many allocations
// each makes.
func measured() []measurement {
	tokenEvent := func(header nats.Header, body string) func() error {
		text := []byte(body)
		return func() error {
			_, err := preauth.ParseTokenEvent(appID, header, text, at)
			return err
		}
	}
	event := plain(`,"expires_in":7200,"issued_at":"2026-03-14T09:26:53Z"`)
	update := anUpdate().Encode()
	lookup := func(body string) func() error {
		text := []byte(body)
		return func() error {
			_, err := preauth.ParseLookupRequest(appID, text)
			return err
		}
	}
	links := preauth.LookupRequest{LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/authorized", AuthType: 3}}
	answer := aLookup()
	bare := answer
	bare.Links = preauth.Links{}
	encode := func(encode func() []byte) func() error {
		return func() error {
			encode()
			return nil
		}
	}
	return []measurement{
		{"ParseTokenEvent/plain", 6, tokenEvent(nil, event)},
		{"ParseTokenEvent/binary", 6, tokenEvent(nats.Header{"ce-specversion": {"1.0"}, "content-type": {"application/json"}}, event)},
		{"ParseTokenEvent/structured", 8, tokenEvent(nil, `{"specversion":"1.0","type":"token","source":"/tokens","id":"1","data":`+event+`}`)},
		{"ParseTokenEvent/with escapes of others", 5, tokenEvent(nil, plain(`,"note":"a \"quoted\" word"`))},
		{"ParseTokenEvent/with an array of others", 5, tokenEvent(nil, plain(`,"notes":[1,"]"]`))},
		{"ParseUpdate", 8, func() error {
			_, err := preauth.ParseUpdate(update)
			return err
		}},
		{"ParseLookupRequest/empty", 0, lookup("")},
		{"ParseLookupRequest/min_ttl", 3, lookup(`{"min_ttl":300}`)},
		{"ParseLookupRequest/links", 6, lookup(string(links.Encode()))},
		{"Update.Encode", 1, encode(anUpdate().Encode)},
		{"Lookup.Encode/bare", 1, encode(bare.Encode)},
		{"Lookup.Encode/links", 3, encode(answer.Encode)},
	}
}

type measurement struct {
	name        string
	allocations float64
	call        func() error
}

func BenchmarkMessages(b *testing.B) {
	for _, m := range measured() {
		b.Run(m.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := m.call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
