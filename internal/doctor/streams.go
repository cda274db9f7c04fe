package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"preauth/consumer"
	"preauth/internal/stream"
)

// found is a stream of the service, as it is, or as the service would create it.
type found struct {
	role    stream.Role
	needed  bool // the service cannot do without it
	missing bool
	config  jetstream.StreamConfig
}

// examineJetStream looks at JetStream, the streams and their settings.
func (e *examination) examineJetStream(ctx context.Context) {
	e.group = "JetStream"
	roles := consumer.Roles(e.Config)
	var names []string
	for _, role := range roles {
		names = append(names, role.Name)
	}
	const enabled, replicas, syncs, limits = "enabled", "replicas", "sync", "limits of the account"
	rest := append(slices.Clone(names), replicas, syncs, limits, toUse)
	switch {
	case e.nats == nil:
		e.skip(needsNATS, slices.Insert(rest, 0, enabled)...)
		return
	case !e.hears:
		e.skip(needsReplies, slices.Insert(rest, 0, enabled)...)
		return
	}
	js, err := jetstream.New(e.nats.Conn)
	if e.Config.JetStreamDomain != "" {
		js, err = jetstream.NewWithDomain(e.nats.Conn, e.Config.JetStreamDomain)
	}
	if err != nil {
		e.skip(err.Error(), slices.Insert(rest, 0, enabled)...)
		return
	}
	works := e.check(ctx, enabled, func(ctx context.Context) verdict { return e.enabled(ctx, js) })
	if works.result != OK {
		e.skip("needs JetStream", rest...)
		return
	}
	e.jsWorks = true
	for _, role := range roles {
		e.check(ctx, role.Name, func(ctx context.Context) verdict { return e.stream(ctx, js, role) })
	}
	e.check(ctx, replicas, func(context.Context) verdict { return e.replicas() })
	e.check(ctx, syncs, e.syncs)
	e.check(ctx, limits, func(ctx context.Context) verdict { return e.limits(ctx, js) })
	used := map[string]string{}
	for _, s := range e.streams {
		used[s.role.Name] = s.config.Name
	}
	if len(e.streams) < len(roles) {
		e.skip("needs all streams", toUse)
		return
	}
	e.examineUse(ctx, used)
}

// enabled asks for the names of streams on a subject of the service, which needs the answer anyway.
func (e *examination) enabled(ctx context.Context, js jetstream.JetStream) verdict {
	err := e.nats.ask(ctx, func(ctx context.Context) error {
		names := js.StreamNames(ctx, jetstream.WithStreamListSubject(e.Config.Subjects.TokenUpdated))
		for range names.Name() { // only the error counts
		}
		return names.Err()
	})
	switch {
	case err == nil && e.Config.JetStreamDomain != "":
		return ok("domain " + e.Config.JetStreamDomain)
	case err == nil:
		return ok("")
	case isRefused(err):
		return problem(err.Error(), allow("publish on", apiPrefix(e.Config.JetStreamDomain)+"STREAM.NAMES"))
	}
	return problem(err.Error(), cmp.Or(consumer.Remedy(err), "let JetStream answer: a cluster needs most of its servers for that"))
}

// stream looks at the stream of a role, and keeps it for later checks.
func (e *examination) stream(ctx context.Context, js jetstream.JetStream, role stream.Role) verdict {
	want := role.Wanted()
	f := found{role: role, needed: len(want.Sources) == 0, config: want}
	var info *jetstream.StreamInfo
	asked := now(e.Config)
	err := e.nats.ask(ctx, func(ctx context.Context) error {
		s, err := stream.Find(ctx, js, role)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		f.missing = true
		return e.absent(ctx, js, f)
	case isRefused(err):
		return fault(f.needed, err.Error(), allow("publish on", apiPrefix(e.Config.JetStreamDomain)+"STREAM.INFO."+want.Name))
	case stream.ErrorCode(err) != 0: // in NATS's words, which give no advice
		return fault(f.needed, err.Error(), cmp.Or(consumer.Remedy(err), "look at nats-server's log"))
	case err != nil:
		what, remedy := cut(err)
		return fault(f.needed, what, cmp.Or(consumer.Remedy(err), remedy, "look at nats-server's log"))
	}
	f.config = info.Config
	e.streams = append(e.streams, f)
	if !info.TimeStamp.IsZero() {
		e.noteClock("NATS", asked, now(e.Config), info.TimeStamp, natsClock)
	}
	if err := role.Unfit(info.Config); err != nil {
		what, remedy := cut(err)
		return fault(f.needed, info.Config.Name+": "+what, remedy)
	}
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return fault(f.needed, info.Config.Name+" has no leader, and takes nothing", "start more of the servers that keep it: most of its replicas have to run")
	}
	if drift := role.Drift(info.Config); drift != "" {
		return warning(info.Config.Name+" differs from the settings: "+drift,
			"change the stream (nats stream edit "+info.Config.Name+"), or the setting")
	}
	return ok(fmt.Sprintf("%s, %d messages", info.Config.Name, info.State.Msgs))
}

// cut splits an error about a stream in what is wrong and what to change.
func cut(err error) (what, remedy string) {
	at := strings.LastIndex(err.Error(), ": ")
	if at < 0 {
		return err.Error(), ""
	}
	return err.Error()[:at], err.Error()[at+2:]
}

// absent looks at a stream that is missing: whether the service can create it.
func (e *examination) absent(ctx context.Context, js jetstream.JetStream, f found) verdict {
	for _, subject := range f.config.Subjects {
		var other string
		err := e.nats.ask(ctx, func(ctx context.Context) error {
			names := js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
			for name := range names.Name() {
				other = name
			}
			return names.Err()
		})
		if err != nil {
			return problem(err.Error(), cmp.Or(consumer.Remedy(err), "look at nats-server's log"))
		}
		if other != "" {
			return problem(fmt.Sprintf("%s is missing, and the stream %s takes %s already", f.config.Name, other, subject),
				"take the subject from that stream, or use --subject-prefix")
		}
	}
	e.streams = append(e.streams, f)
	return ok(f.config.Name + " is missing: the service creates it")
}

