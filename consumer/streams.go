package consumer

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/stream"
)

// roles are what the service's streams are for.
type roles struct {
	tokens, authorizations        stream.Role // with events that others publish
	updates, failures, authorized stream.Role // which the service publishes to
	bucket                        stream.Role // which the server fills from that of updates
}

// Roles returns what each stream of a service is for, as its log and its health name it: those with
// events first, then those that it publishes to, and last its KV bucket, if it has one.
func Roles(cfg Config) []stream.Role {
	cfg = cfg.withDefaults()
	r := newRoles(cfg)
	all := []stream.Role{r.tokens, r.authorizations, r.updates, r.failures, r.authorized}
	if cfg.Bucket != "" {
		all = append(all, r.bucket)
	}
	return all
}

// history is how long the streams keep what happened.
const history = 7 * 24 * time.Hour

// bucketMarkers is for how long the KV bucket keeps the word that a component has no code any more:
// long enough for watchers that were away for a moment.
const bucketMarkers = time.Minute

func newRoles(cfg Config) roles {
	with := func(change func(*jetstream.StreamConfig)) func() jetstream.StreamConfig {
		return func() jetstream.StreamConfig {
			c := jetstream.StreamConfig{Storage: jetstream.FileStorage, Replicas: cfg.StreamReplicas, MaxBytes: cfg.StreamMaxBytes}
			change(&c)
			return c
		}
	}
	// published has subscribers without a stream of their own see what is stored.
	published := func(c *jetstream.StreamConfig, name, subject string) {
		c.Name, c.Subjects = name, []string{subject + ".*"}
		c.RePublish = &jetstream.RePublish{Source: subject + ".*", Destination: subject}
	}
	return roles{
		tokens: stream.Role{Name: "token stream", Events: cfg.Subjects.TokenUpdated, Config: with(func(c *jetstream.StreamConfig) {
			c.Name = cfg.TokenStream
			c.Description = "component_access_tokens as announced; they live no longer than this"
			c.MaxAge = preauth.DefaultTokenLife
			c.AllowAtomicPublish = true // for token services that announce many at once
		})},
		authorizations: stream.Role{Name: "authorization stream", Events: cfg.Subjects.Authorization, Config: with(func(c *jetstream.StreamConfig) {
			c.Name = cfg.AuthorizationStream
			c.Description = "authorizations as WeChat reported them"
			c.MaxAge = history
		})},
		updates: stream.Role{Name: "update stream", Config: with(func(c *jetstream.StreamConfig) {
			published(c, cfg.UpdateStream, cfg.Subjects.Updated)
			c.Description = "the current pre_auth_code of each component"
			c.MaxMsgsPerSubject = 1
			// No sequence is that of a message in an earlier stream of this name, so that an announcement
			// which was meant to follow a message there is refused here.
			c.FirstSeq = uint64(cfg.Now().UnixMicro())
			c.AllowDirect = true
			c.AllowMsgTTL = true // without delete markers, which subscribers would get as updates
		})},
		failures: stream.Role{Name: "failure stream", Config: with(func(c *jetstream.StreamConfig) {
			published(c, cfg.FailureStream, cfg.Subjects.Failed)
			c.Description = "why components got no new pre_auth_code"
			c.MaxAge, c.MaxBytes = history, cmp.Or(c.MaxBytes, 64<<20)
		})},
		authorized: stream.Role{Name: "authorized stream", Config: with(func(c *jetstream.StreamConfig) {
			published(c, cfg.AuthorizedStream, cfg.Subjects.Authorized)
			c.Description = "who authorized with which claim's code"
			c.MaxAge, c.MaxBytes = history, cmp.Or(c.MaxBytes, 64<<20)
		})},
		bucket: stream.Role{Name: "KV bucket", Config: with(func(c *jetstream.StreamConfig) {
			// It has no subjects of its own, so that nobody can put something into it.
			c.Name = bucketStream(cfg.Bucket)
			c.Description = "the current pre_auth_code of each component, read-only"
			c.Sources = []*jetstream.StreamSource{{
				Name: cfg.UpdateStream,
				SubjectTransforms: []jetstream.SubjectTransformConfig{{
					Source: cfg.Subjects.Updated + ".*", Destination: "$KV." + cfg.Bucket + ".{{wildcard(1)}}",
				}},
			}}
			c.Storage = jetstream.MemoryStorage // a copy, which needs no disk
			c.MaxMsgsPerSubject = 1
			c.Discard = jetstream.DiscardNew
			// A watcher that was away goes on behind the last sequence that it saw. It would miss what a
			// bucket that was created again holds below that.
			c.FirstSeq = uint64(cfg.Now().UnixMicro())
			c.DenyDelete, c.AllowDirect = true, true
			// A code that has expired leaves the bucket too, and watchers are told.
			c.AllowMsgTTL, c.SubjectDeleteMarkerTTL, c.AllowRollup = true, bucketMarkers, true
		})},
	}
}

// exists follows a stream that only has to exist. there is called once it does.
func exists(there func()) stream.Follower {
	return stream.Follower{Follow: func(ctx context.Context, _ jetstream.Stream, _ stream.Identity) error {
		there()
		<-ctx.Done()
		return nil
	}}
}

func newKeeper(js jetstream.JetStream, log *slog.Logger, h *health, m *metrics) *stream.Keeper {
	failed := m.natsErrors.WithLabelValues("stream")
	return stream.NewKeeper(js, log, func(r stream.Role, err error) {
		failed.Inc()
		h.set(r.Name, fmt.Errorf("is not followed: %w", withRemedy(err)))
	})
}
