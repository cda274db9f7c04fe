package consumer_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

// forge publishes an update that no replica has committed.
func (w *world) forge(appid, code string, revision uint64) {
	w.t.Helper()
	w.publish(preauth.SubjectFor("preauth.updated", appid), forged(appid, code, revision))
}

func forged(appid, code string, revision uint64) []byte {
	now := time.Now().UTC()
	return fmt.Appendf(nil,
		`{"component_appid":%q,"pre_auth_code":%q,"issued_at":%q,"expires_at":%q,"expires_in":3600,"revision":%d,"cause":"token"}`,
		appid, code, now.Format(time.RFC3339), now.Add(time.Hour).Format(time.RFC3339), revision)
}

// MySQL is the truth. If somebody else publishes an update, look-ups return it for seconds at most,
// the true code is announced again in its place, and new tokens work.
func TestForeignUpdateIsCorrected(t *testing.T) {
	for name, test := range map[string]struct {
		revision uint64
		above    uint64 // subscribers must see a revision above this
	}{
		"a later revision":             {5, 5},
		"the current revision":         {1, 1},
		"beyond JavaScript's integers": {1 << 53, 0},
		"the last JavaScript integer":  {preauth.MaxRevision, 0},
		"the last int64":               {math.MaxInt64, 0},
		"the last uint64":              {math.MaxUint64, 0},
		"none":                         {0, 0},
		"high, with room above it":     {preauth.MaxRevision - 1<<32, preauth.MaxRevision - 1<<32},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			a, b := w.start().ready(), w.start().ready()
			w.announce("wx1", w.token("a"))
			update := w.settled(a, "wx1")

			stream, err := w.js.Stream(w.within(), "PREAUTH")
			if err != nil {
				t.Fatal(err)
			}
			w.forge("wx1", "FORGED", test.revision)
			w.eventually("the stream's last message has the true code", func() bool {
				msg, err := stream.GetLastMsgForSubject(w.within(), "preauth.updated.wx1")
				if err != nil {
					t.Fatal(err)
				}
				stored, err := preauth.ParseUpdate(msg.Data)
				return err == nil && stored.PreAuthCode.Equal(update.PreAuthCode) && stored.Revision > test.above
			})
			for range 4 { // so that both replicas answer
				w.eventually("a look-up returns the true code", func() bool {
					got, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
					return err == nil && got.PreAuthCode.Equal(update.PreAuthCode)
				})
			}
			healed := w.settled(a, "wx1")
			if n := w.wechat.Count("wx1"); n != 1 {
				t.Errorf("%d calls of WeChat, want 1", n)
			}
			if said := strings.Contains(w.log.String(), "an update was announced that MySQL does not have") ||
				strings.Contains(w.log.String(), "is not an update"); !said {
				t.Error("the foreign update is not logged")
			}
			if strings.Count(a.metrics()+b.metrics(), "preauth_foreign_updates_total 0\n") == 2 {
				t.Error("the foreign update is not counted")
			}
			if err := a.service.Ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}

			w.announce("wx1", w.token("b"))
			w.eventually("the next code is announced", func() bool {
				stored, ok := w.stored("wx1")
				return ok && stored.Revision > healed.Revision && stored.Revision > test.above
			})
			w.settled(a, "wx1")
			if test.above > 0 && strings.Contains(w.log.String(), "no component had so many codes") {
				t.Error("a replica does not believe a revision that follows one that it believed")
			}
		})
	}
}

// A look-up does not return a foreign update of a component that MySQL does not know.
func TestForeignUpdateOfAnUnknownComponent(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.forge("wx1", "FORGED", 5)
	w.eventually("not found", func() bool {
		_, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
		return code(err) == preauth.StatusNotFound
	})
	// A replica that starts reads the update from the stream again.
	r.stop()
	w.start().ready()
	w.eventually("not found", func() bool {
		_, err := w.lookup(preauth.LookupRequest{AppID: "wx1"})
		return code(err) == preauth.StatusNotFound
	})
}

