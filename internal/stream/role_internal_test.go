package stream

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		a, b             string
		overlap, aCovers bool // aCovers: b is a subject, or ends with "*"
	}{
		{"a.b", "a.b", true, false},
		{"a.b", "a.c", false, false},
		{"a.*", "a.b", true, true},
		{"a.*", "a.*", true, true},
		{"a.b", "a.*", true, false},
		{"a.*", "a.b.c", false, false},
		{"a.>", "a.b.*", true, true},
		{"a.>", "a", false, false},
		{"a", "a.>", false, false},
		{">", "a.*", true, true},
		{"*.b", "a.*", true, false},
		{"*.*", "a.*", true, true},
		{"a.b.>", "a.*.c", true, true},
		{"b.>", "a.>", false, false},
	} {
		if got := overlap(test.a, test.b); got != test.overlap {
			t.Errorf("%s and %s overlap: %v", test.a, test.b, got)
		}
		if got := overlap(test.b, test.a); got != test.overlap {
			t.Errorf("%s and %s overlap: %v", test.b, test.a, got)
		}
		if got := covers(test.a, test.b); got != test.aCovers {
			t.Errorf("%s covers %s: %v", test.a, test.b, got)
		}
	}
}

var (
	events = Role{Name: "event stream", Events: "acme.event", Config: func() jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: "EVENTS"}
	}}
	news = Role{Name: "news stream", Config: func() jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: "NEWS", Subjects: []string{"news.*"}, MaxMsgsPerSubject: 1}
	}}
)

