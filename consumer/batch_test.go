package consumer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/wechat/wechattest"
)

// waiting is how many announcements wait in the outbox: more than fit into one batch.
const waiting = 300

// leaveWaiting commits codes of as many components and leaves their announcements in the outbox, as a replica does
// that dies right after COMMIT.
func (w *world) leaveWaiting() []preauth.Update {
	w.t.Helper()
	at := time.Now().UTC().Truncate(time.Microsecond).Add(-time.Minute)
	var outcomes []repo.Outcome
	for i := range waiting {
		outcomes = append(outcomes, repo.Outcome{
			AppID: fmt.Sprintf("wx%03d", i), Cause: preauth.CauseToken, At: at, DueAt: at.Add(time.Hour),
			Token: repo.Token{
				Position:    repo.Position{Stream: "COMPONENT_TOKENS", StreamCreated: at, Sequence: uint64(i + 1), Time: at},
				Fingerprint: repo.FingerprintOf(w.token(fmt.Sprint("of-", i))), ExpiresAt: at.Add(2 * time.Hour),
			},
			Code: &repo.Code{
				PreAuthCode: preauth.NewSecret(fmt.Sprintf("preauthcode@@@%024d", i)), IssuedAt: at, ExpiresAt: at.Add(30 * time.Minute),
			},
		})
	}
	results, err := w.openRepo().Save(w.t.Context(), outcomes)
	if err != nil {
		w.t.Fatal(err)
	}
	updates := make([]preauth.Update, len(results))
	for i, result := range results {
		updates[i] = *result.Announcement.Update
	}
	return updates
}

func TestTokensAnnouncedInABatch(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	r := w.start().ready()
	failures := w.failures()
	// Given a batch of events, one of which is none,
	event := func(appid, body string) *nats.Msg {
		return &nats.Msg{Subject: preauth.SubjectFor("component.token.updated", appid), Header: nats.Header{}, Data: []byte(body)}
	}
	var batch []*nats.Msg
	for i := range 60 {
		appid := fmt.Sprint("wx", i)
		batch = append(batch, event(appid, string(preauth.TokenEvent{AppID: appid, Token: w.token(appid)}.Encode())))
	}
	batch = append(batch, event("wx60", "{}"))
	// when the stream has taken it,
	if _, err := jetstreamext.PublishMsgBatch(w.within(), w.js, batch, jetstreamext.BatchFlowControl{}); err != nil {
		t.Fatal(err)
	}
	// then each of the others brings its component a code.
	for i := range 60 {
		w.settled(r, fmt.Sprint("wx", i))
	}
	if failure := next(w, failures); failure.AppID != "wx60" || failure.Class != preauth.ClassBadEvent {
		t.Errorf("failed: %+v", failure)
	}
	if n := w.wechat.Count(""); n != 60 {
		t.Errorf("%d calls", n)
	}
}

