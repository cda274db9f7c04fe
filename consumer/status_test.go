package consumer_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

func (w *world) preauthClient() *preauth.Client {
	w.t.Helper()
	client, err := preauth.NewClient(w.nc)
	if err != nil {
		w.t.Fatal(err)
	}
	return client
}

func TestStatusOfComponents(t *testing.T) {
	w := newWorld(t, wechattest.Options{CodeLife: 20 * time.Minute})
	token := w.token("a")
	w.wechat.SetToken("wx1", token) // by which it is known whose quota is asked for
	w.wechat.SetDailyQuota("wx1", 1000)
	r := w.start(oneSpare, func(s *setup) { s.cfg.Delays.Operator = time.Hour }).ready()
	w.announce("wx1", token)
	r.await(consumer.StepCleared, "wx1", 1)
	w.spares(r, "wx1", 1)
	w.wechat.Next("wx2", wechattest.Error(61004, ""))
	w.announce("wx2", w.token("b"))
	r.await(consumer.StepFailed, "wx2", 1)

	client := w.preauthClient()
	update, _ := w.stored("wx1")
	good, err := client.Status(w.within(), "wx1")
	if err != nil {
		t.Fatal(err)
	}
	if good.State != preauth.StateValid || good.Revision != 1 || !good.ExpiresAt.Equal(update.ExpiresAt) || good.Cause != preauth.CauseToken ||
		good.Spares != 1 || good.Failure != nil || good.Advice != "" || !good.DueAt.After(good.IssuedAt) || !good.DueAt.Before(good.ExpiresAt) ||
		!good.TokenExpiresAt.After(good.ExpiresAt) {
		t.Errorf("a component with a code: %+v", good)
	}
	w.eventually("WeChat has said what is left", func() bool {
		s, err := client.Status(w.within(), "wx1")
		return err == nil && s.Quota != nil && s.Quota.Limit == 1000 && s.Quota.Remaining > 900
	})
	bad, err := client.Status(w.within(), "wx2")
	if err != nil {
		t.Fatal(err)
	}
	if bad.State != preauth.StateFailing || bad.Attempts != 1 || bad.Failure == nil || bad.Failure.ErrCode != 61004 ||
		bad.Advice != preauth.ClassAddressNotAllowed.Advice() || bad.DueAt.IsZero() {
		t.Errorf("a component that fails: %+v", bad)
	}
	if _, err := client.Status(w.within(), "wx3"); codeOf(err) != preauth.StatusNotFound {
		t.Errorf("a component that nobody named: %v", err)
	}

	page, err := client.StatusPage(w.within(), preauth.StatusRequest{State: preauth.StateFailing})
	if err != nil || page.Summary == nil || len(page.Components) != 1 || page.Components[0].AppID != "wx2" || page.Next != "" {
		t.Fatalf("the page of those that fail: %+v, %v", page, err)
	}
	want := preauth.Summary{
		Components: 2, Valid: 1, Failing: 1, Spares: 1, CodeExpiresAt: update.ExpiresAt, TokenExpiresAt: page.Summary.TokenExpiresAt,
		Outbox: page.Summary.Outbox, OutboxSince: page.Summary.OutboxSince, // what is announced just now
	}
	if *page.Summary != want || page.Summary.TokenExpiresAt.IsZero() {
		t.Errorf("the summary is %+v, want %+v", *page.Summary, want)
	}
	if page, err := client.StatusPage(w.within(), preauth.StatusRequest{After: "wx1"}); err != nil || page.Summary != nil || len(page.Components) != 1 {
		t.Errorf("a further page: %+v, %v", page, err)
	}
}

// A page ends before it has more bytes than a body may have, and the pages together have each
// component once.
func TestPagesOfManyComponents(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	const components = 250
	// The message takes six bytes on the wire for each character: a hundred such failures do not fit
	// into a body.
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(48001, strings.Repeat("\u2028", 160)) })
	r := w.start(func(s *setup) { s.cfg.Delays.Operator = time.Hour }).ready()
	for i := range components {
		w.announce(fmt.Sprintf("wx%03d", i), w.token(fmt.Sprint(i)))
	}
	w.eventually("all fail", func() bool { return r.count(consumer.StepFailed) == components })
	client := w.preauthClient()
	var request preauth.StatusRequest
	seen, pages := 0, 0
	for {
		page, err := client.StatusPage(w.within(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Components {
			if want := fmt.Sprintf("wx%03d", seen); s.AppID != want {
				t.Fatalf("%s comes where %s should", s.AppID, want)
			}
			seen++
		}
		pages++
		if page.Next == "" {
			break
		}
		request.After = page.Next
	}
	if seen != components || pages < 3 {
		t.Errorf("%d components on %d pages, want %d on 3 at least", seen, pages, components)
	}
}

func codeOf(err error) int {
	if e, ok := errors.AsType[*preauth.Error](err); ok {
		return e.Code
	}
	return 0
}

func TestRenewByAnOperator(t *testing.T) {
	w := newWorld(t, wechattest.Options{CodeLife: 20 * time.Minute})
	r := w.start(func(s *setup) { s.cfg.Delays.Operator = time.Hour }).ready()
	client := w.preauthClient()
	if _, err := client.Renew(w.within(), "wx1"); codeOf(err) != preauth.StatusNotFound {
		t.Errorf("a component that nobody named: %v", err)
	}
	w.announce("wx1", w.token("a"))
	r.await(consumer.StepCleared, "wx1", 1)
	// A code that is not due is renewed all the same.
	if got, err := client.Renew(w.within(), "wx1"); err != nil || got.Revision != 2 || got.Cause != preauth.CauseDemand || got.State != preauth.StateValid {
		t.Errorf("a valid component: %+v, %v", got, err)
	}
	// A failure is the answer, and the next attempt does not wait for its time.
	w.wechat.Next("wx1", wechattest.Error(61004, ""))
	_, err := client.Renew(w.within(), "wx1")
	if e, ok := errors.AsType[*preauth.Error](err); !ok || e.Code != preauth.StatusUnavailable || e.Class != preauth.ClassAddressNotAllowed || e.RetryAt.IsZero() {
		t.Errorf("a failure: %v", err)
	}
	if got, err := client.Renew(w.within(), "wx1"); err != nil || got.Revision != 3 || got.Failure != nil {
		t.Errorf("after the failure: %+v, %v", got, err)
	}
	// What the service has given up for another reason, it tries again.
	w.wechat.Next("wx2", wechattest.Error(47001, ""))
	w.announce("wx2", w.token("b"))
	r.await(consumer.StepFailed, "wx2", 1)
	if got, err := client.Renew(w.within(), "wx2"); err != nil || got.Revision != 1 {
		t.Errorf("after a request that WeChat did not understand: %+v, %v", got, err)
	}
	reply, err := w.nc.RequestWithContext(w.within(), "preauth.renew.a.b", nil)
	if err != nil {
		t.Fatal(err)
	}
	if e := preauth.ParseError(reply.Header.Get, reply.Data); e == nil || e.Code != preauth.StatusBadRequest {
		t.Errorf("an impossible component: %v", e)
	}
	// Where only a newer token helps, WeChat is not called.
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(40001, "") })
	w.eventually("given up", func() bool {
		_, err := client.Renew(w.within(), "wx1")
		e, ok := errors.AsType[*preauth.Error](err)
		return ok && e.Class == preauth.ClassTokenRejected && e.RetryAt.IsZero()
	})
	calls := w.wechat.Count("wx1")
	if _, err := client.Renew(w.within(), "wx1"); codeOf(err) != preauth.StatusUnavailable {
		t.Errorf("given up: %v", err)
	}
	if now := w.wechat.Count("wx1"); now != calls {
		t.Errorf("%d calls with a rejected token, want none", now-calls)
	}
}

