package consumer_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth/consumer"
	"preauth/internal/natsserver"
	"preauth/wechat/wechattest"
)

// account returns a configuration of nats-server in which everybody is a user of one account.
func account(settings string) string {
	return "accounts: {A: {users: [{user: a, password: a}], " + settings + "}}\nno_auth_user: a"
}

// works announces tokens and waits for the codes.
func (w *world) works(r *replica) {
	w.t.Helper()
	r.ready()
	const components, events = 4, 24
	for i := range events {
		w.announce(fmt.Sprintf("wx%d", i%components), w.token(fmt.Sprint("event", i)))
	}
	for i := range components {
		r.await(consumer.StepCommitted, fmt.Sprintf("wx%d", i), 1)
		w.settled(r, fmt.Sprintf("wx%d", i))
	}
	r.ready()
}

// The streams that the service creates keep what their readers need, for as long as it is of use.
func TestStreamsThatAreCreated(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	first := uint64(now.UnixMicro()) // above all sequences of an earlier stream
	const week = 7 * 24 * time.Hour
	below := func(subject string) *jetstream.RePublish {
		return &jetstream.RePublish{Source: subject + ".*", Destination: subject}
	}
	want := []jetstream.StreamConfig{
		{Name: "COMPONENT_TOKENS", Subjects: []string{"component.token.updated", "component.token.updated.>"}, MaxAge: 2 * time.Hour, AllowAtomicPublish: true},
		{Name: "COMPONENT_AUTHORIZED", Subjects: []string{"component.authorized", "component.authorized.>"}, MaxAge: week},
		{
			Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, RePublish: below("preauth.updated"), MaxMsgsPerSubject: 1, FirstSeq: first,
			AllowDirect: true, AllowMsgTTL: true,
		},
		{Name: "PREAUTH_FAILED", Subjects: []string{"preauth.failed.*"}, RePublish: below("preauth.failed"), MaxAge: week, MaxBytes: 64 << 20},
		{Name: "PREAUTH_AUTHORIZED", Subjects: []string{"preauth.authorized.*"}, RePublish: below("preauth.authorized"), MaxAge: week, MaxBytes: 64 << 20},
		{
			Name: "KV_codes", Sources: []*jetstream.StreamSource{{Name: "PREAUTH", SubjectTransforms: []jetstream.SubjectTransformConfig{
				{Source: "preauth.updated.*", Destination: "$KV.codes.{{wildcard(1)}}"},
			}}},
			Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, FirstSeq: first, DenyDelete: true, AllowDirect: true,
			AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute, AllowRollup: true,
		},
	}
	for _, bytes := range []int64{0, 1 << 20} {
		roles := consumer.Roles(consumer.Config{Bucket: "codes", StreamReplicas: 3, StreamMaxBytes: bytes, Now: func() time.Time { return now }})
		if len(roles) != len(want) {
			t.Fatalf("%d streams", len(roles))
		}
		for i, role := range roles {
			got, want := role.Wanted(), want[i]
			want.Replicas = 3
			if bytes > 0 {
				want.MaxBytes = bytes
			}
			if got.Description == "" {
				t.Errorf("%s has no description", got.Name)
			}
			want.Description = got.Description
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		}
	}
	if roles := consumer.Roles(consumer.Config{}); len(roles) != len(want)-1 {
		t.Errorf("%d streams without a bucket", len(roles))
	}
}

