package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app/apptest"
	"preauth/internal/database"
	"preauth/internal/mysqlserver"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// speed is how many seconds a second of the machine counts for Prometheus: five minutes of a rule
// pass in fifteen seconds, or more on a slow machine. The service keeps the machine's time. So the
// ages that it tells, and the half minute between two counts of components, are as long as ever.
const speed = 20

// patience is how long a test waits for what must happen. No machine is too slow for it.
const patience = 5 * time.Minute

// appid is the component of all systems.
const appid = "wx0123456789abcdef"

// world is a system, the Prometheus that watches it, and a test.
type world struct {
	*system

	t   *testing.T
	ctx context.Context // ends after patience
}

// fault is planted in a running system.
type fault struct {
	name string
	with setup
	// ownMySQL gives the system a database server that the fault can harm.
	ownMySQL bool
	// plant does the harm and returns what undoes it.
	plant func(w *world) (heal func())
	// fires is the alert, and follows are the others that come with it because they are true too.
	fires   string
	follows []string
}

// soon has the service try again within a second where somebody would have to act.
var soon = consumer.Delays{Operator: time.Second, Once: time.Second, Transient: 100 * time.Millisecond, TransientMax: time.Second}

// A service that is not ready is out, replica by replica.
var whenNotReady = []string{"PreauthReplicaOut"}

