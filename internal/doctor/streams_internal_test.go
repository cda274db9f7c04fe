package doctor

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestRoomFor(t *testing.T) {
	stream := func(kind jetstream.StorageType, needed bool, maxBytes int64) found {
		return found{needed: needed, missing: true, config: jetstream.StreamConfig{Storage: kind, MaxBytes: maxBytes, Replicas: 3}}
	}
	unlimited := jetstream.AccountLimits{MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: -1}
	failures, bucket := stream(jetstream.FileStorage, true, 100), stream(jetstream.MemoryStorage, false, 100)
	for name, test := range map[string]struct {
		change  func(*jetstream.Tier)
		missing []found
		want    Result
	}{
		"no limits":                               {func(*jetstream.Tier) {}, []found{failures, bucket}, OK},
		"nothing is missing":                      {func(t *jetstream.Tier) { t.Streams, t.Limits.MaxStreams = 6, 6 }, nil, OK},
		"no stream more":                          {func(t *jetstream.Tier) { t.Streams, t.Limits.MaxStreams = 6, 6 }, []found{failures}, Problem},
		"no stream more for the bucket":           {func(t *jetstream.Tier) { t.Streams, t.Limits.MaxStreams = 5, 5 }, []found{bucket}, Warning},
		"room for all replicas":                   {func(t *jetstream.Tier) { t.Limits.MaxStore = 300 }, []found{failures}, OK},
		"room for some replicas":                  {func(t *jetstream.Tier) { t.Limits.MaxStore = 299 }, []found{failures}, Problem},
		"others have the room":                    {func(t *jetstream.Tier) { t.Limits.MaxStore, t.ReservedStore = 300, 1 }, []found{failures}, Problem},
		"no memory for the bucket":                {func(t *jetstream.Tier) { t.Limits.MaxMemory = 299 }, []found{bucket}, Warning},
		"max_bytes is given where it is required": {func(t *jetstream.Tier) { t.Limits.MaxBytesRequired = true }, []found{failures}, OK},
		"one consumer":                            {func(t *jetstream.Tier) { t.Limits.MaxConsumers = 1 }, nil, Problem},
	} {
		tier := jetstream.Tier{Limits: unlimited}
		test.change(&tier)
		if got := roomFor(test.missing, tier); got.result != test.want || (got.do == "") != (test.want == OK) {
			t.Errorf("%s: %+v, want %s", name, got, test.want)
		}
	}
}
