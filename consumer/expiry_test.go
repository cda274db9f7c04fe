package consumer_test

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// unrenewed keeps a code from being renewed after WeChat failed once.
func unrenewed(s *setup) { s.cfg.Delays.TransientMax, s.cfg.Delays.Transient = time.Hour, time.Hour }

// shortLived has a replica announce a code that lives for two seconds, and has WeChat give no other
// until the next token.
func (w *world) shortLived(r *replica, appid string) preauth.Update {
	w.t.Helper()
	w.wechat.Next(appid, wechattest.ExpiresIn("2"))
	w.announce(appid, w.token("short"))
	r.await(consumer.StepAnnounced, appid, 1)
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(-1, "") })
	update, _ := w.stored(appid)
	return update
}

// updateStream returns the stream of updates.
func (w *world) updateStream() jetstream.Stream {
	w.t.Helper()
	stream, err := w.js.Stream(w.within(), "PREAUTH")
	if err != nil {
		w.t.Fatal(err)
	}
	return stream
}

// leaves waits until the stream holds no update of a component.
func (w *world) leaves(appid string) {
	w.t.Helper()
	w.eventually("no update of "+appid, func() bool {
		_, err := w.updateStream().GetLastMsgForSubject(w.within(), "preauth.updated."+appid)
		return errors.Is(err, jetstream.ErrMsgNotFound)
	})
}

// storedTTL returns how long the stream keeps the last update of a component, "" for ever.
func (w *world) storedTTL(appid string) string {
	w.t.Helper()
	msg, err := w.updateStream().GetLastMsgForSubject(w.within(), "preauth.updated."+appid)
	if err != nil {
		w.t.Fatal(err)
	}
	return msg.Header.Get(jetstream.MsgTTLHeader)
}

// An expired code leaves the stream. That is no loss that has to be made good, and the next code is
// announced though the message that it was meant to follow is gone.
func TestExpiredCodeLeavesTheStream(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(unrenewed).ready()
	updates := w.updates()
	first := w.shortLived(r, "wx1")
	w.leaves("wx1")
	if now := time.Now(); now.Before(first.ExpiresAt) {
		t.Errorf("it left %v before its end", first.ExpiresAt.Sub(now))
	}
	w.wechat.Every(nil)
	w.announce("wx1", w.token("next"))
	if last := w.settled(r, "wx1"); last.Revision != 2 {
		t.Errorf("revision %d", last.Revision)
	}
	if one, two := next(w, updates), next(w, updates); one.Revision != 1 || two.Revision != 2 {
		t.Errorf("announced were revisions %d and %d", one.Revision, two.Revision)
	}
	if ttl := w.storedTTL("wx1"); ttl != "30m0s" {
		t.Errorf("the stream keeps it for %q", ttl)
	}
}

// The word that a code is spent stays for a minute.
func TestSpentCodeLeavesTheStreamLater(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(unrenewed).ready()
	w.announce("wx1", w.token("a"))
	code := w.settled(r, "wx1").PreAuthCode
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(-1, "") })
	w.authorize("wx1", code, "wxa")
	w.eventually("announced as spent", func() bool { update, ok := w.stored("wx1"); return ok && update.Spent })
	if ttl := w.storedTTL("wx1"); ttl != "1m0s" {
		t.Errorf("the stream keeps it for %q", ttl)
	}
}

// The stream lets go of an update while the next one is on its way, which is meant to follow it.
func TestUpdateLeavesWhileTheNextIsOnItsWay(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	way := &line{}
	r := w.start(unrenewed, w.onLine(way)).ready()
	w.shortLived(r, "wx1")
	w.wechat.Every(nil)
	stalled := way.stallAt("HPUB preauth.updated.wx1 ")
	defer stalled.release()
	w.announce("wx1", w.token("next"))
	next(w, stalled.reached)
	w.leaves("wx1")
	stalled.release()
	if last := w.settled(r, "wx1"); last.Revision != 2 {
		t.Errorf("revision %d", last.Revision)
	}
	// That there is no last message is no failure, which the next look at the outbox would make up for.
	if strings.Contains(w.log.String(), jetstream.ErrMsgNotFound.Error()) {
		t.Error("the update was left to the outbox")
	}
}

