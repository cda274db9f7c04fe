package consumer

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"preauth"
	"preauth/internal/view"
	"preauth/repo"
)

func update(appid string, revision uint64) pending {
	return pending{Announcement: repo.Announcement{
		MessageID: fmt.Sprintf("%s.%d", appid, revision), AppID: appid, Update: &preauth.Update{AppID: appid, Revision: revision},
	}}
}

func failure(appid, id string) pending {
	return pending{Announcement: repo.Announcement{MessageID: id, AppID: appid, Failure: &preauth.Failure{AppID: appid}}}
}

// drain empties a queue and returns the message ids in order.
func drain(q *queue) (ids []string) {
	for n, ok := q.next(); ok; n, ok = q.next() {
		ids = append(ids, n.MessageID)
		q.finish(n.Announcement, nil, time.Now())
	}
	return ids
}

// If several updates of a component wait, only the newest is published, whatever their order.
// Failures are all published.
func TestNewestWaitingRevisionIsPublished(t *testing.T) {
	for name, test := range map[string]struct {
		add       []pending
		displaced []string
		next      []string
	}{
		"in order":                      {[]pending{update("wx1", 1), update("wx1", 2)}, []string{"wx1.1"}, []string{"wx1.2"}},
		"out of order":                  {[]pending{update("wx1", 2), update("wx1", 1)}, []string{"wx1.1"}, []string{"wx1.2"}},
		"the same twice":                {[]pending{update("wx1", 1), update("wx1", 1)}, nil, []string{"wx1.1"}},
		"two components":                {[]pending{update("wx1", 1), update("wx2", 1), update("wx1", 2)}, []string{"wx1.1"}, []string{"wx1.2", "wx2.1"}},
		"two failures of one component": {[]pending{failure("wx1", "a"), failure("wx1", "b")}, nil, []string{"a", "b"}},
		"failures without a component":  {[]pending{failure("", "a"), failure("", "b")}, nil, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(updatesPart)
			var displaced []string
			for _, n := range test.add {
				if a, ok := q.add(n); ok {
					displaced = append(displaced, a.MessageID)
				}
			}
			if next := drain(q); !slices.Equal(displaced, test.displaced) || !slices.Equal(next, test.next) {
				t.Errorf("displaced %v and published %v, want %v and %v", displaced, next, test.displaced, test.next)
			}
		})
	}
}

// While an announcement of a component is in flight, the component's next one waits. Those of other
// components do not.
func TestOneAnnouncementPerComponentIsInFlight(t *testing.T) {
	q := newQueue(updatesPart)
	q.add(update("wx1", 1))
	if n, ok := q.next(); !ok || n.MessageID != "wx1.1" {
		t.Fatalf("got %v, %v", n, ok)
	}
	q.add(update("wx1", 2))
	q.add(update("wx2", 1))
	if n, ok := q.next(); !ok || n.MessageID != "wx2.1" {
		t.Errorf("got %v, %v, want the other component's", n, ok)
	}
	if n, ok := q.next(); ok {
		t.Errorf("%s is published while an older one is in flight", n.MessageID)
	}
	q.finish(update("wx1", 1).Announcement, nil, time.Now())
	if n, ok := q.next(); !ok || n.MessageID != "wx1.2" {
		t.Errorf("got %v, %v, want the one that waited", n, ok)
	}
	q.finish(update("wx1", 2).Announcement, nil, time.Now())
	q.finish(update("wx2", 1).Announcement, nil, time.Now())
	if len(q.waiting)+len(q.order)+len(q.underWay) != 0 {
		t.Errorf("left in the queue: %+v", q)
	}
}

// An announcement that finds no room in memory is known to look-ups, and stays in the outbox. A
// stream that does not answer holds up nothing else.
func TestAnnouncementsWithoutRoom(t *testing.T) {
	p := newPublisher(Config{}.withDefaults(), nil, nil, view.NewCodes(), nil, nil, slog.New(slog.DiscardHandler))
	c := &committer{codes: p.codes, publisher: p}
	for i := range publishing { // as many as wait for an answer at once
		p.updates.underWay[fmt.Sprint(i)], p.failures.underWay[fmt.Sprint(i)] = true, true
	}
	announce := func(n pending) bool { return c.announce(t.Context(), n.Announcement, time.Time{}) }
	for i := range queueLimit {
		if !announce(update(fmt.Sprintf("wx%d", i), 1)) {
			t.Fatalf("no room for announcement %d", i)
		}
	}
	if announce(update("one more", 1)) || announce(update("wx1", 2)) {
		t.Error("there is room for more")
	}
	if !announce(failure("wx1", "a")) {
		t.Error("updates that wait hold up a failure")
	}
	if code := p.codes.Current("one more"); code == nil || code.Revision != 1 {
		t.Errorf("known: %+v", code)
	}
}

// What failed last is a reason, until the announcement is published or is of no use any more.
func TestAnnouncementsThatFailAreAReason(t *testing.T) {
	q := newQueue(updatesPart)
	full, slow := errors.New("full"), errors.New("slow")
	a, b := update("wx1", 1).Announcement, update("wx2", 1).Announcement
	for i, step := range []struct {
		finish repo.Announcement
		err    error
		want   error
	}{{a, full, full}, {b, slow, slow}, {a, nil, slow}, {b, nil, nil}} {
		q.finish(step.finish, step.err, time.Now())
		if q.reason != step.want { //nolint:errorlint // this very one
			t.Errorf("after step %d the reason is %v, want %v", i, q.reason, step.want)
		}
	}
}
