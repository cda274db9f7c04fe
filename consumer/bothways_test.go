package consumer_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/repo/repotest"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// way is one kind of work that the service does. Each of its operations on MySQL, NATS and WeChat
// is made to fail, without being applied or applied but reported as failed. The work must reach the
// same end state each time.
type way struct {
	spares int // the service's setting; 0 for none
	// given prepares a component.
	given func(b *bench)
	// do triggers the work. Like a client, it repeats a request until it gets an answer.
	do func(b *bench)
	// then checks the end state beyond what [bench.goOnce] checks. It may be nil.
	then func(b *bench)

	// revision is the revision of the current code at the end; 0 if there is none.
	revision uint64
	// calls is how many calls of WeChat the work takes; updates, failures and authorized are how many
	// of each it announces. An interruption must not add announcements.
	calls, updates, failures, authorized int
	// overtaken is how many of the updates are not announced if a newer one is there in time.
	overtaken int
	// purged is how many codes are deleted.
	purged int

	// reads and writes are the operations on MySQL. Those that only repeat something count as
	// reads, which fail only without being applied. messages are what the replica sends to NATS.
	reads, writes, messages []string
	// elsewhere are further operations and messages, which another way interrupts.
	elsewhere []string
	// leased is set for work under a lease: it makes one call per turn, and records and announces a
	// failed call.
	leased bool
	// more has the extra calls that an interruption costs. lost has the interruptions after which
	// the work waits until a lease ends. The keys read "claim_new not applied again and again".
	more map[string]int
	lost []string
}

// bench runs a way repeatedly, each time with a component of its own.
type bench struct {
	*world
	r      *replica
	clock  *clock
	faults *repotest.Faults
	wire   *wire
	client *preauth.Client

	appid string
	claim preauth.Claim // the claim that the way got
	spare preauth.Secret
	spent preauth.Secret // the code that the way authorized with
}

// background has the operations and messages that a replica does all the time, whatever it is asked
// to do. The way "at rest" interrupts them.
var background = struct{ sql, messages []string }{
	[]string{"connect", "check", "versions", "components", "primary_components", "outbox", "depth", "due", "expired", "current", "rollback", "extend", "census", "durability", "owner", "begin", "probe"},
	[]string{"ask for the account", "pull events", "pull authorizations", "pull for memory", "look at stream", "look at consumer", "in progress", "authorization in progress", "answer"},
}

var (
	saving   = []string{"begin", "lock", "component", "commit"}
	nextCode = append([]string{"retire", "code", "announce", "announced"}, saving...)
	spending = []string{"begin", "lock", "spend", "announce", "commit", "announced"}
)