// An update arrives so late that the one after it has come and has left again. The stream takes it.
// The replicas see that and publish the newer one again, which leaves at once.
func TestLateUpdateIsNotTheLastWord(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(unrenewed).ready()
	w.announce("wx1", w.token("a"))
	w.settled(r, "wx1")
	first, err := w.updateStream().GetLastMsgForSubject(w.within(), "preauth.updated.wx1")
	if err != nil {
		t.Fatal(err)
	}
	w.wechat.Next("wx1", wechattest.ExpiresIn("2"))
	w.announce("wx1", w.token("b"))
	r.await(consumer.StepAnnounced, "wx1", 2)
	w.wechat.Every(func(wechattest.Call) wechattest.Fault { return wechattest.Error(-1, "") })
	w.leaves("wx1")

	updates := w.updates()
	// Without its id, which the stream knows, since it took the update in time, too.
	late := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(0), jetstream.WithMsgTTL(30 * time.Minute)}
	if _, err := w.js.Publish(w.within(), first.Subject, first.Data, late...); err != nil {
		t.Fatal(err)
	}
	for revision := range uint64(2) {
		if update := next(w, updates); update.Revision != revision+1 {
			t.Fatalf("revision %d arrived, not %d", update.Revision, revision+1)
		}
	}
	w.leaves("wx1")
	r.ready()
}

// forgetful is a way to NATS on which the fields for TTLs have names that no server knows.
type forgetful struct{}

func (forgetful) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return forgetfulConn{conn}, err
}

type forgetfulConn struct{ net.Conn }

func (c forgetfulConn) Write(b []byte) (int, error) {
	b = bytes.ReplaceAll(b, []byte(`"allow_msg_ttl"`), []byte(`"allow_msg_ttX"`))
	return c.Conn.Write(bytes.ReplaceAll(b, []byte(`"subject_delete_marker_ttl"`), []byte(`"subject_delete_marker_ttX"`)))
}

// nats-server before 2.11 knows no TTLs of messages.
func TestServerThatDoesNotKnowTTLs(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start(withBucket, func(s *setup) { s.nc = w.connect(nats.SetCustomDialer(forgetful{})) })
	w.works(r)
	if w.updateStream().CachedInfo().Config.AllowMsgTTL {
		t.Error("the stream takes TTLs")
	}
	if ttl := w.storedTTL("wx1"); ttl != "" {
		t.Errorf("an update has the TTL %s", ttl)
	}
	w.cached("wx1", w.settled(r, "wx1").Revision)
}

// A stream that an older release has made is used as it is, and the log says what it lacks. Once the
// operator has changed it, codes leave it.
func TestStreamOfAnOlderReleaseHasNoTTLs(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	config := jetstream.StreamConfig{
		Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, MaxMsgsPerSubject: 1, FirstSeq: 1000, AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: "preauth.updated.*", Destination: "preauth.updated"},
	}
	if _, err := w.js.CreateStream(w.within(), config); err != nil {
		t.Fatal(err)
	}
	r := w.start(unrenewed).ready()
	first := w.shortLived(r, "wx1")
	if ttl := w.storedTTL("wx1"); ttl != "" {
		t.Errorf("an update has the TTL %s", ttl)
	}
	if config := w.updateStream().CachedInfo().Config; config.AllowMsgTTL {
		t.Error("the stream was changed")
	}
	if !strings.Contains(w.log.String(), "set allow_msg_ttl to true") {
		t.Error("the log does not say what the stream lacks")
	}
	w.eventually("dead", func() bool { return time.Now().After(first.ExpiresAt) })
	if update, ok := w.stored("wx1"); !ok || update.Revision != 1 {
		t.Errorf("the stream lost revision 1, it has %d", update.Revision)
	}
	r.ready()

	config.AllowMsgTTL = true
	if _, err := w.js.UpdateStream(w.within(), config); err != nil {
		t.Fatal(err)
	}
	w.wechat.Every(nil)
	token := 0
	w.eventually("updates have TTLs", func() bool {
		token++
		w.announce("wx1", w.token("next"))
		r.await(consumer.StepAnnounced, "wx1", 1+token)
		return w.storedTTL("wx1") != ""
	})
}
