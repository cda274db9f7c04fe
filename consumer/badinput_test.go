package consumer_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// badEvents returns messages on the token subjects that break the contract. Where a token would be,
// each carries marker, which must never be repeated.
func badEvents(marker string) []*nats.Msg {
	const flat = "component.token.updated"
	good := func(members string) string {
		return `{"component_appid":"wx1","component_access_token":"` + marker + `"` + members + `}`
	}
	var events []*nats.Msg
	add := func(subject string, header nats.Header, bodies ...string) {
		for _, body := range bodies {
			events = append(events, &nats.Msg{Subject: subject, Header: header, Data: []byte(body)})
		}
	}
	add(flat, nil,
		"", " ", marker, `"`+marker+`"`, "null", "[]", "7200", "{", "{}{}", good("")+"x", good("")+good(""), "\xff\xfe{\x00}\x00", "\ufeff"+good(""), good("")+"\x00",
		good("")[:30], `{"component_access_token":"`+marker+`"}`, `{"component_appid":"wx1"}`, `{"component_appid":1,"component_access_token":"`+marker+`"}`,
		good(`,"component_appid":"wx1"`), good(`,"component_access_token":"other"`), good(`,"expires_in":1,"expires_in":2`),
		good(`,"expires_in":0`), good(`,"expires_in":-1`), good(`,"expires_in":86401`), good(`,"expires_in":1e3`), good(`,"expires_in":0.5`), good(`,"expires_in":1e400`),
		good(`,"expires_in":9223372036854775808`), good(`,"expires_in":`+strings.Repeat("9", 5000)), good(`,"expires_in":NaN`), good(`,"expires_in":"7200"`),
		good(`,"expires_at":"2026-02-30T00:00:00Z"`), good(`,"expires_at":"9999-12-31T23:59:59Z"`), good(`,"expires_at":"10000-01-01T00:00:00Z"`), good(`,"issued_at":1773480413`),
		good(`,"issued_at":"2026-03-14T09:00:00Z","expires_at":"2026-03-14T09:00:00Z"`),
		"{\"component_appid\":\"wx1\",\"component_access_token\":\""+marker+"\xff\"}", `{"component_appid":"wx1","component_access_token":"`+marker+`\u0000"}`,
		`{"component_appid":"wx1","component_access_token":"`+marker+` `+marker+`"}`, `{"component_appid":"wx1","component_access_token":"`+marker+`\ud800"}`,
		`{"component_appid":"wx1","component_access_token":"`+marker+strings.Repeat("x", preauth.MaxToken)+`"}`,
		good(`,"x":`+strings.Repeat("[", 20_000)), good(`,"x":`+strings.Repeat(`{"x":`, 12_000)+`0`+strings.Repeat("}", 12_000)), good(`,"x":"`+strings.Repeat("x", preauth.MaxBody)+`"`),
	)
	for _, appid := range []string{".", "a.b", "*", ">", "a.>", "$SYS", "_INBOX.x", "-a", " ", "wx1 ", "wx\\u0000", "wx\\u200b", "预授权", "ｗｘ1", "wx1\\r\\nPUB x 0\\r\\n", marker + strings.Repeat("x", 60)} {
		add(flat, nil, `{"component_appid":"`+appid+`","component_access_token":"`+marker+`"}`)
	}
	add(flat+".wx1.more", nil, good(""))
	add(flat+".wx2", nil, good(""))
	add(flat+".预授权", nil, `{"component_access_token":"`+marker+`"}`)
	add(flat+"."+strings.Repeat("x", 65), nil, `{"component_access_token":"`+marker+`"}`)
	add(flat, nats.Header{"ce-specversion": {"2.0"}}, good(""))
	add(flat, nats.Header{"CE-SpecVersion": {"1.0", "1.0"}}, good(""))
	add(flat, nats.Header{"Content-Type": {"application/cloudevents-batch+json"}}, "["+good("")+"]")
	add(flat, nats.Header{"Content-Type": {"application/cloudevents+json"}},
		good(""), `{"specversion":"1.0"}`, `{"specversion":"0.3","data":`+good("")+`}`, `{"specversion":"1.0","data":"`+marker+`"}`,
		`{"specversion":"1.0","data_base64":"`+marker+`%"}`, `{"specversion":"1.0","data":`+good("")+`,"data_base64":""}`, `{"specversion":"1.0","specversion":"1.0","data":`+good("")+`}`,
	)
	return events
}