// A service that asks for more than NATS allows takes what it can get.
func TestLimitsOfNATSAreKept(t *testing.T) {
	limited := jetstream.StreamConsumerLimits{InactiveThreshold: 2 * time.Second, MaxAckPending: 3}
	cases := map[string]struct {
		config  string
		streams []jetstream.StreamConfig // that exist
		setup   func(*setup)
	}{
		"requests for few messages": {config: `jetstream: {limits: {max_request_batch: 2}}`},
		"few pending acks":          {config: `jetstream: {limits: {max_ack_pending: 3}}`},
		"a short duplicate window":  {config: `jetstream: {limits: {duplicate_window: "10s"}}`},
		"few pending acks in the account": {
			config: account(`jetstream: {max_ack_pending: 3}`),
		},
		"a size for each stream": {
			config: account(`jetstream: {max_bytes_required: true, max_store: 100M}`),
			setup:  func(s *setup) { s.cfg.StreamMaxBytes = 1 << 20 },
		},
		"streams with limits for their consumers": {streams: []jetstream.StreamConfig{
			{Name: "COMPONENT_TOKENS", Subjects: []string{"component.token.updated", "component.token.updated.>"}, ConsumerLimits: limited},
			{Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, MaxMsgsPerSubject: 1, FirstSeq: 1, AllowDirect: true, ConsumerLimits: limited},
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorldConfigured(t, c.config)
			for _, stream := range c.streams {
				if _, err := w.js.CreateStream(w.within(), stream); err != nil {
					t.Fatal(err)
				}
			}
			if c.setup == nil {
				c.setup = func(*setup) {}
			}
			w.works(w.start(c.setup))
		})
	}
}

// The limit of the durable is lowered while the replica runs, so that its next request is refused.
func TestRequestThatIsRefusedLaterIsMadeSmaller(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.InFlight = 4 }).ready()
	durable, _ := w.consumers()
	config := durable.Config
	config.MaxRequestBatch = 2
	if _, err := w.js.UpdateConsumer(w.within(), "COMPONENT_TOKENS", config); err != nil {
		t.Fatal(err)
	}
	w.works(r)
}

// Authorizations have two streams: one that they are taken from, which may be anybody's, and one that
// they are announced on.
func TestStreamsOfAuthorizations(t *testing.T) {
	const week = 7 * 24 * time.Hour
	w := newWorld(t, wechattest.Options{})
	others := jetstream.StreamConfig{Name: "OTHERS", Subjects: []string{"component.authorized.>", "others.>"}}
	if _, err := w.js.CreateStream(w.within(), others); err != nil {
		t.Fatal(err)
	}
	w.start().ready()
	if _, err := w.js.Stream(w.within(), "COMPONENT_AUTHORIZED"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a second stream for the reports: %v", err)
	}
	announced, err := w.js.Stream(w.within(), "PREAUTH_AUTHORIZED")
	if err != nil {
		t.Fatal(err)
	}
	if c := announced.CachedInfo().Config; !slices.Equal(c.Subjects, []string{"preauth.authorized.*"}) || c.MaxAge != week || c.MaxBytes != 64<<20 ||
		c.RePublish == nil || c.RePublish.Destination != "preauth.authorized" {
		t.Errorf("announced in %+v", c)
	}
	if err := w.js.DeleteStream(w.within(), "OTHERS"); err != nil {
		t.Fatal(err)
	}
	w.eventually("a stream for the reports", func() bool {
		reported, err := w.js.Stream(w.within(), "COMPONENT_AUTHORIZED")
		return err == nil && reported.CachedInfo().Config.MaxAge == week &&
			slices.Equal(reported.CachedInfo().Config.Subjects, []string{"component.authorized", "component.authorized.>"})
	})
}

// What NATS refuses is a reason that names what to change. Once that is changed, the service works.
func TestReasonNamesWhatNATSRequires(t *testing.T) {
	cases := map[string]struct {
		config, then string // of nats-server
		says         []string
		setup        func(*setup)
	}{
		"no JetStream": {
			config: account(``), then: account(`jetstream: enabled`),
			says: []string{"stream: is not followed: ", "JetStream is not there", "--nats-js-domain"},
		},
		"a size for each stream": {
			config: account(`jetstream: {max_bytes_required: true, max_store: 100M}`), then: account(`jetstream: {max_store: 200M}`),
			says: []string{"--stream-max-bytes"},
		},
		"no room": {
			config: account(`jetstream: {max_store: 1M}`), then: account(`jetstream: {max_store: 200M}`),
			says:  []string{"insufficient storage", "--stream-max-bytes"},
			setup: func(s *setup) { s.cfg.StreamMaxBytes = 10 << 20 },
		},
		"few streams": {
			config: account(`jetstream: {max_streams: 1}`), then: account(`jetstream: {max_streams: 5}`),
			says: []string{"max_streams"},
		},
		"few consumers": {
			config: account(`jetstream: {max_consumers: 1}`), then: account(`jetstream: {max_consumers: 3}`),
			says: []string{"max_consumers"},
		},
		"one server": {
			config: account(`jetstream: enabled`),
			says:   []string{"--stream-replicas"},
			setup:  func(s *setup) { s.cfg.StreamReplicas = 3 },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorldConfigured(t, c.config)
			if c.setup == nil {
				c.setup = func(*setup) {}
			}
			r := w.start(c.setup)
			w.eventually("the reason", func() bool {
				err := r.service.Ready()
				for _, words := range c.says {
					if !contains(err, words) {
						return false
					}
				}
				return true
			})
			if strings.Contains(r.metrics(), "preauth_nats_errors_total{kind=\"stream\"} 0\n") {
				t.Error("no metric counts it")
			}
			w.eventually("logged", func() bool {
				_, line, _ := strings.Cut(w.log.String(), `"msg":"not ready"`)
				return strings.Contains(line, c.says[0])
			})
			if c.then == "" {
				return
			}
			if err := w.nats.Reload(c.then); err != nil {
				t.Fatal(err)
			}
			w.works(r)
		})
	}
}

