package preauth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/internal/natsserver"
)

// connect starts a NATS server for one test and returns a connection to it.
func connect(t *testing.T) *nats.Conn {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	nc, err := nats.Connect(server.URL(), nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func newClient(t *testing.T, nc *nats.Conn) *preauth.Client {
	t.Helper()
	client, err := preauth.NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// stream creates a stream and returns it.
func stream(t *testing.T, nc *nats.Conn, config jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	created, err := js.CreateStream(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// patience bounds waits for what must happen. It is generous, so that slow machines pass.
const patience = 2 * time.Minute

// receive waits for a value.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestAnnounceIsStoredByTheStream(t *testing.T) {
	nc := connect(t)
	tokens := stream(t, nc, jetstream.StreamConfig{Name: "TOKENS", Subjects: []string{"component.token.updated.>"}})
	event := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token), IssuedAt: at, ExpiresAt: at.Add(time.Hour)}

	if err := newClient(t, nc).Announce(t.Context(), event); err != nil {
		t.Fatal(err)
	}

	stored, err := tokens.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	named := preauth.AppIDFromSubject("component.token.updated", stored.Subject)
	got, err := preauth.ParseTokenEvent(named, stored.Header, stored.Data, at.Add(time.Minute))
	if err != nil || named != appID || !reflect.DeepEqual(got, event) {
		t.Errorf("on %s: got %+v, %v", stored.Subject, got, err)
	}
}

func TestAnnounceRefusesWhatTheServiceWould(t *testing.T) {
	nc := connect(t)
	tokens := stream(t, nc, jetstream.StreamConfig{Name: "TOKENS", Subjects: []string{"component.token.updated.>"}})
	client := newClient(t, nc)
	bad := map[string]preauth.TokenEvent{
		"64 letters, digits":                {AppID: ">", Token: preauth.NewSecret(token)},
		"component_access_token is missing": {AppID: appID},
		"without white space":               {AppID: appID, Token: preauth.NewSecret(token + "\n")},
		"expires_at must give": {
			AppID: appID, Token: preauth.NewSecret(token), IssuedAt: at, ExpiresAt: at.Add(48 * time.Hour),
		},
	}
	for says, event := range bad {
		checkRefused(t, client.Announce(t.Context(), event), says)
	}
	info, err := tokens.Info(t.Context())
	if err != nil || info.State.Msgs != 0 {
		t.Errorf("%d events were stored, %v", info.State.Msgs, err)
	}
}

func TestAnnounceFails(t *testing.T) {
	event := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token)}
	check := func(t *testing.T, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || errors.Is(err, preauth.ErrInvalid) || strings.Contains(err.Error(), marker) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	t.Run("when no stream keeps tokens", func(t *testing.T) {
		check(t, newClient(t, connect(t)).Announce(t.Context(), event), jetstream.ErrNoStreamResponse)
	})
	t.Run("when the context ends first", func(t *testing.T) {
		nc := connect(t)
		if _, err := nc.SubscribeSync("component.token.updated.>"); err != nil { // receives it and never acknowledges
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		check(t, newClient(t, nc).Announce(ctx, event), context.Canceled)
	})
	t.Run("when the connection is closed", func(t *testing.T) {
		nc := connect(t)
		client := newClient(t, nc)
		nc.Close()
		check(t, client.Announce(t.Context(), event), nats.ErrConnectionClosed)
	})
}

// serve answers look-ups as the service does, as a micro service on "preauth.lookup.>".
func serve(t *testing.T, nc *nats.Conn, answer func(preauth.LookupRequest) (preauth.Lookup, *preauth.Error)) {
	t.Helper()
	service, err := micro.AddService(nc, micro.Config{Name: "preauth", Version: "0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	handle := func(r micro.Request) {
		request, err := preauth.ParseLookupRequest(preauth.AppIDFromSubject("preauth.lookup", r.Subject()), r.Data())
		if err != nil {
			t.Errorf("the client sent a bad request: %v", err)
		}
		lookup, failed := answer(request)
		if failed != nil {
			err = r.Error(strconv.Itoa(failed.Code), failed.Message, failed.Encode())
		} else {
			err = r.Respond(lookup.Encode())
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := service.AddEndpoint("lookup", micro.HandlerFunc(handle), micro.WithEndpointSubject("preauth.lookup.>")); err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	nc := connect(t)
	requests := make(chan preauth.LookupRequest, 1)
	serve(t, nc, func(r preauth.LookupRequest) (preauth.Lookup, *preauth.Error) {
		requests <- r
		return aLookup(), nil
	})
	request := preauth.LookupRequest{
		AppID: appID, MinTTL: time.Minute, MinRevision: 7, LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/"},
	}

	got, err := newClient(t, nc).Lookup(t.Context(), request)

	if want := aLookup(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if sent := receive(t, requests); sent != request {
		t.Errorf("the service got %+v, want %+v", sent, request)
	}
}

func TestLookupAnsweredWithAnError(t *testing.T) {
	nc := connect(t)
	want := &preauth.Error{
		Code: preauth.StatusUnavailable, Message: "no valid code", Class: preauth.ClassQuota, ErrCode: 45009,
		ErrMsg: "reach max api daily quota limit", RID: "62ea13fb", RetryAt: at,
	}
	serve(t, nc, func(preauth.LookupRequest) (preauth.Lookup, *preauth.Error) { return preauth.Lookup{}, want })

	got, err := newClient(t, nc).Lookup(t.Context(), preauth.LookupRequest{AppID: appID})

	if failed, ok := errors.AsType[*preauth.Error](err); !ok || !reflect.DeepEqual(failed, want) {
		t.Errorf("got %#v, want %#v", err, want)
	}
	if !reflect.DeepEqual(got, preauth.Lookup{}) {
		t.Error("something was returned beside the error")
	}
}

func TestLookupRefusesWhatTheServiceWould(t *testing.T) {
	nc := connect(t)
	serve(t, nc, func(preauth.LookupRequest) (preauth.Lookup, *preauth.Error) {
		t.Error("the request was sent")
		return aLookup(), nil
	})
	client := newClient(t, nc)
	bad := map[string]preauth.LookupRequest{
		"name the component":                    {},
		"64 letters, digits":                    {AppID: "*"},
		"min_ttl must be 0 to 86400 seconds":    {AppID: appID, MinTTL: -time.Second},
		"min_ttl must be 0 to 86400":            {AppID: appID, MinTTL: 1<<63 - 1},
		"auth_type must be one of":              {AppID: appID, LinkOptions: preauth.LinkOptions{AuthType: 7}},
		"biz_appid must be the appid":           {AppID: appID, LinkOptions: preauth.LinkOptions{BizAppID: marker + "&"}},
		"redirect_uri must be an absolute http": {AppID: appID, LinkOptions: preauth.LinkOptions{RedirectURI: "/" + marker}},
	}
	for says, request := range bad {
		_, err := client.Lookup(t.Context(), request)
		checkRefused(t, err, says)
	}
}

func TestLookupFails(t *testing.T) {
	request := preauth.LookupRequest{AppID: appID}
	t.Run("when no service runs", func(t *testing.T) {
		if _, err := newClient(t, connect(t)).Lookup(t.Context(), request); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when no answer comes in time", func(t *testing.T) {
		nc := connect(t)
		if _, err := nc.SubscribeSync("preauth.lookup.>"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := newClient(t, nc).Lookup(ctx, request); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the answer is malformed", func(t *testing.T) {
		nc := connect(t)
		_, err := nc.Subscribe("preauth.lookup.>", func(m *nats.Msg) { _ = m.Respond([]byte(`{"pre_auth_code":"` + code)) })
		if err != nil {
			t.Fatal(err)
		}
		_, err = newClient(t, nc).Lookup(t.Context(), request)
		checkRefused(t, err, "truncated JSON")
	})
	t.Run("when the answer is about another component", func(t *testing.T) {
		nc := connect(t)
		serve(t, nc, func(preauth.LookupRequest) (preauth.Lookup, *preauth.Error) { return aLookup(), nil })
		_, err := newClient(t, nc).Lookup(t.Context(), preauth.LookupRequest{AppID: "wx1"})
		checkRefused(t, err, "about another component")
	})
}

// A replica may die with a request. The request ends even if the caller set no deadline, and not
// before the deadline that the caller did set.
func TestRequestWithoutADeadlineEnds(t *testing.T) {
	nc := connect(t)
	client := newClient(t, nc)
	lookups, questions := make(chan *nats.Msg, 4), make(chan *nats.Msg, 1)
	for subject, requests := range map[string]chan *nats.Msg{"preauth.lookup.*": lookups, "$SRV.STATS." + preauth.ServiceName: questions} {
		if _, err := nc.ChanSubscribe(subject, requests); err != nil {
			t.Fatal(err)
		}
	}
	patient, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answered := make(chan error, 2)
	go func() {
		_, err := client.Lookup(patient, preauth.LookupRequest{AppID: appID})
		answered <- err
	}()
	go func() {
		_, err := client.Replicas(patient)
		answered <- err
	}()
	lookup, question := receive(t, lookups), receive(t, questions)
	ended := make(chan error, 1)
	go func() {
		_, err := client.Lookup(context.Background(), preauth.LookupRequest{AppID: appID})
		ended <- err
	}()
	if err := receive(t, ended); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	for request, body := range map[*nats.Msg][]byte{lookup: aLookup().Encode(), question: []byte(`{}`)} {
		if err := request.Respond(body); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, answered); err != nil {
			t.Errorf("within the caller's deadline: %v", err)
		}
	}
}

// A replica may die with a request. What is safe to repeat is sent again, and the answer to either
// request will do.
func TestRequestIsRepeated(t *testing.T) {
	claim := preauth.ClaimRequest{AppID: appID, ClaimID: "visit-17"}
	requests := map[string]struct {
		do     func(context.Context, *preauth.Client) (any, error)
		answer []byte
		want   any
	}{
		"lookup": {func(ctx context.Context, c *preauth.Client) (any, error) {
			return c.Lookup(ctx, preauth.LookupRequest{AppID: appID})
		}, aLookup().Encode(), aLookup()},
		"claim": {func(ctx context.Context, c *preauth.Client) (any, error) { return c.Claim(ctx, claim) }, aClaim().Encode(), aClaim()},
		"resolve": {func(ctx context.Context, c *preauth.Client) (any, error) {
			return c.Resolve(ctx, preauth.NewSecret(code))
		}, aResolved().Encode(), aResolved()},
	}
	refusal := func(message string) *nats.Msg {
		header, body := answerOf(&preauth.Error{Code: preauth.StatusTooMany, Message: message})
		return &nats.Msg{Header: header, Data: body}
	}
	for operation, request := range requests {
		served := &nats.Msg{Data: request.answer}
		for name, test := range map[string]struct {
			answers [2]*nats.Msg // to the first request and to the second one
			order   []int
			want    any
			says    string
		}{
			"the first is never answered":                {[2]*nats.Msg{nil, served}, []int{1}, request.want, "<nil>"},
			"the second is never answered":               {[2]*nats.Msg{served, nil}, []int{0}, request.want, "<nil>"},
			"the second is refused before":               {[2]*nats.Msg{served, refusal("second")}, []int{1, 0}, request.want, "<nil>"},
			"the first is refused before":                {[2]*nats.Msg{refusal("first"), served}, []int{0, 1}, request.want, "<nil>"},
			"both are refused":                           {[2]*nats.Msg{refusal("first"), refusal("second")}, []int{1, 0}, nil, "429"},
			"one is refused, and the other not answered": {[2]*nats.Msg{nil, refusal("second")}, []int{1}, nil, "429"},
		} {
			t.Run(operation+": "+name, func(t *testing.T) {
				t.Parallel()
				nc := connect(t)
				sent := make(chan *nats.Msg, 3)
				if _, err := nc.ChanSubscribe("preauth."+operation+".>", sent); err != nil {
					t.Fatal(err)
				}
				if _, err := nc.ChanSubscribe("preauth."+operation, sent); err != nil {
					t.Fatal(err)
				}
				type outcome struct {
					got any
					err error
				}
				outcomes := make(chan outcome, 1)
				go func() {
					got, err := request.do(t.Context(), newClient(t, nc))
					outcomes <- outcome{got, err}
				}()
				both := []*nats.Msg{receive(t, sent), receive(t, sent)}
				if !bytes.Equal(both[0].Data, both[1].Data) || both[0].Subject != both[1].Subject {
					t.Error("the second request is another one")
				}
				for _, i := range test.order {
					answer := test.answers[i]
					if err := both[i].RespondMsg(&nats.Msg{Header: answer.Header, Data: answer.Data}); err != nil {
						t.Fatal(err)
					}
				}
				o := receive(t, outcomes)
				if !strings.Contains(fmt.Sprint(o.err), test.says) || o.err == nil && !reflect.DeepEqual(o.got, test.want) {
					t.Errorf("got %+v, %v; want %s", o.got, o.err, test.says)
				}
				if len(sent) > 0 {
					t.Error("it was sent a third time")
				}
			})
		}
	}
}

// A second request would use up another code, or another of WeChat's calls.
func TestRequestThatIsNotSafeToRepeatIsSentOnce(t *testing.T) {
	for subject, do := range map[string]func(context.Context, *preauth.Client) error{
		"preauth.claim." + appID: func(ctx context.Context, c *preauth.Client) error {
			_, err := c.Claim(ctx, preauth.ClaimRequest{AppID: appID})
			return err
		},
		"preauth.renew." + appID: func(ctx context.Context, c *preauth.Client) error {
			_, err := c.Renew(ctx, appID)
			return err
		},
	} {
		t.Run(subject, func(t *testing.T) {
			t.Parallel()
			nc := connect(t)
			sent := make(chan *nats.Msg, 3)
			if _, err := nc.ChanSubscribe(subject, sent); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := do(ctx, newClient(t, nc)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ended with %v", err)
			}
			if len(sent) != 1 {
				t.Errorf("sent %d times", len(sent))
			}
		})
	}
}

// The service may have to call WeChat before it answers.
func TestRequestMayTakeAMoment(t *testing.T) {
	nc := connect(t)
	_, err := nc.Subscribe("preauth.lookup.*", func(m *nats.Msg) {
		<-time.After(200 * time.Millisecond)
		_ = m.Respond(aLookup().Encode())
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, nc).Lookup(context.Background(), preauth.LookupRequest{AppID: appID}); err != nil {
		t.Error(err)
	}
}

// An ExpiresAt alone is too far away or not depending on the clock.
func TestAnnounceLooksAtTheClock(t *testing.T) {
	client := newClient(t, connect(t))
	event := preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token), ExpiresAt: time.Now().Add(48 * time.Hour)}
	if err := client.Announce(t.Context(), event); !errors.Is(err, preauth.ErrInvalid) {
		t.Errorf("a life of two days: %v", err)
	}
}

// The NATS server copies announcements to the flat subject, to which the client subscribes.
func TestSubscribe(t *testing.T) {
	nc := connect(t)
	stream(t, nc, jetstream.StreamConfig{
		Name: "PREAUTH", Subjects: []string{"preauth.updated.*"},
		RePublish: &jetstream.RePublish{Source: "preauth.updated.*", Destination: "preauth.updated"},
	})
	updates, failures := make(chan preauth.Update, 4), make(chan error, 4)
	sub, err := newClient(t, nc).Subscribe(func(u preauth.Update) { updates <- u }, func(err error) { failures <- err })
	if err != nil {
		t.Fatal(err)
	}

	first, second := anUpdate(), anUpdate()
	second.Revision++
	bodies := [][]byte{first.Encode(), []byte(`{"pre_auth_code":"` + code + `"}`), second.Encode()}
	for _, body := range bodies {
		if _, err := nc.Request(preauth.SubjectFor("preauth.updated", appID), body, patience); err != nil {
			t.Fatal(err)
		}
	}

	for _, want := range []preauth.Update{first, second} {
		if got := receive(t, updates); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	checkRefused(t, receive(t, failures), "message on preauth.updated: ")

	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Request(preauth.SubjectFor("preauth.updated", appID), first.Encode(), patience); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if len(updates)+len(failures) > 0 {
		t.Error("something came after Unsubscribe")
	}
}

func TestSubscribeFailsWhenTheConnectionIsClosed(t *testing.T) {
	nc := connect(t)
	client := newClient(t, nc)
	nc.Close()
	if _, err := client.Subscribe(func(preauth.Update) {}, func(error) {}); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}

func TestClientWithOtherSubjects(t *testing.T) {
	nc := connect(t)
	client, err := preauth.NewClient(nc, preauth.WithSubjects(preauth.Subjects{TokenUpdated: "a.token", Updated: "a.code", Lookup: "a.ask"}))
	if err != nil {
		t.Fatal(err)
	}
	tokens := stream(t, nc, jetstream.StreamConfig{Name: "TOKENS", Subjects: []string{"a.token.*"}})
	if err := client.Announce(t.Context(), preauth.TokenEvent{AppID: appID, Token: preauth.NewSecret(token)}); err != nil {
		t.Error(err)
	}
	if _, err := tokens.GetLastMsgForSubject(t.Context(), "a.token."+appID); err != nil {
		t.Error(err)
	}

	if _, err := nc.Subscribe("a.ask."+appID, func(m *nats.Msg) { _ = m.Respond(aLookup().Encode()) }); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Lookup(t.Context(), preauth.LookupRequest{AppID: appID}); err != nil {
		t.Error(err)
	}

	updates := make(chan preauth.Update, 1)
	if _, err := client.Subscribe(func(u preauth.Update) { updates <- u }, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("a.code", anUpdate().Encode()); err != nil {
		t.Fatal(err)
	}
	receive(t, updates)
}