// Good events get their codes however many bad events are published between them. Each bad event is
// recorded once with its stream sequence and without its body.
func TestBadEventsDoNotAffectGoodOnes(t *testing.T) {
	const (
		components = 5
		huge       = 150 // of nearly a megabyte each
		limit      = 80 << 20
	)
	w := newWorldAlone(t, mysql, wechattest.Options{})
	r := w.start(func(s *setup) { s.cfg.InFlight = 16 }).ready()
	marker := w.token("marker").Reveal()
	bad, padding := badEvents(marker), bytes.Repeat([]byte(marker), (1<<20-1000)/len(marker))
	for range huge {
		bad = append(bad, &nats.Msg{Subject: "component.token.updated.wx1", Data: padding})
	}
	tokens := make([]preauth.Secret, len(bad)/5+1)
	for i := range tokens {
		tokens[i] = w.token("good")
	}
	failures := w.failures()
	publish := func(msg *nats.Msg) uint64 {
		t.Helper()
		ack, err := w.js.PublishMsg(w.within(), msg)
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}

	peak := watchMemory(t)
	unseen := map[uint64]string{}
	newest := map[string]preauth.Secret{}
	for i, msg := range bad {
		unseen[publish(msg)] = fmt.Sprintf("%s %v %.60q", msg.Subject, msg.Header, msg.Data)
		if i%5 == 0 {
			appid := fmt.Sprintf("wx%d", i/5%components)
			newest[appid] = tokens[i/5]
			w.announce(appid, newest[appid])
		}
	}
	for len(unseen) > 0 {
		failure := next(w, failures)
		what, ok := unseen[failure.StreamSequence]
		if !ok || failure.Class != preauth.ClassBadEvent || failure.Stream != "COMPONENT_TOKENS" || !failure.RetryAt.IsZero() {
			t.Fatalf("failure for no bad event, or for one already seen: %+v", failure)
		}
		if len(failure.Encode()) > 1000 || failure.ErrMsg == "" || strings.ContainsAny(failure.ErrMsg, "\r\n\x00") {
			t.Errorf("%s: malformed failure %s", what, failure.Encode())
		}
		if failure.AppID != "" && preauth.CheckAppID(failure.AppID) != nil {
			t.Errorf("%s: the failure names the invalid appid %q", what, failure.AppID)
		}
		delete(unseen, failure.StreamSequence)
	}
	w.acknowledged()
	for appid, token := range newest {
		w.eventually("the newest token of "+appid+" is used", func() bool { return w.asked(appid, token) })
		w.settled(r, appid)
	}
	used := peak()
	t.Logf("%d bad events, %d good events, peak memory %d MiB", len(bad), len(tokens), used>>20)
	if used > limit {
		t.Errorf("peak memory %d MiB, want at most %d", used>>20, limit>>20)
	}
	if n := r.stepsOf(consumer.StepFailed, ""); n < 10 {
		t.Errorf("%d failures without a component, want at least 10", n)
	}
}

// watchMemory samples the heap in use. The returned function stops sampling and returns the peak in
// bytes. Memory of the NATS server is not counted, since only tests run it in this process.
func watchMemory(t *testing.T) (peak func() int64) {
	t.Helper()
	inUse := func() (total int64) {
		records := make([]runtime.MemProfileRecord, 10_000)
		n, ok := runtime.MemProfile(records, false)
		if !ok {
			t.Error("the memory profile has more than 10,000 records")
		}
		for _, record := range records[:min(n, len(records))] {
			ofServer := false
			for frames := runtime.CallersFrames(record.Stack()); ; {
				frame, more := frames.Next()
				ofServer = ofServer || strings.Contains(frame.Function, "nats-server")
				if !more {
					break
				}
			}
			if !ofServer {
				total += record.InUseBytes()
			}
		}
		return total
	}
	var highest int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				highest = max(highest, inUse())
			case <-stop:
				return
			}
		}
	}()
	end := sync.OnceFunc(func() { close(stop); <-done })
	t.Cleanup(end)
	return func() int64 {
		end()
		return highest
	}
}

// Unusual but valid input works: appids that differ only in case, a stream name of maximum length
// with quotes, a token of maximum length that is not ASCII.
func TestUnusualInputsWork(t *testing.T) {
	w := newWorld(t, wechattest.Options{})
	name := "TOKENS'\"`" + strings.Repeat("t", 246) // of 255 characters, another owner's
	if _, err := w.js.CreateStream(w.within(), jetstream.StreamConfig{Name: name, Subjects: []string{"component.token.>"}}); err != nil {
		t.Fatal(err)
	}
	r := w.start().ready()
	long := preauth.NewSecret(strings.Repeat("令牌é", preauth.MaxToken/8)) // of 8 bytes each
	w.tokens = append(w.tokens, long)
	codes := map[string]preauth.Secret{}
	for appid, token := range map[string]preauth.Secret{"wxA": w.token("A"), "wxa": w.token("a"), "wxlong": long} {
		w.announce(appid, token)
		r.await(consumer.StepCleared, appid, 1)
		if !w.asked(appid, token) {
			t.Errorf("WeChat was not asked for %s with its token", appid)
		}
		got, err := w.lookup(preauth.LookupRequest{AppID: appid})
		if err != nil || got.AppID != appid {
			t.Errorf("%s: the look-up returned %s, %v", appid, got.AppID, err)
		}
		codes[appid] = got.PreAuthCode
	}
	if codes["wxA"].Equal(codes["wxa"]) {
		t.Error("two components whose appids differ only in case share a code")
	}
}