// A consumer has one filter at most, which lets every event through.
func TestFilter(t *testing.T) {
	for name, test := range map[string]struct {
		subjects []string
		want     string
	}{
		"its own subjects":           {[]string{"acme.event", "acme.event.>"}, ""},
		"some of them":               {[]string{"acme.event.a", "acme.event.b"}, ""},
		"one form and others":        {[]string{"acme.event.*", "acme.other"}, "acme.event.>"},
		"the other form and others":  {[]string{"acme.event", "acme.other"}, "acme.event"},
		"both forms, and all around": {[]string{"acme.>"}, "acme.>"},
		"everything":                 {[]string{">"}, "acme.>"},
	} {
		t.Run(name, func(t *testing.T) {
			got := events.Filter(jetstream.StreamConfig{Subjects: test.subjects})
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	flat := Role{Events: "event"}
	if got := flat.Filter(jetstream.StreamConfig{Subjects: []string{">"}}); got != "" {
		t.Errorf("got %q for a subject of one token", got)
	}
	for subject, want := range map[string]bool{"acme.event": true, "acme.event.a.b": true, "acme.eventual": false, "acme": false} {
		if got := events.IsEvent(subject); got != want {
			t.Errorf("%s is an event's: %v", subject, got)
		}
	}
}

// What a stream stores elsewhere, nobody would find.
func TestStreamThatCannotServe(t *testing.T) {
	transformed := func(source, destination string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Subjects:         []string{"acme.>", "news.>"},
			SubjectTransform: &jetstream.SubjectTransformConfig{Source: source, Destination: destination},
		}
	}
	for name, test := range map[string]struct {
		have             jetstream.StreamConfig
		asEvents, asNews error
	}{
		"as it would be created":         {news.Wanted(), errUncovered, nil},
		"everything":                     {jetstream.StreamConfig{Subjects: []string{">"}}, nil, nil},
		"the events of one":              {jetstream.StreamConfig{Subjects: []string{"acme.event.a"}}, nil, errUncovered},
		"the news of one":                {jetstream.StreamConfig{Subjects: []string{"news.a"}}, errUncovered, errUncovered},
		"moved elsewhere":                {transformed("", "old.>"), errTransform, errTransform},
		"others moved elsewhere":         {transformed("acme.other.*", "old.{{wildcard(1)}}"), nil, nil},
		"events moved among the events":  {transformed("acme.event.*", "acme.event.{{wildcard(1)}}.a"), nil, nil},
		"the bare event gets a name":     {transformed("acme.event", "acme.event.a"), nil, nil},
		"events moved beside the events": {transformed("acme.event.*", "acme.eventual.{{wildcard(1)}}"), errTransform, nil},
		"news moved among the news":      {transformed("news.*", "news.a.{{wildcard(1)}}"), nil, errTransform},
		"a transform that moves nothing": {transformed("news.>", "news.>"), nil, nil},
		"not acknowledged":               {jetstream.StreamConfig{Subjects: []string{">"}, NoAck: true}, nil, errNoAck},
		"a work queue":                   {jetstream.StreamConfig{Subjects: []string{">"}, Retention: jetstream.WorkQueuePolicy}, errRetention, errRetention},
		"sealed":                         {jetstream.StreamConfig{Subjects: []string{">"}, Sealed: true}, errSealed, errSealed},
		"a mirror":                       {jetstream.StreamConfig{Mirror: &jetstream.StreamSource{Name: "FAR"}}, errMirror, errMirror},
	} {
		t.Run(name, func(t *testing.T) {
			if err := events.Unfit(test.have); !errors.Is(err, test.asEvents) {
				t.Errorf("for events: %v, want %v", err, test.asEvents)
			}
			if err := news.Unfit(test.have); !errors.Is(err, test.asNews) {
				t.Errorf("for news: %v, want %v", err, test.asNews)
			}
		})
	}
}

func TestDrift(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   string
	}{
		"as it would be created": {func(*jetstream.StreamConfig) {}, ""},
		"other subjects and limits": {
			func(c *jetstream.StreamConfig) { c.Subjects, c.MaxMsgsPerSubject = []string{"news.*", "old"}, -1 },
			"subjects is [news.* old], not [news.*]; max messages per subject is 0, not 1",
		},
		"an age": {
			func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
			"max age is 1h0m0s, after which messages vanish that have to stay: set it to 0",
		},
		"full, it drops the oldest": {
			func(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = 1000, jetstream.DiscardOld },
			"discard is DiscardOld, not DiscardNew; max bytes is 1000, not 0",
		},
		"messages without TTLs": {
			func(c *jetstream.StreamConfig) { c.AllowMsgTTL = false },
			"messages have no TTL, so that those which are of no use any more stay: set allow_msg_ttl to true",
		},
		"never full, so it drops nothing": {func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := news.Wanted()
			want.Discard, want.AllowMsgTTL = jetstream.DiscardNew, true
			have := want
			test.change(&have)
			if got := drift(want, have); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A stream that loses messages by its own limits is not followed anew for that.
func TestStreamsThatLoseMessagesByThemselves(t *testing.T) {
	for name, test := range map[string]struct {
		config jetstream.StreamConfig
		state  jetstream.StreamState
		want   bool
	}{
		"no limits":       {jetstream.StreamConfig{MaxBytes: -1, MaxMsgs: -1}, jetstream.StreamState{Msgs: 10, Bytes: 5000}, false},
		"room enough":     {jetstream.StreamConfig{MaxBytes: 10_000}, jetstream.StreamState{Msgs: 10, Bytes: 5000}, false},
		"purged":          {jetstream.StreamConfig{MaxBytes: 10_000}, jetstream.StreamState{}, false},
		"no room":         {jetstream.StreamConfig{MaxBytes: 10_000}, jetstream.StreamState{Msgs: 20, Bytes: 9800}, true},
		"enough messages": {jetstream.StreamConfig{MaxMsgs: 20}, jetstream.StreamState{Msgs: 20}, true},
		"fewer messages":  {jetstream.StreamConfig{MaxMsgs: 20}, jetstream.StreamState{Msgs: 19}, false},
		"an age":          {jetstream.StreamConfig{MaxAge: time.Hour}, jetstream.StreamState{}, true},
	} {
		if got := losesByItself(test.config, test.state); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// Copies on other servers do not replace syncing.
func TestStreamsOnDiskNeedSync(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		for storage, want := range map[jetstream.StorageType]bool{jetstream.FileStorage: true, jetstream.MemoryStorage: false} {
			if got := NeedsSync(jetstream.StreamConfig{Storage: storage, Replicas: replicas}); got != want {
				t.Errorf("%v with %d replicas: got %v", storage, replicas, got)
			}
		}
	}
}