// A program that runs the service asks it in the process. NATS may be away then.
func TestServiceSaysHowItFaresWithoutNATS(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db, s.cfg.Version = db, "1.2.3" }).ready()
	for _, appid := range []string{"wx1", "wx2"} {
		w.announce(appid, w.token(appid))
		w.settled(r, appid)
	}
	client := w.preauthClient()
	page, err := client.StatusPage(w.within(), preauth.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	replicas, err := client.Replicas(w.within())
	if err != nil || len(replicas) != 1 {
		t.Fatalf("%d replicas, %v", len(replicas), err)
	}
	w.stopNATS()
	if summary, err := r.service.Summary(w.within()); err != nil || summary != *page.Summary {
		t.Errorf("the summary is %+v, %v, want %+v", summary, err, *page.Summary)
	}
	found, err := r.service.Statuses(w.within(), preauth.StatusRequest{}, 1)
	if err != nil || len(found) != 1 || string(found[0].Encode()) != string(page.Components[0].Encode()) {
		t.Errorf("the components are %+v, %v, want the first of %+v", found, err, page.Components)
	}
	one, ok, err := r.service.Status(w.within(), "wx2")
	if err != nil || !ok || string(one.Encode()) != string(page.Components[1].Encode()) {
		t.Errorf("wx2 is %+v, %v, %v, want %+v", one, ok, err, page.Components[1])
	}
	if _, ok, err := r.service.Status(w.within(), "wx3"); ok || err != nil {
		t.Errorf("a component that nobody named: %v, %v", ok, err)
	}
	summary := func() error { _, err := r.service.Summary(w.within()); return err }
	for _, test := range []struct {
		statement string
		ask       func() error
	}{
		{"census", summary},
		{"depth", summary},
		{"status", func() error { _, err := r.service.Statuses(w.within(), preauth.StatusRequest{}, 1); return err }},
		{"status", func() error { _, _, err := r.service.Status(w.within(), "wx1"); return err }},
	} {
		faults.Script(test.statement, slices.Repeat([]repotest.Fault{repotest.Answered(1142, "SELECT command denied")}, 1000)...)
		if err := test.ask(); err == nil {
			t.Errorf("no error although MySQL refuses %s", test.statement)
		}
		faults.Reset()
	}
	self := r.service.Replica()
	if self.ID != replicas[0].ID || self.Version != "1.2.3" || !self.StartedAt.Truncate(time.Microsecond).Equal(replicas[0].StartedAt) || self.Codes != 2 {
		t.Errorf("the replica is %+v, want %+v", self, replicas[0])
	}
	w.eventually("it knows that NATS is away", func() bool { return !r.service.Replica().Ready })
}

// The statistics of the micro service say how each replica fares.
func TestReplicasSayHowTheyFare(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	token := w.token("a")
	w.wechat.SetToken("wx1", token) // by which it is known whose quota is asked for
	w.wechat.SetDailyQuota("wx1", 1000)
	a := w.start(func(s *setup) { s.cfg.Version = "1.2.3" }).ready()
	w.start().ready()
	w.announce("wx1", token)
	w.settled(a, "wx1")
	client := w.preauthClient()
	w.eventually("both replicas are ready and have read the code", func() bool {
		replicas, err := client.Replicas(w.within())
		if err != nil || len(replicas) != 2 {
			return false
		}
		quotas := 0
		for _, r := range replicas {
			if !r.Ready || len(r.Reasons) != 0 || r.Codes != 1 || r.Tokens != 1 || r.Lag != 0 {
				return false
			}
			if r.Quota != nil && r.Quota.Limit == 1000 {
				quotas++
			}
		}
		return replicas[0].Version == "1.2.3" && quotas > 0
	})
}
