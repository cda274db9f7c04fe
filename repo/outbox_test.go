package repo_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"preauth"
	"preauth/repo"
)

func TestOutbox(t *testing.T) {
	d := newDatabase(t)
	if rows, oldest, err := d.OutboxDepth(t.Context()); err != nil || rows != 0 || !oldest.IsZero() {
		t.Errorf("an empty outbox: %d rows, oldest %v, %v", rows, oldest, err)
	}

	// Given announcements of several times, and a code that a newer one has replaced,
	d.save(t, succeeded("wx1", at(1), "a"))
	d.save(t, failed("wx2", at(3), 1))
	d.save(t, bad("", at(2)))
	last := succeeded("wx1", at(4), "b")
	d.save(t, last)
	ids := func(before time.Time, limit int) string {
		waiting, err := d.Outbox(t.Context(), before, limit)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, a := range waiting {
			what := "replaced"
			switch {
			case a.Update != nil:
				what = a.Update.PreAuthCode.Reveal()
			case a.Failure != nil:
				what = string(a.Failure.Class)
			}
			text += fmt.Sprintf("%s %q %s; ", a.MessageID, a.AppID, what)
		}
		return text
	}
	// when they are read,
	const (
		first  = `wx1.1 "wx1" replaced; `
		second = `failed.COMPONENT_TOKENS.2.0 "" bad_event; `
		third  = `failed.COMPONENT_TOKENS.3.1 "wx2" quota; `
		fourth = `wx1.2 "wx1" b; `
	)
	oldest := start.Add(2 * time.Second)
	// then the oldest come first, and those created at the time given or later not at all.
	for _, test := range []struct {
		before time.Time
		limit  int
		want   string
	}{
		{oldest.Add(time.Hour), 10, first + second + third + fourth},
		{oldest.Add(time.Hour), 1, first + second}, // of each kind
		{oldest.Add(3 * time.Second), 10, first + second + third},
		{oldest.Add(time.Second + time.Microsecond), 10, first + second},
		{oldest.Add(time.Second), 10, first}, // the failure was created then
		{oldest.Add(time.Microsecond), 10, first},
		{oldest, 10, ""},
		{oldest.Add(time.Hour), 0, ""},
		{oldest.Add(time.Hour), -1, ""},
		{time.Time{}, 10, ""},
	} {
		if got := ids(test.before, test.limit); got != test.want {
			t.Errorf("before %v, at most %d: %s; want %s", test.before, test.limit, got, test.want)
		}
	}
	// An update is what the current code is, to the microsecond.
	update := preauth.Update{
		AppID: "wx1", PreAuthCode: last.Code.PreAuthCode, IssuedAt: last.Code.IssuedAt, ExpiresAt: last.Code.ExpiresAt,
		Revision: 2, Cause: preauth.CauseToken,
	}
	rows, err := d.Outbox(within(t), oldest.Add(time.Hour), 10)
	if err != nil {
		t.Fatal(err)
	}
	current, err := d.ListCurrent(within(t), "", 10)
	if err != nil || len(current) != 1 || !reflect.DeepEqual(rows[len(rows)-1].Update, &update) || !reflect.DeepEqual(current[0], update) {
		t.Errorf("the outbox has %+v, current is %+v, wanted %+v, %v", rows[len(rows)-1].Update, current, update, err)
	}
	if rows, since, err := d.OutboxDepth(t.Context()); err != nil || rows != 4 || !since.Equal(oldest) {
		t.Errorf("%d rows, oldest %v, %v", rows, since, err)
	}

	// And what is deleted is gone, whether or not all of it was there.
	if err := d.DeleteAnnounced(t.Context(), []string{"wx1.1", "never was", "failed.COMPONENT_TOKENS.3.1", "wx1.1"}); err != nil {
		t.Error(err)
	}
	if err := d.DeleteAnnounced(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if got := ids(oldest.Add(time.Hour), 10); got != second+fourth {
		t.Errorf("left: %s", got)
	}
	// A failure saved again after that is announced again, with the same id.
	d.save(t, failed("wx2", at(3), 1))
	if got := ids(oldest.Add(time.Hour), 10); got != second+third+fourth {
		t.Errorf("left: %s", got)
	}
}

func TestDeleteAnnouncedTakesAnyNumber(t *testing.T) {
	d := newDatabase(t)
	var outcomes []repo.Outcome
	var ids []string
	for i := range 1200 {
		o := bad("", at(uint64(i+1)))
		outcomes, ids = append(outcomes, o), append(ids, o.FailureID)
	}
	d.save(t, outcomes...)
	if err := d.DeleteAnnounced(t.Context(), ids[1:]); err != nil {
		t.Fatal(err)
	}
	if waiting := d.outbox(t); len(waiting) != 1 || waiting[0].MessageID != ids[0] {
		t.Errorf("%d are left", len(waiting))
	}
}

func TestListCurrentPagesThroughAllCodes(t *testing.T) {
	// Given components with a current code, some of which are expired or follow on another, one of which
	// is announced, and one that has none,
	d := newDatabase(t)
	for i := range 7 {
		d.save(t, succeeded(fmt.Sprint("wx", i), at(uint64(i+1)), fmt.Sprint("old", i)))
		d.save(t, renewed(fmt.Sprint("wx", i), at(uint64(i+1)), fmt.Sprint("new", i), func(o *repo.Outcome) { o.TraceParent = traceParent }))
	}
	if err := d.DeleteAnnounced(t.Context(), []string{"wx5.2"}); err != nil {
		t.Fatal(err)
	}
	d.save(t, failed("wx3a", at(1), 1))
	// when all are read in pages,
	var pages []int
	got := map[string]preauth.Update{}
	for after := ""; ; {
		page, err := d.ListCurrent(t.Context(), after, 3)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, len(page))
		if len(page) == 0 {
			break
		}
		for _, u := range page {
			if u.AppID <= after {
				t.Errorf("%s comes after %s", u.AppID, after)
			}
			after = u.AppID
			got[u.AppID] = u
		}
	}
	// then each comes once, as it was announced.
	if fmt.Sprint(pages) != "[3 3 1 0]" || len(got) != 7 {
		t.Errorf("pages of %v, %d codes", pages, len(got))
	}
	for _, a := range d.outbox(t) {
		if a.Update == nil {
			continue
		}
		if current := got[a.AppID]; string(a.Update.Encode()) != string(current.Encode()) || current.TraceParent != traceParent {
			t.Errorf("announced %s, current %s in the trace %q", a.Update.Encode(), current.Encode(), current.TraceParent)
		}
	}
	for _, limit := range []int{0, -1} {
		if page, err := d.ListCurrent(t.Context(), "", limit); err != nil || len(page) > 0 {
			t.Errorf("at most %d: %d codes, %v", limit, len(page), err)
		}
	}
	if trace := got["wx5"].TraceParent; trace != "" {
		t.Errorf("what was announced is in the trace %q", trace)
	}
}