func ways() map[string]way {
	afterAToken := func(b *bench) {
		b.announce(b.appid, b.token("given"))
		b.settled(b.r, b.appid)
	}
	withASpare := func(b *bench) {
		afterAToken(b)
		b.spares(b.r, b.appid, 1)
	}
	due := func(b *bench) {
		b.database.MustExec("UPDATE component SET due_at = UTC_TIMESTAMP(6) WHERE appid = ?", b.appid)
	}
	announceAnother := func(b *bench) { b.announce(b.appid, b.token("next")) }
	claim := func(b *bench) {
		b.again("a claim", func(ctx context.Context) (err error) {
			r := preauth.ClaimRequest{AppID: b.appid, ClaimID: "visitor", Reference: "order 7"}
			b.claim, err = once(ctx, b.nc, preauth.SubjectFor("preauth.claim", b.appid), r.Encode(), preauth.ParseClaim)
			return err
		})
	}
	// claimed checks that the claim id has exactly one code and keeps it.
	claimed := func(b *bench) {
		got := b.claim
		claim(b)
		if !b.claim.PreAuthCode.Equal(got.PreAuthCode) || !b.claim.ClaimedAt.Equal(got.ClaimedAt) {
			b.t.Error("a repeated claim got another code")
		}
		var rows []struct {
			Code string
			Live bool
		}
		err := b.database.Select(&rows, "SELECT code, deleted_at IS NULL AS live FROM pre_auth_code WHERE appid = ? AND claim_id = 'visitor' AND expires_at > ? AND authorizer_appid IS NULL",
			b.appid, b.clock.Now())
		if err != nil || len(rows) != 1 || !rows[0].Live || rows[0].Code != got.PreAuthCode.Reveal() {
			b.t.Errorf("the claim id has %d codes, want the claimed one: %v", len(rows), err)
		}
		if update, _ := b.stored(b.appid); update.PreAuthCode.Equal(got.PreAuthCode) {
			b.t.Error("the code of the claim was announced")
		}
	}
	expireClaim := func(b *bench) {
		claim(b)
		b.database.MustExec("UPDATE pre_auth_code SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 HOUR WHERE appid = ? AND cause = 'claim'", b.appid)
	}

	authorize := func(b *bench, code preauth.Secret, authorizer string) {
		b.spent = code
		b.authorize(b.appid, code, authorizer)
	}
	authorizeCurrent := func(b *bench) { authorize(b, b.current(b.appid), "wxa") }
	// spentBy checks who authorized with the code that the way authorized with, and that it is not
	// current.
	spentBy := func(authorizer string) func(b *bench) {
		return func(b *bench) {
			b.eventually("spent", func() bool {
				var got sql.NullString
				err := b.database.Get(&got, "SELECT authorizer_appid FROM pre_auth_code WHERE code = ? AND appid = ?", []byte(b.spent.Reveal()), b.appid)
				return err == nil && got.String == authorizer
			})
			if b.current(b.appid).Equal(b.spent) {
				b.t.Error("the spent code is current")
			}
		}
	}
	authorized := func(b *bench) {
		b.eventually("announced", func() bool { return b.authorizedOf(b.appid) == 1 })
	}

	return map[string]way{
		"first token event": {
			given: func(*bench) {},
			do:    func(b *bench) { b.announce(b.appid, b.token("first")) },

			revision: 1, calls: 1, updates: 1,
			reads: []string{"components"}, writes: append([]string{"create", "code", "announce", "announced"}, saving...),
			messages: []string{"ack", "publish update", "pull events"},
		},
		"next token event": {
			given: afterAToken, do: announceAnother,

			revision: 2, calls: 1, updates: 1,
			reads: []string{"components", "owners"}, writes: nextCode,
			messages: []string{"ack", "publish update"},
		},
		"repeated token event": {
			given: func(b *bench) {
				b.spare = b.token("repeated")
				b.announce(b.appid, b.spare)
				b.settled(b.r, b.appid)
			},
			do: func(b *bench) { b.announce(b.appid, b.spare) },

			revision: 1,
			reads:    []string{"components"}, writes: saving,
			messages: []string{"ack"},
		},
		"token event in flight for long": {
			given: afterAToken,
			do: func(b *bench) {
				hold := wechattest.NewHold()
				defer hold.Release()
				b.wechat.Next(b.appid, wechattest.Fault{HoldAnswer: hold})
				beats := b.heartbeats("COMPONENT_TOKENS")
				announceAnother(b)
				next(b.world, hold.Reached())
				next(b.world, beats) // a heartbeat arrived
			},

			revision: 2, calls: 1, updates: 1,
			messages:  []string{"in progress"},
			elsewhere: append([]string{"components", "ack", "publish update"}, nextCode...),
		},
		"token event returned to NATS": {
			given: func(*bench) {},
			do: func(b *bench) {
				release := b.r.holdHealth(b.faults)
				defer release()
				b.faults.Script("components", repotest.Answered(1142, "SELECT command denied"))
				b.announce(b.appid, b.token("first"))
				b.eventually("the event is returned to NATS", func() bool { return b.faults.Unmet() == 0 })
			},

			revision: 1, calls: 1, updates: 1,
			messages:  []string{"nak"},
			elsewhere: []string{"begin", "lock", "create", "component", "code", "announce", "commit", "announced", "ack", "publish update"},
		},
		"recorded failure that is retried": {
			given: afterAToken,
			do: func(b *bench) {
				failed := b.r.stepsOf(consumer.StepFailed, b.appid)
				b.wechat.Next(b.appid, wechattest.Error(48001, ""))
				announceAnother(b)
				b.r.await(consumer.StepFailed, b.appid, failed+1)
				b.acknowledged()
				b.eventually("announced", func() bool { return b.failuresOf(b.appid) == 1 })
				b.clock.advance(80 * time.Second)
			},

			revision: 2, calls: 2, updates: 1, failures: 1,
			reads:    []string{"components", "due", "leased"},
			writes:   append([]string{"lease"}, nextCode...),
			messages: []string{"ack", "publish failure", "publish update"},
			lost:     []string{"lease applied again and again"},
		},
		"recorded failure that is given up": {
			given: afterAToken,
			do: func(b *bench) {
				b.wechat.Next(b.appid, wechattest.Error(47001, ""))
				announceAnother(b)
			},
			then: func(b *bench) {
				b.eventually("recorded", func() bool {
					f := b.r.failure(b.appid)
					return f != nil && f.Class == preauth.ClassRequest && f.RetryAt.IsZero()
				})
			},

			revision: 1, calls: 1, failures: 1,
			writes:   append([]string{"announce", "announced"}, saving...),
			messages: []string{"term", "publish failure"},
		},
		"bad event": {
			given: afterAToken,
			do:    func(b *bench) { b.publish(preauth.SubjectFor("component.token.updated", b.appid), []byte("garbage")) },

			revision: 1, failures: 1,
			writes:   []string{"begin", "announce", "commit", "announced"},
			messages: []string{"term", "publish failure"},
		},
		"renewal": {
			given: afterAToken, do: due, leased: true,

			revision: 2, calls: 1, updates: 1,
			reads:    []string{"due", "leased", "components"},
			writes:   append([]string{"lease"}, nextCode...),
			messages: []string{"publish update"},
			lost:     []string{"lease applied again and again", "leased not applied again and again", "components not applied again and again"},
		},
		"renewal that waits for long": {
			given: afterAToken,
			do: func(b *bench) {
				hold := wechattest.NewHold()
				defer hold.Release()
				b.wechat.Next(b.appid, wechattest.Fault{HoldAnswer: hold})
				due(b)
				next(b.world, hold.Reached())
				ends := map[time.Time]bool{}
				b.eventually("the lease is extended twice", func() bool {
					var end time.Time
					if err := b.database.Get(&end, "SELECT due_at FROM component WHERE appid = ?", b.appid); err != nil {
						b.t.Fatal(err)
					}
					ends[end] = true
					return len(ends) == 3
				})
			},
			leased: true,

			revision: 2, calls: 1, updates: 1,
			writes:    []string{"extend"},
			elsewhere: append([]string{"due", "lease", "leased", "components", "publish update"}, nextCode...),
		},
		"look-up on demand": {
			given: func(b *bench) {
				afterAToken(b)
				b.clock.advance(40 * time.Second)
			},
			do: func(b *bench) {
				b.again("a look-up", func(ctx context.Context) error {
					r := preauth.LookupRequest{AppID: b.appid, MinTTL: 1770 * time.Second, MinRevision: 1}
					_, err := once(ctx, b.nc, preauth.SubjectFor("preauth.lookup", b.appid), r.Encode(), preauth.ParseLookup)
					return err
				})
			},
			leased: true,

			revision: 2, calls: 1, updates: 1,
			reads:    []string{"leased_one", "components"},
			writes:   append([]string{"lease_one"}, nextCode...),
			messages: []string{"answer", "publish update"},
			lost:     []string{"lease_one applied again and again", "leased_one not applied again and again", "components not applied again and again"},
		},
		"spare": {
			spares: 1,
			given:  func(*bench) {},
			do:     func(b *bench) { b.announce(b.appid, b.token("first")) },
			then:   func(b *bench) { b.spares(b.r, b.appid, 1) },

			revision: 1, calls: 2, updates: 1,
			reads: []string{"spares"}, writes: []string{"add_spares"},
			elsewhere: []string{"begin", "lock", "create", "component", "code", "announce", "commit", "announced", "ack", "publish update"},
		},
		"claim from a spare": {
			spares: 1, given: withASpare, do: claim,
			then: func(b *bench) {
				b.spares(b.r, b.appid, 1)
				claimed(b)
			},

			revision: 1, calls: 1, // for the next spare
			reads: []string{"live_claim", "spares"}, writes: []string{"claim", "add_spares"},
			messages: []string{"answer"},
		},
		"claim from a spare after the old code expired": {
			spares: 1,
			given: func(b *bench) {
				withASpare(b)
				expireClaim(b)
				b.spares(b.r, b.appid, 1)
			},
			do: claim,
			then: func(b *bench) {
				b.spares(b.r, b.appid, 1)
				claimed(b)
			},

			revision: 1, calls: 1,
			reads: []string{"live_claim"}, writes: []string{"retire_claim", "claim"},
			elsewhere: []string{"spares", "add_spares"},
		},
		"claim without a spare": {
			given: afterAToken, do: claim, then: claimed,

			revision: 1, calls: 1,
			reads: []string{"live_claim", "components"}, writes: []string{"claim", "claim_new"},
			messages: []string{"answer"},
			more:     map[string]int{"claim_new not applied again and again": 1},
		},
		"claim without a spare after the old code expired": {
			given: func(b *bench) {
				afterAToken(b)
				expireClaim(b)
			},
			do: claim, then: claimed,

			revision: 1, calls: 1,
			reads: []string{"live_claim", "saved_code"}, writes: []string{"claim", "claim_new", "retire_claim"},
			more: map[string]int{
				// The code that was not saved is lost: see "Known limits".
				"claim_new not applied again and again":    1,
				"claim_new applied again and again":        1,
				"saved_code not applied again and again":   1,
				"retire_claim not applied again and again": 1,
				"retire_claim applied again and again":     1,
			},
		},
		"resolve": {
			given: func(b *bench) {
				afterAToken(b)
				claim(b)
			},
			do: func(b *bench) {
				b.again("a resolve", func(ctx context.Context) error {
					r := preauth.ResolveRequest{PreAuthCode: b.claim.PreAuthCode}
					got, err := once(ctx, b.nc, "preauth.resolve", r.Encode(), preauth.ParseResolved)
					if err == nil && (got.AppID != b.appid || got.ClaimID != "visitor" || got.Reference != "order 7") {
						b.t.Errorf("resolved to %+v", got)
					}
					return err
				})
			},

			revision: 1,
			reads:    []string{"resolve"},
			messages: []string{"answer"},
		},
		"authorization of the current code": {
			given: afterAToken, do: authorizeCurrent, then: spentBy("wxa"), leased: true,

			revision: 3, calls: 1, updates: 2, overtaken: 1, authorized: 1,
			reads: []string{"lock_code"}, writes: append([]string{"component", "raise"}, spending...),
			messages:  []string{"ack authorization", "publish update", "publish authorization", "pull authorizations"},
			elsewhere: append([]string{"due", "lease", "leased", "lease_one", "leased_one", "components"}, nextCode...),
		},
		"authorization of a claim": {
			given: func(b *bench) {
				afterAToken(b)
				claim(b)
			},
			do: func(b *bench) {
				authorize(b, b.claim.PreAuthCode, "wxa")
				authorized(b)
				claim(b)
			},
			then: func(b *bench) {
				claimed(b)
				if b.claim.PreAuthCode.Equal(b.spent) {
					b.t.Error("the claim id has its spent code again")
				}
				spentBy("wxa")(b)
			},

			revision: 1, calls: 1, authorized: 1,
			reads: []string{"lock_code"}, writes: spending,
			messages:  []string{"ack authorization", "publish authorization"},
			elsewhere: []string{"claim", "live_claim", "components", "claim_new", "saved_code", "retire_claim"},
		},
		"authorization reported again": {
			given: func(b *bench) {
				afterAToken(b)
				authorizeCurrent(b)
				b.eventually("replaced", func() bool { u, ok := b.stored(b.appid); return ok && u.Revision == 3 })
				b.settled(b.r, b.appid)
			},
			do: func(b *bench) { authorize(b, b.spent, "wxa") }, then: spentBy("wxa"),

			revision: 3, authorized: 1,
			reads: []string{"lock_code", "waiting"}, writes: []string{"begin", "lock", "commit"},
			messages: []string{"ack authorization"},
		},
		"authorization of an unknown code": {
			given: afterAToken,
			do:    func(b *bench) { authorize(b, preauth.NewSecret("preauthcode@@@unknown"), "wxa") },

			revision: 1, failures: 1,
			reads: []string{"lock_code"}, writes: []string{"begin", "lock", "announce", "commit", "announced"},
			messages: []string{"term authorization", "publish failure"},
		},
		"authorization by a second account": {
			given: func(b *bench) {
				afterAToken(b)
				claim(b)
				authorize(b, b.claim.PreAuthCode, "wxa")
				authorized(b)
			},
			do: func(b *bench) { authorize(b, b.spent, "wxb") }, then: spentBy("wxa"),

			revision: 1, failures: 1, authorized: 1,
			reads: []string{"lock_code"}, writes: []string{"begin", "lock", "announce", "commit", "announced"},
			messages: []string{"term authorization", "publish failure"},
		},
		"authorization in flight for long": {
			given: afterAToken,
			do: func(b *bench) {
				beats := b.heartbeats("COMPONENT_AUTHORIZED")
				b.faults.Script("lock_code", repotest.Fault{Before: func() { next(b.world, beats) }}) // a heartbeat arrived
				authorizeCurrent(b)
			},
			then: spentBy("wxa"),

			revision: 3, calls: 1, updates: 2, overtaken: 1, authorized: 1,
			messages:  []string{"authorization in progress"},
			elsewhere: slices.Concat([]string{"lock_code", "raise", "due", "lease", "leased", "lease_one", "leased_one", "components", "ack authorization", "publish update", "publish authorization"}, spending, nextCode),
			leased:    true,
		},
		"authorization returned to NATS": {
			given: afterAToken,
			do: func(b *bench) {
				b.faults.Script("lock_code", repotest.Answered(1142, "SELECT command denied"))
				authorizeCurrent(b)
				b.eventually("the event is returned to NATS", func() bool { return b.faults.Unmet() == 0 })
			},
			then: spentBy("wxa"),

			revision: 3, calls: 1, updates: 2, overtaken: 1, authorized: 1,
			messages:  []string{"nak authorization"},
			elsewhere: slices.Concat([]string{"lock_code", "raise", "due", "lease", "leased", "lease_one", "leased_one", "components", "ack authorization", "publish update", "publish authorization"}, spending, nextCode),
			leased:    true,
		},
		"status": {
			given: afterAToken,
			do: func(b *bench) {
				b.again("a status", func(ctx context.Context) error {
					got, err := b.client.Status(ctx, b.appid)
					if err == nil && (got.State != preauth.StateValid || got.Revision != 1) {
						b.t.Errorf("%s at revision %d", got.State, got.Revision)
					}
					return err
				})
			},

			revision: 1,
			reads:    []string{"status"},
			messages: []string{"answer"},
		},
		"purge": {
			given: func(b *bench) {
				afterAToken(b)
				announceAnother(b)
				b.eventually("revision 2 announced", func() bool { u, ok := b.stored(b.appid); return ok && u.Revision == 2 })
				b.settled(b.r, b.appid)
			},
			do: func(b *bench) {
				b.database.MustExec("UPDATE pre_auth_code SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 8 DAY WHERE appid = ? AND slot > 0", b.appid)
			},
			then: func(b *bench) {
				b.eventually("purged", func() bool {
					var left int
					err := b.database.Get(&left, "SELECT COUNT(*) FROM pre_auth_code WHERE appid = ?", b.appid)
					return err == nil && left == 1
				})
			},

			revision: 2, purged: 1,
			reads: []string{"expired"}, writes: []string{"purge"},
		},
		"outbox sweep": {
			given: afterAToken,
			do: func(b *bench) { // leaves the outbox as a replica killed right after its COMMIT does
				known, err := b.r.db.Components(b.within(), []string{b.appid})
				if err != nil {
					b.t.Fatal(err)
				}
				now := b.clock.Now()
				left := repo.Outcome{
					AppID: b.appid, Token: known[b.appid].Token, Cause: preauth.CauseRenewal, At: now, DueAt: now.Add(20 * time.Minute),
					Code: &repo.Code{PreAuthCode: preauth.NewSecret("preauthcode@@@" + b.appid), IssuedAt: now, ExpiresAt: now.Add(30 * time.Minute)},
				}
				if _, err := b.openRepo().Save(b.within(), []repo.Outcome{left}); err != nil {
					b.t.Fatal(err)
				}
			},

			revision: 2, updates: 1,
			reads: []string{"outbox"}, writes: []string{"announced"},
			messages: []string{"publish update"},
		},
		"reconcile": {
			given: afterAToken,
			do: func(b *bench) {
				stream, err := b.js.Stream(b.within(), "PREAUTH")
				if err == nil {
					err = stream.Purge(b.within(), jetstream.WithPurgeSubject(preauth.SubjectFor("preauth.updated", b.appid)))
				}
				if err != nil {
					b.t.Fatal(err)
				}
				b.eventually("announced again", func() bool { _, ok := b.stored(b.appid); return ok })
			},

			revision: 1, updates: 1,
			reads: []string{"current"}, writes: []string{"announced"},
			messages: []string{"publish update", "look at stream", "create reader of updates", "read last update"},
		},
		"foreign update": {
			given: afterAToken,
			do:    func(b *bench) { b.forge(b.appid, "FORGED", 5) },

			revision: 6, updates: 2, // including the foreign one
			reads:    []string{"primary_components"},
			writes:   append([]string{"raise", "announce", "announced"}, saving...),
			messages: []string{"publish update"},
		},
		"at rest": {
			given: afterAToken,
			do: func(b *bench) {
				asked := make(chan struct{})
				// Wait for the second round of the periodic work.
				b.faults.Script("check", repotest.Fault{}, repotest.Fault{Before: func() { close(asked) }})
				next(b.world, asked)
				b.r.ready()
			},

			revision: 1,
			reads:    []string{"check", "versions", "components", "outbox", "depth", "due", "expired", "census", "durability", "owner", "begin", "probe"},
			messages: []string{"pull events", "look at stream", "look at consumer"},
		},
	}
}