// After the database is restored from a backup, look-ups return its codes, and they are announced
// with a revision above the stream's.
func TestRestoredDatabaseIsTheTruth(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	w.announce("wx1", w.token("a"))
	restored := w.settled(r, "wx1")
	w.announce("wx1", w.token("b"))
	r.await(consumer.StepCommitted, "wx1", 2)
	w.settled(r, "wx1")
	r.stop()
	w.database.MustExec("DELETE FROM pre_auth_code WHERE appid = 'wx1' AND revision = 2")
	w.database.MustExec("UPDATE pre_auth_code SET deleted_at = NULL WHERE appid = 'wx1'")
	w.database.MustExec("UPDATE component SET revision = 1 WHERE appid = 'wx1'")

	w.start().ready()
	w.eventually("announced above the stream's revision", func() bool {
		update, ok := w.stored("wx1")
		return ok && update.Revision > 2 && update.PreAuthCode.Equal(restored.PreAuthCode)
	})
	if got, err := w.lookup(preauth.LookupRequest{AppID: "wx1", MinRevision: 3}); err != nil || !got.PreAuthCode.Equal(restored.PreAuthCode) {
		t.Errorf("the look-up returned revision %d, %v", got.Revision, err)
	}
}

// A correction that MySQL does not take is tried until it does. The foreign update is one, however
// often MySQL is asked about it.
func TestForeignUpdateIsCountedOnce(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db = db }).ready()
	w.announce("wx1", w.token("a"))
	update := w.settled(r, "wx1")
	denied := repotest.Answered(1142, "UPDATE command denied")
	faults.Script("lock", denied, denied)
	w.forge("wx1", "FORGED", 5)
	w.eventually("the true code above the foreign revision", func() bool {
		stored, ok := w.stored("wx1")
		return ok && stored.Revision > 5 && stored.PreAuthCode.Equal(update.PreAuthCode)
	})
	if n := faults.Unmet(); n != 0 {
		t.Errorf("MySQL would have refused %d more corrections", n)
	}
	if !strings.Contains(r.metrics(), "preauth_foreign_updates_total 1\n") {
		t.Error("counted more than once")
	}
	if n := strings.Count(w.log.String(), "an update was announced that MySQL does not have"); n != 1 {
		t.Errorf("warned of %d times", n)
	}
}

// The stream that held a foreign update is gone, and MySQL does not take the correction at once. The
// revision that subscribers saw is remembered.
func TestForeignRevisionIsRememberedUntilItIsCorrected(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db = db }).ready()
	w.announce("wx1", w.token("a"))
	update := w.settled(r, "wx1")
	denied := repotest.Answered(1142, "UPDATE command denied")
	faults.Script("lock", denied, denied, denied, denied, denied, denied) // one a second, until the loss is noticed
	w.forge("wx1", "FORGED", 5)
	w.eventually("a correction is refused", func() bool { return faults.Unmet() < 6 })
	if err := w.js.DeleteStream(w.within(), "PREAUTH"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the true code above the foreign revision", func() bool {
		stored, ok := w.stored("wx1")
		return ok && stored.Revision > 5 && stored.PreAuthCode.Equal(update.PreAuthCode)
	})
}

// What another replica commits after this one has asked MySQL, MySQL's answer does not contradict.
func TestUpdateThatCameWhileMySQLWasAskedIsNoForeignOne(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	// Given a replica that takes no events, because its slot is taken.
	db, faults := w.faulty()
	watching := w.start(func(s *setup) { s.db, s.cfg.InFlight = db, 1 }).ready()
	hold := wechattest.NewHold()
	defer hold.Release()
	w.wechat.Next("wx0", wechattest.Fault{HoldAnswer: hold})
	w.announce("wx0", w.token("a"))
	next(w, hold.Reached())
	working := w.start().ready()

	// When the second code of a component comes while MySQL's answer about the first is under way.
	answered, released := make(chan struct{}), make(chan struct{})
	faults.Script("primary_components", repotest.Fault{After: func() { close(answered); <-released }})
	w.announce("wx1", w.token("b"))
	working.await(consumer.StepAnnounced, "wx1", 1)
	next(w, answered)
	w.announce("wx1", w.token("c"))
	working.await(consumer.StepAnnounced, "wx1", 2)
	w.eventually("the watching replica has it", func() bool { return consumer.KnowsRevision(watching.service, "wx1", 2) })
	close(released)

	// Then nobody else announced it.
	w.eventually("MySQL is asked about the second", func() bool { return slices.Contains(faults.Operations(), "primary_components") })
	if !strings.Contains(watching.metrics(), "preauth_foreign_updates_total 0\n") {
		t.Error("counted as foreign")
	}
}