// Streams that exist under the service's names, or for its subjects, and do not hold what it needs
// are refused, with the reason that fits. One that was changed to be so is noticed.
func TestStreamThatDoesNotHoldItsMessagesIsRefused(t *testing.T) {
	tokens := []string{"component.token.updated", "component.token.updated.>"}
	elsewhere := &jetstream.SubjectTransformConfig{Source: "component.>", Destination: "elsewhere.>"}
	cases := map[string]struct {
		streams []jetstream.StreamConfig
		says    []string
	}{
		"tokens stored elsewhere": {
			[]jetstream.StreamConfig{{Name: "OTHERS", Subjects: []string{"component.>"}, SubjectTransform: elsewhere}},
			[]string{"token stream: ", "stream OTHERS: ", "subject transform"},
		},
		"everything stored elsewhere": {
			[]jetstream.StreamConfig{{Name: "OTHERS", Subjects: tokens, SubjectTransform: &jetstream.SubjectTransformConfig{Destination: "elsewhere.>"}}},
			[]string{"token stream: ", "subject transform"},
		},
		"tokens copied from somewhere": {
			[]jetstream.StreamConfig{{Name: "FAR", Subjects: []string{"far.>"}}, {Name: "COMPONENT_TOKENS", Mirror: &jetstream.StreamSource{Name: "FAR"}}},
			[]string{"token stream: ", "mirror"},
		},
		"a stream for each component": {
			[]jetstream.StreamConfig{
				{Name: "ONE", Subjects: []string{"component.token.updated.wx1"}}, {Name: "TWO", Subjects: []string{"component.token.updated.wx2"}},
			},
			[]string{"token stream: ", "ONE and TWO", "share the subjects component.token.updated"},
		},
		"updates of one component": {
			[]jetstream.StreamConfig{{Name: "PREAUTH", Subjects: []string{"preauth.updated.wx1"}}},
			[]string{"update stream: ", "does not take the subjects"},
		},
		"other things than updates": {
			[]jetstream.StreamConfig{{Name: "PREAUTH", Subjects: []string{"something.else"}}},
			[]string{"update stream: ", "does not take the subjects"},
		},
		"updates stored elsewhere": {
			[]jetstream.StreamConfig{{
				Name: "PREAUTH", Subjects: []string{"preauth.updated.*"},
				SubjectTransform: &jetstream.SubjectTransformConfig{Source: "preauth.updated.*", Destination: "old.{{wildcard(1)}}"},
			}},
			[]string{"update stream: ", "subject transform"},
		},
		"updates not acknowledged": {
			[]jetstream.StreamConfig{{Name: "PREAUTH", Subjects: []string{"preauth.>"}, NoAck: true}},
			[]string{"update stream: ", "no_ack"},
		},
		"other things than failures": {
			[]jetstream.StreamConfig{{Name: "PREAUTH_FAILED", Subjects: []string{"preauth.failed.*.*"}}},
			[]string{"failure stream: ", "does not take the subjects"},
		},
		"subjects that another stream takes": {
			[]jetstream.StreamConfig{{Name: "OTHERS", Subjects: []string{"preauth.failed.>"}}},
			[]string{"failure stream: ", "another stream takes"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			for _, stream := range c.streams {
				if _, err := w.js.CreateStream(w.within(), stream); err != nil {
					t.Fatal(err)
				}
			}
			r := w.start()
			w.eventually("refused", func() bool {
				err := r.service.Ready()
				for _, words := range c.says {
					if !contains(err, words) {
						return false
					}
				}
				return true
			})
			for _, stream := range c.streams {
				if err := w.js.DeleteStream(w.within(), stream.Name); err != nil {
					t.Fatal(err)
				}
			}
			w.works(r)
		})
	}

	t.Run("changed while it is used", func(t *testing.T) {
		w := newWorld(t, wechattest.Options{})
		r := w.start().ready()
		config := w.tokenStream().CachedInfo().Config
		config.SubjectTransform = elsewhere
		if _, err := w.js.UpdateStream(w.within(), config); err != nil {
			t.Fatal(err)
		}
		w.eventually("refused", func() bool { return contains(r.service.Ready(), "subject transform") })
		config.SubjectTransform = nil
		if _, err := w.js.UpdateStream(w.within(), config); err != nil {
			t.Fatal(err)
		}
		w.works(r)
	})
	t.Run("sealed while it is used", func(t *testing.T) {
		w := newWorld(t, wechattest.Options{})
		r := w.start().ready()
		config := w.tokenStream().CachedInfo().Config
		config.Sealed = true
		if _, err := w.js.UpdateStream(w.within(), config); err != nil {
			t.Fatal(err)
		}
		w.eventually("refused", func() bool { return contains(r.service.Ready(), "sealed") })
		if err := w.js.DeleteStream(w.within(), config.Name); err != nil {
			t.Fatal(err)
		}
		w.works(r)
	})
}

