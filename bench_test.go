package preauth_test

import (
	"bytes"
	"testing"

	"github.com/nats-io/nats.go"

	"preauth"
)

// bare returns the answer to most look-ups, which has no links.
func bare() preauth.Lookup {
	l := aLookup()
	l.Links = preauth.Links{}
	return l
}

// Encoding a message allocates its body and nothing else. Most look-ups have an empty body, and
// parsing that allocates nothing.
func TestAllocations(t *testing.T) {
	update, lookup := anUpdate(), bare()
	var body []byte
	for _, test := range []struct {
		name string
		want float64
		call func()
	}{
		{"ParseLookupRequest/empty", 0, func() { _, _ = preauth.ParseLookupRequest(appID, nil) }},
		{"Update.Encode", 1, func() { body = update.Encode() }},
		{"Lookup.Encode/bare", 1, func() { body = lookup.Encode() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := testing.AllocsPerRun(1000, test.call); got != test.want {
				t.Errorf("%v allocations, want %v", got, test.want)
			}
		})
	}
	if !bytes.Equal(body, lookup.Encode()) {
		t.Errorf("the last body is %s", body)
	}
}

// BenchmarkMessages measures what the service does for each event and each request.
func BenchmarkMessages(b *testing.B) {
	tokenEvent := func(header nats.Header, body string) func() error {
		text := []byte(body)
		return func() error {
			_, err := preauth.ParseTokenEvent(appID, header, text, at)
			return err
		}
	}
	lookup := func(body string) func() error {
		text := []byte(body)
		return func() error {
			_, err := preauth.ParseLookupRequest(appID, text)
			return err
		}
	}
	encode := func(encode func() []byte) func() error {
		return func() error {
			encode()
			return nil
		}
	}
	event := plain(`,"expires_in":7200,"issued_at":"2026-03-14T09:26:53Z"`)
	update := anUpdate().Encode()
	links := preauth.LookupRequest{LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/authorized", AuthType: 3}}
	for _, m := range []struct {
		name string
		call func() error
	}{
		{"ParseTokenEvent/plain", tokenEvent(nil, event)},
		{"ParseTokenEvent/binary", tokenEvent(nats.Header{"ce-specversion": {"1.0"}, "content-type": {"application/json"}}, event)},
		{"ParseTokenEvent/structured", tokenEvent(nil, `{"specversion":"1.0","type":"token","source":"/tokens","id":"1","data":`+event+`}`)},
		{"ParseUpdate", func() error {
			_, err := preauth.ParseUpdate(update)
			return err
		}},
		{"ParseLookupRequest/empty", lookup("")},
		{"ParseLookupRequest/min_ttl", lookup(`{"min_ttl":300}`)},
		{"ParseLookupRequest/links", lookup(string(links.Encode()))},
		{"Update.Encode", encode(anUpdate().Encode)},
		{"Lookup.Encode/bare", encode(bare().Encode)},
		{"Lookup.Encode/links", encode(aLookup().Encode)},
	} {
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
