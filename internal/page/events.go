package page

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// events are what was announced last, by any replica.
type events struct {
	subjects preauth.Subjects
	subs     []*nats.Subscription

	mu      sync.Mutex
	heard   []heard // the oldest first
	total   int
	refused map[string]bool // the subjects that NATS does not let this replica hear
}

// heard is an announcement as it came. It is not understood before somebody looks: there may be
// thousands in a second. It holds a code, like the memory of the replica.
type heard struct {
	number int
	at     time.Time
	msg    *nats.Msg
}

// keptEvents bounds the announcements in memory.
const keptEvents = 100

func newEvents(nc *nats.Conn, subjects preauth.Subjects) (*events, error) {
	e := &events{subjects: subjects, refused: map[string]bool{}}
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		e.note(err)
		if next != nil {
			next(nc, sub, err)
		}
	})
	for _, subject := range e.all() {
		sub, err := nc.Subscribe(subject, e.hear)
		if err != nil {
			return nil, err
		}
		e.subs = append(e.subs, sub)
	}
	return e, nil
}

func (e *events) all() []string {
	return []string{e.subjects.Updated, e.subjects.Failed, e.subjects.Authorized}
}

// close ends the subscriptions. They may be gone with their connection.
func (e *events) close() {
	for _, sub := range e.subs {
		_ = sub.Unsubscribe()
	}
}

func (e *events) hear(msg *nats.Msg) {
	if len(msg.Data) > preauth.MaxBody { // none of the service's
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.refused, msg.Subject)
	e.total++
	if len(e.heard) == keptEvents {
		e.heard = slices.Delete(e.heard, 0, 1)
	}
	e.heard = append(e.heard, heard{e.total, time.Now(), msg})
}

// note notes that NATS refused a subscription.
func (e *events) note(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	for _, subject := range e.all() {
		if strings.Contains(err.Error(), `Subscription to "`+subject+`"`) {
			e.mu.Lock()
			e.refused[subject] = true
			e.mu.Unlock()
		}
	}
}

// count returns how many announcements were heard.
func (e *events) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.total
}

// announcement is an announcement without its secrets.
type announcement struct {
	Number int
	At     time.Time
	Kind   string // updated, spent, failed or authorized
	AppID  string
	// Cause and Revision are those of an update.
	Cause    preauth.Cause
	Revision uint64
	// Failure is what failed.
	Failure *preauth.Failure
}

// latest returns what was announced about a component, or about all if appid is "", the newest
// first, and the subjects that this replica may not hear.
func (e *events) latest(appid string) (found []announcement, unheard []string) {
	e.mu.Lock()
	kept := slices.Clone(e.heard)
	for _, subject := range e.all() {
		if e.refused[subject] {
			unheard = append(unheard, subject)
		}
	}
	e.mu.Unlock()
	for _, h := range slices.Backward(kept) {
		event, err := e.understand(h)
		if err == nil && (appid == "" || event.AppID == appid) { // another's message is none
			found = append(found, event)
		}
	}
	return found, unheard
}

func (e *events) understand(h heard) (announcement, error) {
	event := announcement{Number: h.number, At: h.at}
	switch h.msg.Subject {
	case e.subjects.Updated:
		update, err := preauth.ParseUpdate(h.msg.Data)
		event.Kind, event.AppID, event.Cause, event.Revision = "updated", update.AppID, update.Cause, update.Revision
		if update.Spent {
			event.Kind = "spent"
		}
		return event, err
	case e.subjects.Failed:
		failure, err := preauth.ParseFailure(h.msg.Data)
		event.Kind, event.AppID, event.Failure = "failed", failure.AppID, &failure
		return event, err
	default:
		authorized, err := preauth.ParseAuthorized(h.msg.Data)
		event.Kind, event.AppID = "authorized", authorized.AppID
		return event, err
	}
}