// again repeats a request until it succeeds, each time with a client's time-out of five seconds.
func (b *bench) again(what string, ask func(context.Context) error) {
	b.t.Helper()
	b.eventually(what, func() bool {
		ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Second)
		defer cancel()
		return ask(ctx) == nil
	})
}

// failuresOf returns how many failures of a component the failure stream holds.
func (w *world) failuresOf(appid string) int {
	w.t.Helper()
	return w.messagesOn("PREAUTH_FAILED", preauth.SubjectFor("preauth.failed", appid))
}

// authorizedOf returns how many announced authorizations of a component the stream holds.
func (w *world) authorizedOf(appid string) int {
	w.t.Helper()
	return w.messagesOn("PREAUTH_AUTHORIZED", preauth.SubjectFor("preauth.authorized", appid))
}

// messagesOn returns how many messages a stream holds on a subject.
func (w *world) messagesOn(name, subject string) int {
	w.t.Helper()
	stream, err := w.js.Stream(w.within(), name)
	if err != nil {
		return 0
	}
	info, err := stream.Info(w.within(), jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0
	}
	return int(info.State.Subjects[subject])
}

// stepsOf returns how many steps with the given name a component has taken.
func (r *replica) stepsOf(name consumer.StepName, appid string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, step := range r.steps {
		if step.Name == name && step.AppID == appid {
			n++
		}
	}
	return n
}

