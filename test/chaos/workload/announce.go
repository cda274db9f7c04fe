package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/test/chaos/history"
)

// pace is the mean time between two token events of a component.
var pace = [kinds]time.Duration{busy: 1500 * time.Millisecond, calm: 40 * time.Second, brief: 20 * time.Second}

const (
	tokenTopic = "component.token.updated"
	// ackTimeout is how long a token service waits for the acknowledgement of an event.
	ackTimeout = 3 * time.Second
)

// announce is the token service of one component.
func (w *Workload) announce(ctx context.Context, c *component, rng *rand.Rand) {
	for {
		switch {
		case rng.IntN(20) == 0: // a burst
			for range 5 + rng.IntN(20) {
				w.publishSome(ctx, c, rng, true)
			}
		default:
			w.publishSome(ctx, c, rng, false)
		}
		if !about(ctx, rng, pace[c.kind]) {
			return
		}
	}
}

// publishSome publishes one event, of a kind that chance decides on.
func (w *Workload) publishSome(ctx context.Context, c *component, rng *rand.Rand, hurry bool) {
	c.mu.Lock()
	known := c.tokens
	c.mu.Unlock()
	var t token
	switch n := rng.IntN(100); {
	case n < 10:
		w.publish(ctx, rng, garbage(c, rng), hurry)
		return
	case n < 30 && len(known) > 0: // the newest token again
		t = known[len(known)-1]
	case n < 40 && len(known) > 0: // an older token, late
		t = known[rng.IntN(len(known))]
	case n < 45:
		t = token{newToken(rng), true} // WeChat will not know it
	default:
		t = w.issue(c, rng)
	}
	w.publish(ctx, rng, event(c, rng, t), hurry)
}

// issue makes a new token that WeChat knows.
func (w *Workload) issue(c *component, rng *rand.Rand) token {
	t := token{newToken(rng), false}
	w.opts.Issuer.SetToken(c.appid, t.secret)
	return t
}

// PublishGood announces a new, long-lived token for a component. It returns when the stream has
// stored the event.
func (w *Workload) PublishGood(ctx context.Context, appid string) error {
	rng := w.chance("good " + appid)
	t := w.issue(w.component(appid), rng)
	m := message{
		appid: appid, token: t, life: preauth.DefaultTokenLife, subject: tokenTopic,
		body: object{"component_appid": appid, "component_access_token": t.secret.Reveal()}.encode(),
	}
	for w.send(ctx, m, true).Status != history.OK {
		if !about(ctx, rng, 100*time.Millisecond) {
			return fmt.Errorf("announce a token of %s: %w", appid, ctx.Err())
		}
	}
	return nil
}

// message is a token event on its way.
type message struct {
	appid   string
	subject string
	body    []byte
	bad     bool
	token   token
	// life counts from the arrival. If expiresAt is set, it wins.
	life      time.Duration
	expiresAt time.Time
}

type object map[string]any

func (o object) encode() []byte {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // a mistake in this file
	}
	return text
}

// event returns a good event, in one of the forms that the contract allows.
func event(c *component, rng *rand.Rand, t token) message {
	c.mu.Lock()
	c.tokens = append(c.tokens, t)
	c.tokens = c.tokens[max(0, len(c.tokens)-20):]
	c.mu.Unlock()

	m := message{appid: c.appid, token: t, life: preauth.DefaultTokenLife}
	said := object{"component_access_token": t.secret.Reveal()}
	if c.kind == brief {
		m.life = time.Duration(15+rng.IntN(30)) * time.Second
		said["expires_in"] = int(m.life / time.Second)
	}
	switch rng.IntN(20) {
	case 0, 1, 2:
		m.expiresAt = time.Now().Add(m.life).Truncate(time.Microsecond)
		said["expires_at"] = m.expiresAt.UTC().Format(time.RFC3339Nano)
	case 3: // expired on arrival
		m.expiresAt = time.Now().Add(-time.Minute).Truncate(time.Microsecond)
		said["expires_at"] = m.expiresAt.UTC().Format(time.RFC3339Nano)
	}
	m.subject = tokenTopic
	if rng.IntN(2) == 0 {
		m.subject = preauth.SubjectFor(tokenTopic, c.appid)
	}
	if m.subject == tokenTopic || rng.IntN(2) == 0 {
		said["component_appid"] = c.appid
	}
	if rng.IntN(10) == 0 {
		said = object{
			"specversion": "1.0", "id": fmt.Sprint(rng.Uint32()), "type": tokenTopic, "source": "/tokens", "data": said,
		}
	}
	m.body = said.encode()
	return m
}