// What somebody publishes in the place of a component's update neither stays there nor is believed of
// another component.
func TestWhatTakesThePlaceOfAnUpdateIsReplaced(t *testing.T) {
	for name, test := range map[string]struct {
		appid    string // that the message names
		revision uint64
		foreign  int // as counted
	}{
		"an older revision":            {"wx1", 1, 0},
		"an update of another one":     {"wx2", 5, 1},
		"an older update of another":   {"wx2", 1, 1},
		"no revision that anybody has": {"wx1", preauth.MaxRevision, 1},
		"another's, which nobody has":  {"wx2", preauth.MaxRevision, 1},
		"the revision that comes next": {"wx1", 3, 1},
		"the revision that is current": {"wx1", 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			r := w.start().ready()
			w.announce("wx1", w.token("a"))
			w.settled(r, "wx1")
			w.announce("wx1", w.token("b"))
			w.eventually("revision 2 announced", func() bool { update, ok := w.stored("wx1"); return ok && update.Revision == 2 })
			update := w.settled(r, "wx1")

			w.publish("preauth.updated.wx1", forged(test.appid, "FORGED", test.revision))
			w.eventually("the stream's last message has the true code", func() bool {
				stored, ok := w.stored("wx1")
				return ok && stored.AppID == "wx1" && stored.PreAuthCode.Equal(update.PreAuthCode)
			})
			if _, err := w.lookup(preauth.LookupRequest{AppID: "wx2"}); code(err) != preauth.StatusNotFound {
				t.Errorf("a look-up of the other component returned %v", err)
			}
			if want := fmt.Sprintf("preauth_foreign_updates_total %d\n", test.foreign); !strings.Contains(r.metrics(), want) {
				t.Errorf("the metrics lack %q", want)
			}
			w.settled(r, "wx1")
		})
	}
}

// MySQL does not answer which of two codes with the same revision is the true one. It is asked again.
func TestForeignUpdateIsCorrectedOnceMySQLAnswers(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db = db }).ready()
	w.announce("wx1", w.token("a"))
	update := w.settled(r, "wx1")
	denied := repotest.Answered(1142, "SELECT command denied")
	faults.Script("primary_components", denied, denied)
	w.forge("wx1", "FORGED", 1)
	w.eventually("the true code above the foreign revision", func() bool {
		stored, ok := w.stored("wx1")
		return ok && stored.Revision > 1 && stored.PreAuthCode.Equal(update.PreAuthCode)
	})
	if n := faults.Unmet(); n != 0 {
		t.Errorf("MySQL would have refused %d more answers", n)
	}
	if n := strings.Count(w.log.String(), "updates of the stream not compared with MySQL"); n == 0 {
		t.Error("the refusal is not logged")
	}
}

// An update stays in the outbox as long as somebody else always publishes just before it.
func TestUpdateWaitsForAStreamThatKeepsChanging(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	way := &line{}
	r := w.start(w.onLine(way)).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	stall := func() *stall { return way.stallAt("HPUB preauth.updated.wx1 ") }
	stalled := stall()
	defer func() { stalled.release() }()
	w.announce("wx1", w.token("b"))
	w.eventually("the attempt is given up", func() bool {
		select {
		case <-stalled.reached:
			w.forge("wx1", "FORGED", 1)
			attempt := stalled
			stalled = stall()
			attempt.release()
		default:
		}
		return strings.Contains(w.log.String(), "the component's last announcement keeps changing")
	})
	if n := r.count(consumer.StepAnnounced); n != 1 {
		t.Errorf("%d updates are said to be announced, want 1", n)
	}
	stalled.release()
	w.eventually("announced", func() bool { update, ok := w.stored("wx1"); return ok && update.Revision == 2 })
	w.settled(r, "wx1")
	r.ready()
}

// What is published in the place of a foreign message has no row in the outbox. If it gets lost,
// it is published again within seconds all the same.
func TestReplacementThatGetsLostIsPublishedAgain(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	way := &wire{}
	r := w.start(w.onWire(way)).ready()
	w.announce("wx1", w.token("a"))
	update := w.settled(r, "wx1")
	cut := way.cutAt("publish update", false)
	w.forge("wx1", "FORGED", preauth.MaxRevision)
	next(w, cut)
	w.eventually("the stream's last message has the true code", func() bool {
		stored, ok := w.stored("wx1")
		return ok && stored.PreAuthCode.Equal(update.PreAuthCode)
	})
	w.settled(r, "wx1")
	r.ready()
}