// newBench starts a replica whose MySQL, NATS and WeChat can be made to fail at any operation.
func newBench(t *testing.T, spares int) *bench {
	t.Helper()
	b := &bench{clock: &clock{}, wire: &wire{}}
	b.world = newWorld(t, wechattest.Options{Now: b.clock.Now})
	var db *repo.Repo
	db, b.faults = b.faulty()
	api, err := wechat.New(wechat.Config{BaseURLs: []string{b.wechat.URL()}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	b.r = b.start(redelivered, b.onWire(b.wire), func(s *setup) {
		s.cfg.RequestTimeout = 4 * time.Second // shorter than a client's five
		s.db, s.api, s.cfg.Now, s.cfg.CallsPerDay = db, api, b.clock.Now, 1_000_000
		s.cfg.Delays = consumer.Delays{Transient: 5 * time.Millisecond, TransientMax: 50 * time.Millisecond, Once: 5 * time.Millisecond}
		if s.cfg.Spares = spares; spares == 0 {
			s.cfg.Spares = -1
		}
	}).ready()
	if b.client, err = preauth.NewClient(b.nc); err != nil {
		t.Fatal(err)
	}
	return b
}

// interruption is one way in which something fails.
type interruption struct {
	name string
	// begin arms it, and met reports whether it has happened.
	begin func(b *bench)
	met   func(b *bench) bool
	// calls and failures are the extra calls of WeChat and the extra failures announced.
	calls, failures int
}

// interruptions returns all interruptions of the way, except those on the path between the replica
// and WeChat.
func (w way) interruptions() []interruption {
	var all []interruption
	sql := func(operation, how string, faults ...repotest.Fault) {
		all = append(all, interruption{
			name: operation + " " + how,
			begin: func(b *bench) {
				b.faults.Script(operation, faults...)
				if operation == "owners" { // only a second attempt at the transaction runs it
					b.faults.Script("commit", repotest.NotApplied)
				}
			},
			// After repo has given up, an applied operation may not be repeated.
			met:   func(b *bench) bool { return b.faults.Unmet() == 0 || len(faults) > 1 && b.faults.Unmet() == 1 },
			calls: w.more[operation+" "+how],
		})
	}
	// Six faults in a row make repo give up.
	again := func(f repotest.Fault) []repotest.Fault { return slices.Repeat([]repotest.Fault{f}, 7) }
	for _, operation := range w.writes {
		sql(operation, "not applied", repotest.NotApplied)
		sql(operation, "applied", repotest.Applied)
		sql(operation, "not applied again and again", again(repotest.NotApplied)...)
		sql(operation, "applied again and again", again(repotest.Applied)...)
	}
	for _, operation := range w.reads {
		sql(operation, "not applied", repotest.NotApplied)
		faults := again(repotest.NotApplied)
		if operation == "owners" {
			faults = faults[:5] // the next save's first attempt assumes that its codes are new
		}
		sql(operation, "not applied again and again", faults...)
	}
	for _, message := range w.messages {
		for how, applied := range map[string]bool{"not applied": false, "applied": true} {
			var cut <-chan struct{}
			all = append(all, interruption{
				name:  message + " " + how,
				begin: func(b *bench) { cut = b.wire.cutAt(message, applied) },
				met: func(*bench) bool {
					select {
					case <-cut:
						return true
					default:
						return false
					}
				},
				calls: w.more[message+" "+how],
			})
		}
	}
	if w.calls > 0 {
		call := func(how string, failures int, fault wechattest.Fault) {
			before := 0
			all = append(all, interruption{
				name:  "WeChat's call " + how,
				begin: func(b *bench) { before = b.wechat.Count(b.appid); b.wechat.Next(b.appid, fault) },
				met:   func(b *bench) bool { return b.wechat.Count(b.appid) > before },
				// Another call replaces the failed one.
				calls: 1, failures: failures,
			})
		}
		recorded := 0
		if w.leased {
			recorded = 1
		}
		call("not applied", recorded, wechattest.Fault{Reset: wechattest.ResetBefore})
		call("applied, answer lost", recorded, wechattest.Fault{Reset: wechattest.ResetAfter})
		call("applied, answer cut off", recorded, wechattest.Fault{CutBody: true})
		call("applied, answered with a gateway error", recorded, wechattest.HTTPStatus(502))
		if w.failures == 0 {
			// The time-out is longer than an event stays in flight.
			call("applied, never answered", min(w.updates, 1), wechattest.Fault{HoldAnswer: wechattest.NewHold()})
		}
	}
	return all
}

// goOnce runs the way once with a new component under the interruption, and checks the end state.
func (b *bench) goOnce(t *testing.T, w way, appid string, i interruption) {
	t.Helper()
	was := b.world.t
	b.world.t = t
	defer func() { b.world.t = was }()
	b.appid, b.claim, b.spent = appid, preauth.Claim{}, preauth.Secret{}
	w.given(b)
	b.quiet()
	calls, updates := b.wechat.Count(appid), b.announcements()
	b.faults.Operations()
	b.wire.messages()

	i.begin(b)
	if slices.Contains(w.lost, i.name) {
		// Nobody works on the component until its lease ends.
		stop := b.hurry(i.met)
		defer stop()
	}
	w.do(b)
	b.eventually("the interruption has happened", func() bool { return i.met(b) })
	b.eventually("the revision is announced", func() bool {
		update, ok := b.stored(appid)
		return ok == (w.revision > 0) && update.Revision >= w.revision
	})
	if w.then != nil {
		w.then(b)
	}
	b.faults.Reset()
	update := b.settled(b.r, appid)
	b.quiet()
	if update.Revision != w.revision {
		t.Errorf("revision %d, want %d", update.Revision, w.revision)
	}
	if n := b.wechat.Count(appid) - calls; n != w.calls+i.calls {
		t.Errorf("%d calls of WeChat, want %d", n, w.calls+i.calls)
	}
	if n := int(b.announcements() - updates); n > w.updates || n < w.updates-w.overtaken {
		t.Errorf("%d updates announced, want %d", n, w.updates)
	}
	if n := b.failuresOf(appid); n != w.failures+i.failures {
		t.Errorf("%d failures announced, want %d", n, w.failures+i.failures)
	}
	if n := b.authorizedOf(appid); n != w.authorized {
		t.Errorf("%d authorizations announced, want %d", n, w.authorized)
	}
	var codes []string
	if err := b.database.Select(&codes, "SELECT code FROM pre_auth_code WHERE appid = ?", appid); err != nil {
		t.Error(err)
	}
	lost := 0
	for _, issued := range b.wechat.Issued(appid) {
		if !slices.Contains(codes, issued.Reveal()) {
			lost++
		}
	}
	if lost > i.calls+w.purged {
		t.Errorf("%d codes were lost", lost-w.purged)
	}
	// Its renewal must not interfere with the next case.
	b.database.MustExec("UPDATE component SET due_at = NULL WHERE appid = ?", appid)
}

// quiet waits until the replica has no work left.
func (b *bench) quiet() {
	b.t.Helper()
	b.r.ready()
	b.acknowledged()
	b.eventually("no component is due or leased, and the outbox is empty", func() bool {
		due, err := dueNow(b.database, b.clock.Now())
		rows, _, err2 := b.r.db.OutboxDepth(b.within())
		return err == nil && err2 == nil && due == 0 && rows == 0
	})
}

// hurry moves the service's clock past the end of a lease once the interruption has happened.
func (b *bench) hurry(met func(*bench) bool) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if met(b) {
					b.clock.advance(21 * time.Second)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// benches counts the components of all benches.
var benches atomic.Int64

// Each operation of each way fails, without being applied or applied but reported as failed, once
// or until repo gives up. The system recovers by itself and reaches the same end state as without
// the failure: one current code, made with the newest token and announced; all events acknowledged;
// no code given twice; and as many calls of WeChat as the table says.
func TestEveryWriteBothWays(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of cases")
	}
	for name, w := range ways() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, w.spares)
			appid := func() string { return fmt.Sprintf("wx%d", benches.Add(1)) }
			undisturbed := interruption{begin: func(*bench) {}, met: func(*bench) bool { return true }}
			t.Run("undisturbed", func(t *testing.T) {
				b.goOnce(t, w, appid(), undisturbed)
				// The table is complete: the way does nothing that is not in it.
				for _, operation := range b.faults.Operations() {
					if !slices.Contains(slices.Concat(w.reads, w.writes, w.elsewhere, background.sql), operation) {
						t.Errorf("the operation %q is not in the table", operation)
					}
				}
				for _, message := range b.wire.messages() {
					if !slices.Contains(slices.Concat(w.messages, w.elsewhere, background.messages), message) {
						t.Errorf("the message %q is not in the table", message)
					}
				}
			})
			for _, i := range w.interruptions() {
				t.Run(i.name, func(t *testing.T) { b.goOnce(t, w, appid(), i) })
			}
		})
	}
}