// A transform of other subjects than the service's is none of its business.
func TestStreamWithATransformOfOtherSubjectsIsTaken(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	_, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{
		Name: "OTHERS", Subjects: []string{"component.>"},
		SubjectTransform: &jetstream.SubjectTransformConfig{Source: "component.id.*", Destination: "elsewhere.{{wildcard(1)}}"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCommitted, "wx1", 1)
}

// renaming is a way to NATS on which the field for atomic batches has a name that no server knows.
type renaming struct{}

func (renaming) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return renamingConn{conn}, err
}

type renamingConn struct{ net.Conn }

func (c renamingConn) Write(b []byte) (int, error) {
	return c.Conn.Write(bytes.ReplaceAll(b, []byte(`"allow_atomic"`), []byte(`"allow_atomiX"`)))
}

// nats-server before 2.12 does not know the field, and refuses it where it is strict.
func TestServerThatDoesNotKnowAtomicBatches(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.works(w.start(func(s *setup) { s.nc = w.connect(nats.SetCustomDialer(renaming{})) }))
	if w.tokenStream().CachedInfo().Config.AllowAtomicPublish {
		t.Error("the stream takes atomic batches")
	}
}

// The service's own server is a leaf node without JetStream: the hub's has a domain.
func TestJetStreamInAnotherDomain(t *testing.T) {
	address, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address.Close()
	w := newWorldConfigured(t, fmt.Sprintf("jetstream: {domain: hub}\nleafnodes: {listen: %q}", address.Addr()))
	leaf, err := natsserver.Start(natsserver.Options{
		Config: fmt.Sprintf("server_name: leaf\njetstream: disabled\nleafnodes: {remotes: [{url: \"nats://%s\"}]}", address.Addr()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leaf.Close() })
	onLeaf := func(s *setup) {
		nc, err := nats.Connect(leaf.URL(), nats.MaxReconnects(-1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		s.nc = nc
	}
	r := w.start(onLeaf)
	w.eventually("the reason", func() bool {
		return contains(r.service.Ready(), "in another domain") && contains(r.service.Ready(), "--nats-js-domain")
	})
	r.stop()
	r = w.start(onLeaf, func(s *setup) { s.cfg.JetStreamDomain = "hub" })
	w.works(r)
	w.publish("component.token.updated.wx9", []byte("{}"))
	r.await(consumer.StepFailed, "", 1)
	w.eventually("failure announced", func() bool { return w.failuresOf("wx9") == 1 })
}