var faults = []fault{
	{
		name: "the only replica ends",
		plant: func(w *world) func() {
			w.must(w.replicas[0].stop())
			return func() { w.must(w.replicas[0].start(w.ctx)) }
		},
		fires: "PreauthGone", follows: []string{"PreauthReplicaOut"},
	},
	{
		name: "one of two replicas ends",
		with: setup{replicas: 2},
		plant: func(w *world) func() {
			w.must(w.replicas[1].stop())
			return func() { w.must(w.replicas[1].start(w.ctx)) }
		},
		fires: "PreauthReplicaOut",
	},
	{
		name: "NATS is away",
		plant: func(w *world) func() {
			w.nats.Stop()
			return func() { w.must(w.nats.Restart()) }
		},
		fires: "PreauthNotReady", follows: whenNotReady,
	},
	{
		name:     "MySQL is away while visitors come",
		ownMySQL: true,
		plant: func(w *world) func() {
			stop := w.visitors(w.ctx, appid, 200*time.Millisecond)
			w.t.Cleanup(stop)
			w.must(w.mysql.Kill())
			return func() { w.must(w.mysql.Restart(w.ctx)) }
		},
		fires: "PreauthRequestsFail", follows: append([]string{"PreauthNotReady"}, whenNotReady...),
	},
	{
		name: "claims that WeChat does not answer take all the room",
		with: setup{config: consumer.Config{Spares: -1, Requests: 1, RequestTimeout: time.Hour}},
		plant: func(w *world) func() {
			hold := wechattest.NewHold()
			w.t.Cleanup(hold.Release)
			w.wechat.Next(appid, wechattest.Fault{Hold: hold})
			w.requests.Go(func() { _ = w.visitor(w.ctx, appid) })
			<-hold.Reached()
			w.t.Cleanup(w.visitors(w.ctx, appid, 200*time.Millisecond))
			return hold.Release
		},
		fires: "PreauthRequestsFail",
	},
	{
		name: "WeChat refuses the calls for claims",
		with: setup{config: consumer.Config{Spares: -1, Delays: soon}},
		plant: func(w *world) func() {
			w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(61004, "") })
			w.t.Cleanup(w.visitors(w.ctx, appid, 200*time.Millisecond))
			return func() { w.wechat.Every(nil) }
		},
		fires: "PreauthVisitorsTurnedAway",
	},
	{
		name: "WeChat refuses renewals",
		with: setup{wechat: wechattest.Options{CodeLife: 40 * time.Second}, config: consumer.Config{Delays: soon}},
		plant: func(w *world) func() {
			w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(61004, "") })
			return func() { w.wechat.Every(nil) }
		},
		// The component fails for as long.
		fires: "PreauthCodeOverdue", follows: []string{"PreauthComponentsFailing"},
	},
	{
		name: "WeChat refuses a new token while the code lives",
		with: setup{config: consumer.Config{Delays: soon}},
		plant: func(w *world) func() {
			w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(48001, "") })
			w.must(w.announce(w.ctx, appid, 2*time.Hour))
			return func() { w.wechat.Every(nil) }
		},
		fires: "PreauthComponentsFailing",
	},
	{
		name: "the token service falls silent",
		plant: func(w *world) func() {
			w.must(w.announce(w.ctx, appid, 3*time.Second))
			return func() { w.must(w.announce(w.ctx, appid, 2*time.Hour)) }
		},
		fires: "PreauthNoToken",
	},
	{
		name: "the stream of announcements refuses messages",
		plant: func(w *world) func() {
			limit := w.limitMessages("PREAUTH", 1)
			w.must(w.announce(w.ctx, appid, 2*time.Hour))
			return func() { w.limitMessages("PREAUTH", limit) }
		},
		// Announcing is one of the things that a ready service does.
		fires: "PreauthAnnouncementsWait", follows: append([]string{"PreauthNotReady"}, whenNotReady...),
	},
	{
		name: "visitors come faster than spares are made",
		plant: func(w *world) func() {
			w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Fault{Delay: time.Second} })
			stop := w.visitors(w.ctx, appid, 250*time.Millisecond)
			w.t.Cleanup(stop)
			return func() {
				stop()
				w.wechat.Every(nil)
			}
		},
		fires: "PreauthVisitorsWait",
	},
	{
		name: "another program uses up the quota",
		// At noon in China the day lasts longer than the test.
		with: setup{
			wechat: wechattest.Options{DailyQuota: 1000, Now: noon},
			config: consumer.Config{Now: noon, Spares: -1},
		},
		plant: func(w *world) func() {
			api, err := wechat.New(wechat.Config{BaseURLs: []string{w.wechat.URL()}, Timeout: patience})
			w.must(err)
			w.t.Cleanup(api.Close)
			for w.wechat.Count(appid) < 925 {
				_, err := api.CreatePreAuthCode(w.ctx, appid, preauth.NewSecret("another"))
				w.must(err)
			}
			w.spend(15) // after so many calls the service asks again
			return func() {
				w.wechat.SetDailyQuota(appid, 10_000)
				w.spend(15)
			}
		},
		fires: "PreauthQuotaLow",
	},
	{
		name: "somebody else announces a code",
		plant: func(w *world) func() {
			update := fmt.Sprintf(`{"component_appid":%q,"pre_auth_code":"preauthcode@@@foreign","issued_at":"%[2]s","expires_at":"%[3]s","expires_in":600,"revision":999,"cause":"token"}`,
				appid, time.Now().UTC().Format(time.RFC3339), time.Now().UTC().Add(10*time.Minute).Format(time.RFC3339))
			_, err := w.jetstream().Publish(w.ctx, preauth.SubjectFor(preauth.DefaultSubjects().Updated, appid), []byte(update))
			w.must(err)
			return func() {} // the service heals it
		},
		fires: "PreauthForeignUpdates",
	},
	{
		name:     "MySQL syncs once in a second",
		ownMySQL: true,
		plant: func(w *world) func() {
			set := func(value int) {
				db, err := database.Open(w.mysql.DSN(w.database), 1)
				w.must(err)
				defer db.Close()
				_, err = db.Exec(w.ctx, "set", fmt.Sprintf("SET GLOBAL innodb_flush_log_at_trx_commit = %d", value))
				w.must(err)
			}
			set(2)
			return func() { set(1) }
		},
		fires: "PreauthDurability",
	},
	{
		name: "the only gateway ends",
		with: setup{gateway: true},
		plant: func(w *world) func() {
			w.must(w.gateway.stop())
			return func() { w.must(w.gateway.start(w.ctx)) }
		},
		fires: "PreauthGatewayOut",
	},
	{
		name: "NATS is away from service and gateway",
		with: setup{gateway: true},
		plant: func(w *world) func() {
			w.nats.Stop()
			return func() { w.must(w.nats.Restart()) }
		},
		fires: "PreauthGatewayOut", follows: append([]string{"PreauthNotReady"}, whenNotReady...),
	},
	{
		name: "the stream of tokens refuses messages",
		with: setup{gateway: true},
		plant: func(w *world) func() {
			w.t.Cleanup(w.gateway.announce(w.ctx, appid, 200*time.Millisecond))
			limit := w.limitMessages("COMPONENT_TOKENS", 1)
			return func() { w.limitMessages("COMPONENT_TOKENS", limit) }
		},
		fires: "PreauthGatewayFails",
	},
	{
		name: "somebody breaks the tokens file of a gateway",
		with: setup{gateway: true},
		plant: func(w *world) func() {
			content, err := os.ReadFile(w.gateway.tokens)
			w.must(err)
			w.must(w.gateway.writeTokens("all"))
			return func() { w.must(w.gateway.writeTokens(string(content))) }
		},
		fires: "PreauthGatewayFileBroken",
	},
}

