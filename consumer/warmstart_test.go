package consumer_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/wechat/wechattest"
)

// If a consumer has several filters, nats-server may walk all subjects of the stream for each
// message. The time of a start would then grow with the square of the number of components.
func TestConsumersHaveOneFilterAtMost(t *testing.T) {
	for _, test := range []struct {
		name     string
		subjects []string
		filter   string
	}{
		{"the service's own stream", []string{"component.token.updated", "component.token.updated.>"}, ""},
		{"one form only", []string{"component.token.updated.*"}, ""},
		{"one form and other subjects", []string{"component.token.updated", "orders.>"}, "component.token.updated"},
		{"more than tokens", []string{"component.>"}, "component.token.>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, wechattest.Options{})
			stream, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{Name: "COMPONENT_TOKENS", Subjects: test.subjects})
			if err != nil {
				t.Fatal(err)
			}
			w.start().ready()
			consumers := stream.ListConsumers(w.within())
			n := 0
			for info := range consumers.Info() {
				n++
				want := test.filter
				if strings.HasPrefix(info.Name, "preauth-authorized-") { // of a stream that takes authorizations too
					want = "component.>"
				}
				if got := strings.Join(append(info.Config.FilterSubjects, info.Config.FilterSubject), ""); got != want {
					t.Errorf("consumer %s has the filter %q, want %q", info.Name, got, want)
				}
			}
			if err := consumers.Err(); err != nil {
				t.Fatal(err)
			}
			if n < 2 {
				t.Errorf("%d consumers of the token stream, want the shared durable and the replica's reader", n)
			}
		})
	}
}

// A start takes the same time with either form of the token subject, and on a stream that takes
// other subjects too. With two filters per consumer, the form with the appid took a hundred times
// as long.
func TestStartTakesTheSameTimeWithBothSubjects(t *testing.T) {
	if testing.Short() {
		t.Skip("publishes 60,000 events")
	}
	const components, events = 10_000, 20_000
	flat := func(string) string { return "component.token.updated" }
	each := func(appid string) string { return preauth.SubjectFor("component.token.updated", appid) }
	own := []string{"component.token.updated", "component.token.updated.>"}
	took := map[string]time.Duration{}
	for _, form := range []struct {
		name     string
		subject  func(appid string) string
		subjects []string // of the stream
	}{
		{"flat", flat, own},
		{"per component", each, own},
		{"per component, stream of another owner", each, []string{"component.>"}},
	} {
		t.Run(form.name, func(t *testing.T) {
			w := newWorldAlone(t, mysql, wechattest.Options{})
			if _, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{Name: "COMPONENT_TOKENS", Subjects: form.subjects}); err != nil {
				t.Fatal(err)
			}
			w.publishAcknowledged(components, events, form.subject)
			took[form.name] = time.Hour
			for range 2 { // take the faster of two, since the machine may be busy
				begin := time.Now()
				r := w.start().ready()
				took[form.name] = min(took[form.name], time.Since(begin))
				r.stop()
			}
		})
	}
	t.Logf("%v", took)
	for name, duration := range took {
		if first, ok := took["flat"]; ok && duration > 5*first+time.Second {
			t.Errorf("%s: a start takes %v, but %v with one subject for all components", name, duration, first)
		}
	}
}

// publishAcknowledged fills the token stream with events that the shared consumer has acknowledged.
func (w *world) publishAcknowledged(components, events int, subject func(appid string) string) {
	w.t.Helper()
	js, err := jetstream.New(w.nc, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range events {
		appid := fmt.Sprintf("wx%06d", i%components)
		body := preauth.TokenEvent{AppID: appid, Token: preauth.NewSecret(fmt.Sprintf("token-%d", i))}.Encode()
		if _, err := js.PublishAsync(subject(appid), body, jetstream.WithStallWait(patience)); err != nil {
			w.t.Fatal(err)
		}
	}
	next(w, js.PublishAsyncComplete())

	stream, err := w.js.Stream(w.within(), "COMPONENT_TOKENS")
	if err != nil {
		w.t.Fatal(err)
	}
	cons, err := stream.CreateConsumer(w.within(), jetstream.ConsumerConfig{
		Durable: fmt.Sprintf("preauth-%d", stream.CachedInfo().Created.UnixMicro()), AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	reading, err := cons.Consume(func(msg jetstream.Msg) { _ = msg.Ack() }, jetstream.PullMaxMessages(1000))
	if err != nil {
		w.t.Fatal(err)
	}
	defer reading.Stop()
	w.acknowledged()
}