// streamOfUpdates creates the stream of announcements as the service would, but for one thing.
func (w *world) streamOfUpdates(batches bool) jetstream.Stream {
	w.t.Helper()
	stream, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{
		Name: "PREAUTH", Subjects: []string{"preauth.updated.*"}, MaxMsgsPerSubject: 1, FirstSeq: uint64(time.Now().UnixMicro()),
		AllowDirect: true, AllowAtomicPublish: batches, Duplicates: 2 * time.Minute,
		RePublish: &jetstream.RePublish{Source: "preauth.updated.*", Destination: "preauth.updated"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return stream
}

// announcedOnce checks that subscribers get each of the updates once, that the outbox is empty then, and that the
// stream has them; it returns how many of these came in a batch.
func (w *world) announcedOnce(updates []preauth.Update, got <-chan preauth.Update) (inBatches int) {
	w.t.Helper()
	seen := map[string]uint64{}
	for range updates {
		update := next(w, got)
		if _, again := seen[update.AppID]; again {
			w.t.Errorf("%s was announced again", update.AppID)
		}
		seen[update.AppID] = update.Revision
	}
	db := w.openRepo()
	w.eventually("the outbox is empty", func() bool {
		depth, _, err := db.OutboxDepth(w.t.Context())
		return err == nil && depth == 0
	})
	stream, err := w.js.Stream(w.within(), "PREAUTH")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, update := range updates {
		msg, err := stream.GetLastMsgForSubject(w.within(), preauth.SubjectFor("preauth.updated", update.AppID))
		if err != nil {
			w.t.Fatal(err)
		}
		if seen[update.AppID] != update.Revision {
			w.t.Errorf("%s: revision %d was announced, want %d", update.AppID, seen[update.AppID], update.Revision)
		}
		if stored, err := preauth.ParseUpdate(msg.Data); err != nil || stored.Revision != update.Revision || !stored.PreAuthCode.Equal(update.PreAuthCode) {
			w.t.Errorf("%s: the stream has revision %d: %v", update.AppID, stored.Revision, err)
		}
		if msg.Header.Get("Nats-Batch-Id") != "" {
			inBatches++
		}
	}
	if n := w.announcements(); n != uint64(len(updates)) {
		w.t.Errorf("the stream took %d messages for %d announcements", n, len(updates))
	}
	return inBatches
}

func TestAnnouncementsThatWaitArePublishedInBatches(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.start().ready()
	got := w.updates()
	updates := w.leaveWaiting()
	if n := w.announcedOnce(updates, got); n < waiting/2 {
		t.Errorf("%d of %d came in batches", n, waiting)
	}
}

func TestAnnouncementsFollowThoseOfABatch(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	line := &wire{}
	w.start(w.onWire(line)).ready()
	got := w.updates()
	updates := w.leaveWaiting()
	w.announcedOnce(updates, got)
	line.messages()
	for i := range 20 {
		w.announce(updates[i].AppID, w.token(fmt.Sprint("newer-", i)))
	}
	for range 20 {
		if update := next(w, got); update.Revision != 2 {
			t.Errorf("%s: revision %d follows revision 1", update.AppID, update.Revision)
		}
	}
	if slices.Contains(line.messages(), "read last update") {
		t.Error("the replica does not know which sequences the messages of a batch got")
	}
}

func TestStreamThatTakesNoBatches(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	w.streamOfUpdates(false)
	w.start().ready()
	got := w.updates()
	updates := w.leaveWaiting()
	if n := w.announcedOnce(updates, got); n != 0 {
		t.Errorf("%d came in batches", n)
	}
}

func TestRefusedBatchIsPublishedOneByOne(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	stream := w.streamOfUpdates(true)
	w.start().ready()
	// For two minutes the stream knows the message ids of some, though it has lost them.
	for _, appid := range []string{"wx003", "wx070", "wx290"} {
		_, err := w.js.Publish(w.within(), preauth.SubjectFor("preauth.updated", appid), nil,
			jetstream.WithMsgID(preauth.Update{AppID: appid, Revision: 1}.MessageID()))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Purge(w.within()); err != nil {
		t.Fatal(err)
	}
	purged := w.announcements()
	got := w.updates()
	seen := map[string]bool{}
	for range w.leaveWaiting() {
		seen[next(w, got).AppID] = true
	}
	if n := w.announcements() - purged; n != waiting || len(seen) != waiting {
		t.Errorf("the stream took %d messages, for %d components of %d", n, len(seen), waiting)
	}
	if !strings.Contains(w.log.String(), "announcing one by one") {
		t.Error("no batch was refused")
	}
}

func TestBatchThatIsCutOff(t *testing.T) {
	for _, message := range []string{"add to batch", "commit batch"} {
		for _, applied := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, applied %v", message, applied), func(t *testing.T) {
				w := newWorld(t, wechattest.Options{})
				line := &wire{}
				w.start(w.onWire(line)).ready()
				got, cut := w.updates(), line.cutAt(message, applied)
				updates := w.leaveWaiting()
				next(w, cut)
				w.announcedOnce(updates, got)
			})
		}
	}
}

// Each stream has a line of its own: failures that get no answer hold up no code.
func TestFailuresWithoutAnswerHoldUpNoUpdate(t *testing.T) {
	const failures = 40
	w := newWorld(t, wechattest.Options{})
	_, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{Name: "PREAUTH_FAILED", Subjects: []string{"preauth.failed.*"}, NoAck: true})
	if err != nil {
		t.Fatal(err)
	}
	line := &wire{}
	r := w.start(w.onWire(line)).ready()
	got := w.updates()
	for i := range failures {
		w.publish(preauth.SubjectFor("component.token.updated", fmt.Sprint("bad", i)), []byte("garbage"))
	}
	published, givenUp := 0, func() int { return strings.Count(w.log.String(), "not announced") }
	tries := 0
	// Where the machine is slow, some are given up meanwhile, which tells nothing, and published again.
	w.eventually("an update comes while each failure waits", func() bool {
		w.eventually("each failure is published", func() bool {
			for _, message := range line.messages() {
				if message == "publish failure" {
					published++
				}
			}
			return published-givenUp() >= failures
		})
		before := givenUp()
		w.announce("wx1", w.token("good"))
		tries++
		next(w, got)
		return givenUp() == before
	})
	r.await(consumer.StepCleared, "wx1", tries)
}