// garbage returns an event that breaks the contract.
func garbage(c *component, rng *rand.Rand) message {
	t := token{newToken(rng), true}
	m := message{appid: c.appid, subject: tokenTopic, bad: true, token: t}
	said := object{"component_appid": c.appid, "component_access_token": t.secret.Reveal()}
	switch rng.IntN(11) {
	case 0:
		m.body = []byte("{")
		return m
	case 1:
		m.body = nil
		return m
	case 2:
		delete(said, "component_access_token")
	case 3:
		said["component_access_token"] = t.secret.Reveal() + " "
	case 4:
		said["expires_in"] = -1
	case 5:
		said["expires_in"] = 1 << 40
	case 6:
		m.subject = preauth.SubjectFor(tokenTopic, "another")
	case 7:
		m.subject = preauth.SubjectFor(tokenTopic, "dotted.appid")
		delete(said, "component_appid")
	case 8:
		said["padding"] = strings.Repeat("x", preauth.MaxBody)
	case 9:
		said["expires_at"] = "0001-01-01T02:00:00Z" // Go's zero time and a life of two hours
	case 10:
		said["issued_at"] = "0500-01-01T00:00:00Z"
	}
	m.body = bytes.TrimSpace(said.encode())
	return m
}

// publish publishes an event: mostly again until the stream acknowledges it, sometimes only once.
func (w *Workload) publish(ctx context.Context, rng *rand.Rand, m message, hurry bool) {
	if hurry && rng.IntN(2) == 0 || rng.IntN(10) == 0 {
		w.send(ctx, m, false)
		return
	}
	for range 5 {
		if w.send(ctx, m, true).Status == history.OK || !about(ctx, rng, 200*time.Millisecond) {
			return
		}
	}
}

// newID returns an id for a message.
func newID() string { return nats.NewInbox()[len(nats.InboxPrefix):] }

// send publishes an event once, and waits for the stream's acknowledgement if acknowledged is set.
func (w *Workload) send(ctx context.Context, m message, acknowledged bool) history.Event {
	e := history.Event{
		Op: history.Publish, Client: "token service", AppID: m.appid, Begin: w.opts.Recorder.Now(),
		ID: newID(), Bad: m.bad, Token: history.HashOf(m.token.secret), Refused: m.token.refused, Life: m.life,
	}
	if !m.expiresAt.IsZero() {
		e.ExpiresAt = w.opts.Recorder.At(m.expiresAt)
	}
	return w.store(ctx, e, m.subject, m.body, acknowledged)
}

// store publishes a message for a stream once and records it as the event.
func (w *Workload) store(ctx context.Context, e history.Event, subject string, body []byte, acknowledged bool) history.Event {
	msg := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{history.IDHeader: {e.ID}}}
	if !acknowledged {
		_ = w.opts.Conn.PublishMsg(msg) // the stream shows whether it arrived
		return w.opts.Recorder.Add(e)
	}
	// The end of the run does not cut this short: the answer is evidence.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	if ack, err := w.js.PublishMsg(ctx, msg); err == nil {
		e.Status, e.Sequence = history.OK, ack.Sequence
	}
	return w.opts.Recorder.Add(e)
}
