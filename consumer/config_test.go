package consumer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
)

func TestImpossibleSettings(t *testing.T) {
	long := strings.Repeat("x", 64)
	for name, test := range map[string]struct {
		cfg  consumer.Config
		want string // what the error says, "" for possible settings
	}{
		"none": {consumer.Config{}, ""},

		"a subject with a wildcard":        {consumer.Config{Subjects: preauth.Subjects{Claim: "a.*"}}, `the claim subject "a.*" must be words`},
		"a subject with an empty word":     {consumer.Config{Subjects: preauth.Subjects{Failed: "a..b"}}, `the failed subject "a..b" must be words`},
		"the same subject twice":           {consumer.Config{Subjects: preauth.Subjects{Claim: "a.b", Renew: "a.b"}}, `the claim subject "a.b" covers the renew subject "a.b"`},
		"a subject below another one":      {consumer.Config{Subjects: preauth.Subjects{Status: "a", Resolve: "a.b"}}, `the status subject "a" covers the resolve subject "a.b"`},
		"a subject that begins like one":   {consumer.Config{Subjects: preauth.Subjects{Status: "a", Resolve: "ab"}}, ""},
		"a stream with a dot":              {consumer.Config{TokenStream: "a.b"}, `the token stream name "a.b" must be 1 to 64`},
		"another stream with a dot":        {consumer.Config{AuthorizedStream: "a.b"}, `the authorized stream name "a.b" must be 1 to 64`},
		"a durable that is too long":       {consumer.Config{Durable: long + "x"}, "the durable name"},
		"the longest names":                {consumer.Config{Durable: long, FailureStream: long, JetStreamDomain: long, Bucket: long}, ""},
		"two streams of one name":          {consumer.Config{FailureStream: "A", AuthorizationStream: "A"}, "each stream needs a name of its own"},
		"a stream of the bucket's name":    {consumer.Config{Bucket: "preauth", FailureStream: "KV_preauth"}, "each stream needs a name of its own"},
		"a bucket with a dot":              {consumer.Config{Bucket: "a.b"}, `the KV bucket's name "a.b" must be`},
		"a bucket's name that is too long": {consumer.Config{Bucket: long + "x"}, "the KV bucket's name"},
		"a domain with a dot":              {consumer.Config{JetStreamDomain: "a.b"}, `the JetStream domain "a.b" must be`},
		"a negative size":                  {consumer.Config{StreamMaxBytes: -1}, "must not be negative, and is -1"},

		"two replicas":                  {consumer.Config{StreamReplicas: 2}, "must be 1, 3 or 5, not 2"},
		"three replicas":                {consumer.Config{StreamReplicas: 3}, ""},
		"five replicas":                 {consumer.Config{StreamReplicas: 5}, ""},
		"fewer than no calls":           {consumer.Config{Calls: -1}, "the number of calls at once must be 1 to 100000, not -1"},
		"one at once":                   {consumer.Config{Calls: 1, InFlight: 1, Requests: 1}, ""},
		"100000 at once":                {consumer.Config{Calls: 100_000, InFlight: 100_000, Requests: 100_000}, ""},
		"100001 events at once":         {consumer.Config{InFlight: 100_001}, "the number of events in flight at once"},
		"100001 requests at once":       {consumer.Config{Requests: 100_001}, "the number of requests at once"},
		"a thousand spares":             {consumer.Config{Spares: 1000}, ""},
		"more than a thousand spares":   {consumer.Config{Spares: 1001}, "at most 1000, not 1001"},
		"no spares":                     {consumer.Config{Spares: -1}, ""},
		"the fewest calls":              {consumer.Config{CallsPerSecond: 1, CallsPerDay: 100}, ""},
		"no calls in a second":          {consumer.Config{CallsPerSecond: -1}, "at least 1 per second and 100 per day, not -1 and 10000"},
		"too few calls in a day":        {consumer.Config{CallsPerDay: 99}, "at least 1 per second and 100 per day, not 200 and 99"},
		"an ack wait of a second":       {consumer.Config{AckWait: time.Second}, ""},
		"an ack wait below a second":    {consumer.Config{AckWait: time.Second - 1}, "the ack wait must be at least 1s"},
		"a negative request time-out":   {consumer.Config{RequestTimeout: -1}, "the request time-out must be more than 0"},
		"a negative time for shutdown":  {consumer.Config{Shutdown: -1}, "the shutdown time must be more than 0"},
		"a negative time for stalls":    {consumer.Config{Stall: -1}, "the stall time must be more than 0"},
		"a negative retention":          {consumer.Config{Retention: -1}, "the retention must be more than 0"},
		"a negative transient delay":    {consumer.Config{Delays: consumer.Delays{Transient: -1}}, "the transient delay must be more than 0"},
		"a negative longest delay":      {consumer.Config{Delays: consumer.Delays{TransientMax: -1}}, "the largest transient delay must be more than 0"},
		"a negative throttled delay":    {consumer.Config{Delays: consumer.Delays{Throttled: -1}}, "the throttled delay must be more than 0"},
		"a negative quota delay":        {consumer.Config{Delays: consumer.Delays{Quota: -1}}, "the quota delay must be more than 0"},
		"a negative delay of operators": {consumer.Config{Delays: consumer.Delays{Operator: -1}}, "the operator delay must be more than 0"},
		"a negative single delay":       {consumer.Config{Delays: consumer.Delays{Once: -1}}, "the single delay must be more than 0"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.cfg.Check()
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want != "" && (!errors.Is(err, consumer.ErrConfig) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// All that is wrong is said at once, in the same order each time.
func TestImpossibleSettingsAreAllNamed(t *testing.T) {
	cfg := consumer.Config{Calls: -1, InFlight: -1, Requests: -1, Shutdown: -1, Stall: -1}
	lines := strings.Split(cfg.Check().Error(), "\n")
	if len(lines) != 5 || !slices.IsSorted(lines) {
		t.Errorf("got %q", lines)
	}
}
