package consumer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/wechat/wechattest"
)

func withBucket(s *setup) { s.cfg.Bucket = "preauth" }

// bucket waits for the KV bucket.
func (w *world) bucket() jetstream.KeyValue {
	w.t.Helper()
	var kv jetstream.KeyValue
	w.eventually("a bucket", func() (ok bool) {
		var err error
		kv, err = w.js.KeyValue(w.within(), "preauth")
		return err == nil
	})
	return kv
}

// cached waits until the bucket has a revision of a component, and returns the update.
func (w *world) cached(appid string, revision uint64) preauth.Update {
	w.t.Helper()
	kv := w.bucket()
	var update preauth.Update
	w.eventually("in the bucket", func() bool {
		entry, err := kv.Get(w.within(), appid)
		if err != nil {
			return false
		}
		if update, err = preauth.ParseUpdate(entry.Value()); err != nil {
			w.t.Fatal(err)
		}
		return update.Revision == revision
	})
	return update
}

// change receives the next change that a watcher hears of.
func (w *world) change(watcher jetstream.KeyWatcher) jetstream.KeyValueEntry {
	w.t.Helper()
	entry := next(w, watcher.Updates())
	if entry == nil {
		w.t.Fatal("the watcher hears of no change")
	}
	return entry
}

// A program with nothing but a client of NATS reads the current codes, watches them, and hears when
// there is none any more. It cannot change them.
func TestBucketHasTheCurrentCodes(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(unrenewed, withBucket).ready()
	w.announce("wx2", w.token("a"))
	second := w.settled(r, "wx2")
	if update := w.cached("wx2", 1); !update.PreAuthCode.Equal(second.PreAuthCode) || !update.ExpiresAt.Equal(second.ExpiresAt) {
		t.Errorf("revision %d in the bucket is another code, or lives until %v", update.Revision, update.ExpiresAt)
	}
	watcher, err := w.bucket().WatchAll(w.within())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watcher.Stop() }()
	if entry := next(w, watcher.Updates()); entry == nil || entry.Key() != "wx2" || entry.Operation() != jetstream.KeyValuePut {
		t.Errorf("the first value is %v", entry)
	}
	if entry := next(w, watcher.Updates()); entry != nil {
		t.Errorf("a value that was not there: %v", entry)
	}

	w.shortLived(r, "wx1")
	if entry := w.change(watcher); entry.Key() != "wx1" || entry.Operation() != jetstream.KeyValuePut {
		t.Errorf("%s of %s, want a code of wx1", entry.Operation(), entry.Key())
	}
	if entry := w.change(watcher); entry.Key() != "wx1" || entry.Operation() != jetstream.KeyValuePurge {
		t.Errorf("%s of %s, want the end of wx1's code", entry.Operation(), entry.Key())
	}
	if _, err := w.bucket().Get(w.within(), "wx1"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("a dead code is in the bucket: %v", err)
	}
	if keys, err := w.bucket().Keys(w.within()); err != nil || !slices.Equal(keys, []string{"wx2"}) {
		t.Errorf("keys %v, %v", keys, err)
	}
	if _, err := w.js.Publish(w.within(), "$KV.preauth.wx2", []byte("forged"), jetstream.WithRetryAttempts(0)); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("somebody can write: %v", err)
	}
	if stream, err := w.js.Stream(w.within(), "KV_preauth"); err != nil {
		t.Error(err)
	} else if err := stream.DeleteMsg(w.within(), stream.CachedInfo().State.LastSeq); err == nil {
		t.Error("somebody can delete")
	}
	if !strings.Contains(r.metrics(), "preauth_kv_bucket 1\n") {
		t.Error("the metric says that there is no bucket")
	}
}

