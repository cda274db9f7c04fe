package consumer_test

import (
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/wechat/wechattest"
)

// Two services with different streams must not share a database. The second one reports that and
// stays idle until it adopts the database.
func TestDatabaseBelongsToOneSetOfStreams(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	ours := w.start().ready()
	w.announce("wx1", w.token("ours"))
	before := w.settled(ours, "wx1")

	subjects := preauth.DefaultSubjects().WithPrefix("other")
	theirs := w.start(func(s *setup) {
		s.cfg.Subjects = subjects
		s.cfg.TokenStream, s.cfg.UpdateStream, s.cfg.FailureStream = "OTHER_TOKENS", "OTHER_UPDATES", "OTHER_FAILURES"
	})
	w.eventually("not ready, with the reason and the remedy", func() bool {
		err := theirs.service.Ready()
		return contains(err, "database: ") && contains(err, "COMPONENT_TOKENS, PREAUTH and PREAUTH_FAILED") && contains(err, "preauth schema adopt")
	})
	client, err := preauth.NewClient(w.nc, preauth.WithSubjects(subjects))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Claim(w.within(), preauth.ClaimRequest{AppID: "wx1"}); code(err) != preauth.StatusUnavailable {
		t.Errorf("a claim of the other service: %v, want 503", err)
	}
	// The other service must not renew a due component, whose token its stream never held.
	w.due("wx1", time.Now())
	ours.await(consumer.StepCommitted, "wx1", 2)
	w.settled(ours, "wx1")
	if f := ours.failure("wx1"); f != nil {
		t.Errorf("recorded: %+v", f)
	}

	set := repo.StreamSet{Tokens: "OTHER_TOKENS", Updates: "OTHER_UPDATES", Failures: "OTHER_FAILURES"}
	if _, err := ours.db.Adopt(w.within(), set, time.Now()); err != nil {
		t.Fatal(err)
	}
	theirs.ready()
	w.eventually("the first service stops working", func() bool { return contains(ours.service.Ready(), "database: ") })
	if err := client.Announce(w.within(), preauth.TokenEvent{AppID: "wx1", Token: w.token("theirs")}); err != nil {
		t.Fatal(err)
	}
	theirs.await(consumer.StepCommitted, "wx1", 1)
	if got := w.current("wx1"); got.Equal(before.PreAuthCode) {
		t.Error("the current code is still the old one")
	}
}