func TestComponents(t *testing.T) {
	d := newDatabase(t)
	d.save(t, succeeded("wx1", at(1), "a"), failed("wx2", at(2), 3))
	many := []string{"wx1", "wx2", "wx1", "unknown", ""}
	for i := range 1000 {
		many = append(many, fmt.Sprint("unknown", i))
	}
	known, err := d.Components(t.Context(), many)
	if err != nil || len(known) != 2 {
		t.Fatalf("%v, %v", known, err)
	}
	one := succeeded("wx1", at(1), "a")
	if c := known["wx1"]; c.AppID != "wx1" || c.Revision != 1 || c.Token != one.Token || !c.DueAt.Equal(one.DueAt) || c.Failure != nil ||
		c.Current.Revision != 1 || c.Current.Cause != preauth.CauseToken || c.Current.Fingerprint != one.Token.Fingerprint ||
		!c.Current.PreAuthCode.Equal(one.Code.PreAuthCode) || c.Current.IssuedAt != one.Code.IssuedAt || c.Current.ExpiresAt != one.Code.ExpiresAt {
		t.Errorf("got %+v", c)
	}
	two := failed("wx2", at(2), 3)
	if c := known["wx2"]; c.Revision != 0 || c.Token != two.Token || c.Attempts != 3 || c.Current != nil || *c.Failure != *two.Failure {
		t.Errorf("got %+v", c)
	} else if c.Current.IsSpent() || c.Current.Usable(start) {
		t.Error("no code is one")
	}
	if none, err := d.Components(t.Context(), nil); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}

	// A text that is not a failure does not block the component.
	d.exec(t, "UPDATE component SET failure = 'see the ticket' WHERE appid = 'wx2'")
	if c := d.component(t, "wx2"); c.Failure == nil || c.Failure.Class != preauth.ClassUnknown || c.Failure.AppID != "wx2" {
		t.Errorf("got %+v", c.Failure)
	}
}

func TestAFailureWithoutAnIDIsRecordedAndNotAnnounced(t *testing.T) {
	d := newDatabase(t)
	d.save(t, failed("wx1", at(1), 1))
	result := d.save(t, failed("wx1", at(1), 3, func(o *repo.Outcome) { o.FailureID = "" }))[0]
	if result.Status != repo.Saved || result.Announcement != nil {
		t.Errorf("got %+v", result)
	}
	if c := d.component(t, "wx1"); c.Attempts != 3 || c.Failure == nil || c.Failure.Attempt != 3 || !c.DueAt.Equal(c.Failure.RetryAt) {
		t.Errorf("known is %+v", c)
	}
	if waiting := d.outbox(t); len(waiting) != 1 || waiting[0].Failure.Attempt != 1 {
		t.Errorf("waiting are %+v", waiting)
	}
}