// What the watchers of a bucket saw is above all that a bucket which is created again holds, where
// they go on. The bucket is filled again, also when it is the stream of updates that was created
// again.
func TestBucketIsCreatedAgain(t *testing.T) {
	for _, deleted := range []string{"KV_preauth", "PREAUTH"} {
		t.Run(deleted, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			w.start(withBucket).ready()
			// A bucket that counted from 1 again would have too few values for the watcher.
			for revision := range uint64(3) {
				w.announce("wx1", w.token("a"))
				w.cached("wx1", 1+revision)
			}
			watcher, err := w.bucket().Watch(w.within(), "wx1")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = watcher.Stop() }()
			first := w.change(watcher)
			next(w, watcher.Updates()) // nil: that was all

			if err := w.js.DeleteStream(w.within(), deleted); err != nil {
				t.Fatal(err)
			}
			w.eventually("created again", func() bool {
				_, err := w.js.Stream(w.within(), deleted)
				return err == nil
			})
			w.cached("wx1", 3)
			w.announce("wx1", w.token("b"))
			w.cached("wx1", 4)
			for {
				entry := w.change(watcher)
				if entry.Revision() <= first.Revision() {
					t.Errorf("revision %d of the bucket follows %d", entry.Revision(), first.Revision())
				}
				update, err := preauth.ParseUpdate(entry.Value())
				if err != nil {
					t.Fatal(err)
				}
				if update.Revision == 4 {
					break
				}
			}
		})
	}
}

// Nothing in the service needs the bucket. Where it cannot be, the service is ready, and says in
// its log what is missing.
func TestServiceDoesWithoutItsBucket(t *testing.T) {
	cases := map[string]struct {
		config string
		stream *jetstream.StreamConfig // that exists
		says   string
	}{
		"no room for its stream": {config: account(`jetstream: {max_streams: 5}`), says: "max_streams"},
		"no right to create it": {
			config: `accounts: {A: {jetstream: enabled, users: [{user: a, password: a, permissions: {publish: {deny: "$JS.API.STREAM.CREATE.KV_preauth"}}}]}}` +
				"\nno_auth_user: a",
			says: "STREAM.CREATE.KV_preauth",
		},
		"another bucket": {
			stream: &jetstream.StreamConfig{Name: "KV_preauth", Subjects: []string{"$KV.preauth.>"}, MaxMsgsPerSubject: 1},
			says:   "does not copy what it has to",
		},
		"one that others can write to": {
			stream: &jetstream.StreamConfig{
				Name: "KV_preauth", Subjects: []string{"$KV.preauth.>"},
				Sources: []*jetstream.StreamSource{{Name: "PREAUTH", SubjectTransforms: []jetstream.SubjectTransformConfig{
					{Source: "preauth.updated.*", Destination: "$KV.preauth.{{wildcard(1)}}"},
				}}},
			},
			says: "others can publish in it",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorldConfigured(t, c.config)
			if c.stream != nil {
				if _, err := w.js.CreateStream(w.within(), *c.stream); err != nil {
					t.Fatal(err)
				}
			}
			r := w.start(withBucket)
			w.works(r)
			w.eventually("the reason in the log", func() bool {
				for line := range strings.Lines(w.log.String()) {
					if strings.Contains(line, `"level":"WARN"`) && strings.Contains(line, c.says) {
						return true
					}
				}
				return false
			})
			if !strings.Contains(r.metrics(), "preauth_kv_bucket 0\n") {
				t.Error("the metric says that there is a bucket")
			}
			w.eventually("the refusal is counted", func() bool {
				return !strings.Contains(r.metrics(), "preauth_nats_errors_total{kind=\"stream\"} 0\n")
			})
			r.ready()
		})
	}
}

// The bucket follows the prefix of the subjects and the name in the settings.
func TestBucketOfAnotherName(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.start(func(s *setup) {
		s.cfg.Subjects = preauth.DefaultSubjects().WithPrefix("acme")
		s.cfg.Bucket = "codes"
	}).ready()
	w.publish("acme.component.token.updated.wx1", preauth.TokenEvent{AppID: "wx1", Token: w.token("a")}.Encode())
	w.eventually("in the bucket", func() bool {
		kv, err := w.js.KeyValue(w.within(), "codes")
		if err != nil {
			return false
		}
		_, err = kv.Get(w.within(), "wx1")
		return err == nil
	})
}