// replicas compares the streams' replicas with the servers.
func (e *examination) replicas() verdict {
	cluster := e.nats.ConnectedClusterName()
	var single []string
	for _, s := range e.streams {
		if s.missing && s.config.Replicas > 1 && cluster == "" {
			return problem(fmt.Sprintf("--stream-replicas is %d, and the server is in no cluster", s.config.Replicas),
				"leave out --stream-replicas ($PREAUTH_STREAM_REPLICAS), or connect to a cluster")
		}
		if s.config.Replicas <= 1 && s.needed {
			single = append(single, s.config.Name)
		}
	}
	if cluster != "" && len(single) > 0 {
		return warning("one server of the cluster "+cluster+" alone keeps "+list(single),
			"set --stream-replicas=3 before the streams are created; for those that exist: nats stream edit NAME --replicas 3")
	}
	return ok("")
}

// syncs looks whether the server syncs each message of streams on disk.
func (e *examination) syncs(ctx context.Context) verdict {
	if e.Config.Monitor == nil {
		return skipped("not known whether NATS syncs: give --nats-monitor ($PREAUTH_NATS_MONITOR)")
	}
	asked := now(e.Config)
	server, err := e.Config.Monitor.JetStream(ctx)
	if err != nil {
		return warning(err.Error(), "let --nats-monitor ($PREAUTH_NATS_MONITOR) be the address of nats-server's http_port, and reachable from here")
	}
	e.noteClock("NATS", asked, now(e.Config), server.Now, natsClock)
	if server.ServerID != e.nats.ConnectedServerId() && e.nats.ConnectedClusterName() == "" {
		return warning("the monitoring endpoint is another server's", "let --nats-monitor ($PREAUTH_NATS_MONITOR) name the server of --nats-url")
	}
	var atRisk []string
	for _, s := range e.streams {
		if s.needed && stream.NeedsSync(s.config) {
			atRisk = append(atRisk, s.config.Name)
		}
	}
	if !server.SyncAlways && len(atRisk) > 0 {
		return warning("NATS acknowledges before it syncs what is in "+list(atRisk), consumer.SyncAdvice)
	}
	return ok("")
}

// limits compares the limits of the account with what the streams need that are missing.
func (e *examination) limits(ctx context.Context, js jetstream.JetStream) verdict {
	var account *jetstream.AccountInfo
	err := e.nats.ask(ctx, func(ctx context.Context) (err error) {
		account, err = js.AccountInfo(ctx)
		return err
	})
	switch {
	case isRefused(err):
		return skipped("the user may not ask for them ($JS.API.INFO)")
	case err != nil:
		return problem(err.Error(), cmp.Or(consumer.Remedy(err), "look at nats-server's log"))
	}
	var missing []found
	for _, s := range e.streams {
		if s.missing {
			missing = append(missing, s)
		}
	}
	tier := account.Tier
	if len(account.Tiers) > 0 && len(missing) > 0 {
		name := fmt.Sprintf("R%d", missing[0].config.Replicas)
		t, there := account.Tiers[name]
		if !there {
			return problem("the account has no limits for streams with this number of replicas ("+name+")", "change --stream-replicas, or have the account extended")
		}
		tier = t
	}
	return roomFor(missing, tier)
}

// roomFor returns whether the missing streams fit into the limits.
func roomFor(missing []found, tier jetstream.Tier) verdict {
	limits := tier.Limits
	if most := limits.MaxStreams; most >= 0 && tier.Streams+len(missing) > most {
		needed := tier.Streams
		for _, s := range missing {
			if s.needed {
				needed++
			}
		}
		return fault(needed > most, fmt.Sprintf("%d streams of %d are there, and %d are missing", tier.Streams, most, len(missing)),
			"raise max_streams of the account: the service needs six, or five with --kv-bucket=none")
	}
	if most := limits.MaxConsumers; most >= 0 && most < 2 {
		return problem(fmt.Sprintf("at most %d consumers", most), "raise max_consumers, which counts for each stream: of that of the tokens the replicas share one, and each needs one more")
	}
	left := map[jetstream.StorageType]int64{jetstream.FileStorage: limits.MaxStore, jetstream.MemoryStorage: limits.MaxMemory}
	used := map[jetstream.StorageType]uint64{jetstream.FileStorage: max(tier.Store, tier.ReservedStore), jetstream.MemoryStorage: max(tier.Memory, tier.ReservedMemory)}
	sizeOf := func(s found) uint64 { return uint64(max(0, s.config.MaxBytes)) * uint64(s.config.Replicas) }
	all := maps.Clone(used)
	for _, s := range missing {
		if limits.MaxBytesRequired && s.config.MaxBytes <= 0 {
			return problem("the account requires max_bytes of each stream",
				"set --stream-max-bytes ($PREAUTH_STREAM_MAX_BYTES), in bytes: the streams share the room of the account")
		}
		all[s.config.Storage] += sizeOf(s)
	}
	for _, s := range missing {
		kind := s.config.Storage
		if used[kind] += sizeOf(s); left[kind] >= 0 && used[kind] > uint64(left[kind]) {
			return fault(s.needed, fmt.Sprintf("the account has room for %d bytes of %s storage, and the streams need %d", left[kind], strings.ToLower(kind.String()), all[kind]),
				"give the account more room, or set a smaller --stream-max-bytes ($PREAUTH_STREAM_MAX_BYTES)")
		}
	}
	return ok("")
}
