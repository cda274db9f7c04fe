package consumer

import (
	"time"

	"preauth/repo"
)

// queueLimit bounds the announcements for a stream that wait in memory. One that finds no room stays
// in the outbox.
const queueLimit = 4096

// pending is an announcement to be published.
type pending struct {
	repo.Announcement
	// eventAt is the stream's time stamp of the token event that brought the code; the zero time if none
	// did, or if that is not known any more.
	eventAt time.Time
}

// queue holds the announcements for one stream. Of several announcements with the same key one is
// under way at a time, and the newest of those that wait is next.
type queue struct {
	part     string // in a health
	waiting  map[string]pending
	order    []string // the keys of waiting that are not under way, oldest first
	underWay map[string]bool
	failed   map[string]attempt // the last attempts, where they failed
	reason   error              // why the last of them failed
}

// attempt is an attempt to publish that failed.
type attempt struct {
	repo.Announcement
	at time.Time
}

func newQueue(part string) *queue {
	return &queue{part: part, waiting: map[string]pending{}, underWay: map[string]bool{}, failed: map[string]attempt{}}
}

// keyOf returns the key of an announcement: the component for an update, the message id for all
// others.
func keyOf(a repo.Announcement) string {
	if a.Failure != nil || a.Authorized != nil {
		return a.MessageID
	}
	return a.AppID
}

func (q *queue) full() bool { return len(q.waiting) >= queueLimit }

// add puts an announcement into the queue. If another one with its key waits, the newer of the two
// stays and the older is displaced: it need not be published any more.
func (q *queue) add(n pending) (displaced repo.Announcement, ok bool) {
	key := keyOf(n.Announcement)
	other, waits := q.waiting[key]
	if !waits {
		if !q.underWay[key] {
			q.order = append(q.order, key)
		}
		q.waiting[key] = n
		return repo.Announcement{}, false
	}
	older, newer := other, n
	if revisionOf(other.Announcement) >= revisionOf(n.Announcement) {
		older, newer = n, other
	}
	q.waiting[key] = newer
	return older.Announcement, older.MessageID != newer.MessageID
}

// next takes the oldest announcement whose key is not under way; its key then is.
func (q *queue) next() (pending, bool) {
	if len(q.order) == 0 {
		return pending{}, false
	}
	key := q.order[0]
	q.order = q.order[1:]
	n := q.waiting[key]
	delete(q.waiting, key)
	q.underWay[key] = true
	return n, true
}

// finish notes how the attempt to publish an announcement ended, which is not under way any more.
func (q *queue) finish(a repo.Announcement, err error, now time.Time) {
	key := keyOf(a)
	delete(q.underWay, key)
	if _, ok := q.waiting[key]; ok {
		q.order = append(q.order, key)
	}
	if err != nil {
		q.failed[key], q.reason = attempt{a, now}, err
	} else {
		q.done(key)
	}
}

// done notes that an announcement need not be tried again: it is published, or of no use any more.
func (q *queue) done(key string) {
	delete(q.failed, key)
	if len(q.failed) == 0 {
		q.reason = nil
	}
}
