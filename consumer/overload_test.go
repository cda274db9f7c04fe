package consumer_test

import (
	"fmt"
	"net"
	"net/url"
	"runtime"
	"slices"
	"testing"
	"time"

	"preauth"
	"preauth/repo/repotest"
	"preauth/wechat/wechattest"
)

// The service gets more look-ups, claims and events than it can serve, MySQL is slow and one
// subscriber reads nothing. Every request is answered: from memory as usual, or with 429 if there
// is no free slot. Events are processed, the service stays ready, and memory and goroutines stay
// bounded.
func TestOverload(t *testing.T) {
	const (
		components = 20
		rounds     = 4000 // of three requests each
		every      = 4    // rounds per event
		requests   = 16
		inFlight   = 32
		goroutines = 300 // measured: 120
		memory     = 48 << 20
	)
	w := newWorldAlone(t, mysql, wechattest.Options{})
	db, faults := w.faulty()
	r := w.start(func(s *setup) { s.db, s.cfg.Requests, s.cfg.InFlight = db, requests, inFlight }).ready()
	appid := func(i int) string { return fmt.Sprintf("wx%d", i%components) }
	for i := range components {
		w.announce(appid(i), w.token(fmt.Sprint("first-", i)))
		w.settled(r, appid(i))
	}
	w.deafSubscriber()
	slow := slices.Repeat([]repotest.Fault{{Before: func() { <-time.After(20 * time.Millisecond) }}}, 10_000)
	for _, operation := range []string{"components", "live_claim", "claim_new", "commit"} {
		faults.Script(operation, slow...)
	}
	defer faults.Reset()

	replies, err := w.nc.SubscribeSync(w.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := replies.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	before, peak := runtime.NumGoroutine(), watchMemory(t)
	most := 0
	newest := map[string]preauth.Secret{}
	for i := range rounds {
		for _, subject := range []string{
			preauth.SubjectFor("preauth.lookup", appid(i)),            // memory knows it
			preauth.SubjectFor("preauth.lookup", fmt.Sprint("no", i)), // MySQL may know it
			preauth.SubjectFor("preauth.claim", appid(i)),
		} {
			if err := w.nc.PublishRequest(subject, replies.Subject, nil); err != nil {
				t.Fatal(err)
			}
		}
		if i%every == 0 {
			announced := appid(i / every)
			newest[announced] = w.token(fmt.Sprint("newer-", i))
			w.announce(announced, newest[announced])
			most = max(most, runtime.NumGoroutine()-before)
			if i%100 == 0 {
				r.ready()
			}
		}
	}

	counts := map[int]int{}
	for range 3 * rounds {
		reply, err := replies.NextMsg(patience)
		if err != nil {
			t.Fatalf("%d requests, answers by code %v: %v", 3*rounds, counts, err)
		}
		if e := preauth.ParseError(reply.Header.Get, reply.Data); e != nil {
			counts[e.Code]++
		} else {
			counts[200]++
		}
	}
	t.Logf("answers by code: %v; peak: %d more goroutines, %d MiB", counts, most, peak()>>20)
	if counts[200] < rounds || counts[preauth.StatusTooMany] == 0 {
		t.Error("want every look-up that memory can answer to succeed, and some requests to be refused with 429")
	}
	for code, n := range counts {
		if !slices.Contains([]int{200, preauth.StatusNotFound, preauth.StatusTooMany}, code) {
			t.Errorf("%d answers with code %d", n, code)
		}
	}
	if most > goroutines {
		t.Errorf("%d more goroutines, want at most %d", most, goroutines)
	}
	if peak() > memory {
		t.Errorf("peak memory %d MiB, want at most %d", peak()>>20, memory>>20)
	}
	for appid, token := range newest {
		w.eventually("the newest token of "+appid+" is used", func() bool { return w.asked(appid, token) })
		w.settled(r, appid)
	}
}

// deafSubscriber subscribes to announcements and never reads one.
func (w *world) deafSubscriber() {
	w.t.Helper()
	server, err := url.Parse(w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := net.Dial("tcp", server.Host)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write([]byte("CONNECT {\"verbose\":false}\r\nSUB preauth.updated 1\r\nSUB preauth.updated.* 2\r\n")); err != nil {
		w.t.Fatal(err)
	}
}