// Each fault makes its alert fire, with those that follow and no other, and all of them clear once it
// is healed.
func TestFaultsFireTheirAlerts(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			server := mysql
			if f.ownMySQL {
				server = startMySQL(t)
			}
			w := newWorld(t, server, f.with)
			m := w.monitor()
			want := append([]string{f.fires}, f.follows...)
			slices.Sort(want)

			// The system is left alone for two minutes, then harmed until all fire, then healed until none does.
			const before, during, after, over = "before the fault", "during the fault", "after the fault", "over"
			phase, looks, heal := before, 0, func() {}
			err := m.watch(w.ctx, func(passed time.Duration, firing []string) bool {
				for _, alert := range firing {
					if phase == before || !slices.Contains(want, alert) {
						t.Errorf("%s fires %s", alert, phase)
						return false
					}
				}
				looks++
				switch {
				case phase == before && looks == int(2*time.Minute/interval):
					phase, heal = during, f.plant(w)
				case phase == during && slices.Equal(firing, want):
					t.Logf("%v fire after %v", firing, passed)
					phase = after
					heal()
				case phase == after && len(firing) == 0:
					t.Logf("clear after %v", passed)
					phase = over
				}
				return phase != over
			})
			if phase != over && !t.Failed() {
				t.Errorf("%s, %v never fired and cleared: %v", phase, want, err)
			}
		})
	}
}

// Nothing fires while the service works: codes are renewed, visitors come, tokens are announced, and
// one replica after the other is restarted.
func TestHealthySystemFiresNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mysql, setup{
		replicas: 2, gateway: true, wechat: wechattest.Options{CodeLife: 40 * time.Second, DailyQuota: 100_000},
		config: consumer.Config{Spares: 5},
	})
	m := w.monitor()
	defer w.visitors(w.ctx, appid, 500*time.Millisecond)()
	defer w.gateway.announce(w.ctx, appid, time.Second)()
	looks := 0
	err := m.watch(w.ctx, func(passed time.Duration, firing []string) bool {
		if len(firing) > 0 {
			t.Errorf("%v fire after %v", firing, passed)
			return false
		}
		looks++
		switch looks {
		case 20, 40:
			w.must(w.replicas[looks/20-1].stop())
		case 24, 44: // a minute later
			w.must(w.replicas[looks/20-1].start(w.ctx))
		case 30, 60:
			w.must(w.announce(w.ctx, appid, 2*time.Hour))
		}
		return looks < 100 // 25 minutes, in which components are counted twice at least
	})
	w.must(err)
}

// Each alert has a fault.
func TestEveryAlertHasAFault(t *testing.T) {
	for _, alert := range alerts(t) {
		if !slices.ContainsFunc(faults, func(f fault) bool { return f.fires == alert.Alert }) {
			t.Errorf("no fault makes %s fire", alert.Alert)
		}
	}
}

func startMySQL(t *testing.T) *mysqlserver.Server {
	t.Helper()
	options := mysqlserver.TestOptions()
	options.DSN = ""
	server, err := mysqlserver.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func newWorld(t *testing.T, server *mysqlserver.Server, with setup) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	log := apptest.NewOutput()
	s, err := startSystem(ctx, server, slog.New(slog.NewTextHandler(log, nil)), with)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	w := &world{system: s, t: t, ctx: ctx}
	w.must(w.introduce(ctx, appid))
	return w
}

// monitor starts a Prometheus that watches the system.
func (w *world) monitor() *monitor {
	w.t.Helper()
	m, err := newMonitor(w.t.TempDir(), speed, ruleFile, w.targets())
	w.must(err)
	w.t.Cleanup(func() {
		if err := m.close(); err != nil {
			w.t.Error(err)
		}
	})
	return m
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) jetstream() jetstream.JetStream {
	w.t.Helper()
	js, err := jetstream.New(w.nc)
	w.must(err)
	return js
}

// limitMessages limits the size of messages in a stream and returns the limit before.
func (w *world) limitMessages(name string, size int32) (before int32) {
	w.t.Helper()
	js := w.jetstream()
	stream, err := js.Stream(w.ctx, name)
	w.must(err)
	cfg := stream.CachedInfo().Config
	before, cfg.MaxMsgSize = cfg.MaxMsgSize, size
	_, err = js.UpdateStream(w.ctx, cfg)
	w.must(err)
	return before
}

// spend announces n new tokens, one after the other: a call to WeChat for each.
func (w *world) spend(n int) {
	w.t.Helper()
	for range n {
		before := w.wechat.Count(appid)
		w.must(w.announce(w.ctx, appid, 2*time.Hour))
		w.must(w.wechat.Wait(w.ctx, appid, before+1))
	}
}

// noon returns the time since the start of the tests after noon in China.
func noon() time.Time {
	return time.Date(2026, 3, 14, 4, 0, 0, 0, time.UTC).Add(time.Since(started))
}

var started = time.Now()