// A replica that starts becomes ready and works although one of its requests to NATS, or the
// answer, is lost.
func TestEveryCreationBothWays(t *testing.T) {
	creations := []string{
		"ask for the account", "find token stream", "find authorization stream", "look at stream",
		"create token stream", "create authorization stream", "create update stream", "create failure stream", "create authorized stream",
		"create reader of tokens", "create reader of updates", "create durable", "create durable for authorizations",
		"pull for memory", "pull events", "pull authorizations",
	}
	start := func(t *testing.T, prepare func(*wire) <-chan struct{}) *wire {
		w := newWorld(t, wechattest.Options{})
		wire := &wire{}
		cut := prepare(wire)
		r := w.start(w.onWire(wire))
		next(w, cut)
		r.ready()
		w.announce("wx1", w.token("a"))
		r.await(consumer.StepCommitted, "wx1", 1)
		if update := w.settled(r, "wx1"); update.Revision != 1 {
			t.Errorf("revision %d", update.Revision)
		}
		r.ready()
		if n := w.wechat.Count("wx1"); n != 1 {
			t.Errorf("%d calls of WeChat, want 1", n)
		}
		var streams []string
		for name := range w.js.StreamNames(w.within()).Name() {
			streams = append(streams, name)
		}
		slices.Sort(streams)
		want := []string{"COMPONENT_AUTHORIZED", "COMPONENT_TOKENS", "PREAUTH", "PREAUTH_AUTHORIZED", "PREAUTH_FAILED"}
		if durable, _ := w.consumers(); durable == nil || !slices.Equal(streams, want) {
			t.Errorf("got the streams %v and the durable %v", streams, durable)
		}
		return wire
	}
	t.Run("undisturbed", func(t *testing.T) {
		closed := make(chan struct{})
		close(closed)
		for _, message := range start(t, func(*wire) <-chan struct{} { return closed }).messages() {
			if !slices.Contains(slices.Concat(creations, background.messages, []string{"ack", "publish update"}), message) {
				t.Errorf("the message %q is not in the table", message)
			}
		}
	})
	for _, message := range creations {
		for how, applied := range map[string]bool{"not applied": false, "applied": true} {
			t.Run(message+" "+how, func(t *testing.T) {
				start(t, func(w *wire) <-chan struct{} { return w.cutAt(message, applied) })
			})
		}
	}
}

// The table of ways has every statement of package repo.
func TestEveryStatementIsInTheTable(t *testing.T) {
	files, err := filepath.Glob("../repo/*.go")
	if err != nil {
		t.Fatal(err)
	}
	tabled := []string{"schema", "found", "session", "own", "own_account", "rights"} // not part of a way
	for _, w := range ways() {
		tabled = slices.Concat(tabled, w.reads, w.writes)
	}
	statement := regexp.MustCompile(`/\* repo\.(\w+) \*/`)
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range statement.FindAllStringSubmatch(string(text), -1) {
			found++
			if !slices.Contains(tabled, name[1]) {
				t.Errorf("%s: no way interrupts %q", file, name[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d statements, want at least 20", found)
	}
}
