package preauth_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"

	"preauth"
)

// The token service announces each token that it gets from WeChat.
func ExampleClient_Announce() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		panic(err)
	}

	now := time.Now()
	err = client.Announce(context.Background(), preauth.TokenEvent{
		AppID:     "wx0123456789abcdef",
		Token:     preauth.NewSecret("61_W3mEQkP0"),
		IssuedAt:  now,
		ExpiresAt: now.Add(7200 * time.Second), // the expires_in that WeChat answered
	})
	if err != nil {
		log.Print(err) // announce it again; a repetition costs no call to WeChat
	}
}

// A program with OpenTelemetry has its requests join the traces of its contexts.
func ExampleWithTraceParent() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc, preauth.WithTraceParent(func(ctx context.Context) string {
		carrier := propagation.MapCarrier{}
		propagation.TraceContext{}.Inject(ctx, carrier)
		return carrier["traceparent"]
	}))
	if err != nil {
		panic(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // in a program, the one of a span
	defer cancel()
	lookup, err := client.Lookup(ctx, preauth.LookupRequest{AppID: "wx0123456789abcdef"})
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println("valid until", lookup.ExpiresAt)
}

// A web application claims a code for each visitor whom it sends to WeChat, here with a link for
// the browser. WeChat's push after the authorization contains the code, which leads back to the
// claim.
func ExampleClient_Claim() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		panic(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	claim, err := client.Claim(ctx, preauth.ClaimRequest{
		AppID:       "wx0123456789abcdef",
		ClaimID:     "visitor-4f1c", // keep it when you repeat the request
		Reference:   "order 7",
		MinTTL:      5 * time.Minute,
		LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/authorized", AuthType: 3},
	})
	if failed, ok := errors.AsType[*preauth.Error](err); ok && failed.Code == preauth.StatusUnavailable {
		fmt.Println("no code now:", failed.Class, "- the service tries again at", failed.RetryAt)
		return
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("the code of", claim.ClaimID, "expires at", claim.ExpiresAt)
	_ = claim.Links.PC.Reveal() // the link for this visitor's browser

	resolved, err := client.Resolve(ctx, claim.PreAuthCode)
	if err != nil {
		panic(err)
	}
	fmt.Println("authorized by", resolved.ClaimID, "for", resolved.Reference)
}

// The receiver of WeChat's pushes announces each authorization, before it answers the push.
func ExampleClient_AnnounceAuthorization() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		panic(err)
	}

	err = client.AnnounceAuthorization(context.Background(), preauth.AuthorizationEvent{
		AppID:           "wx0123456789abcdef", // the members of the push
		PreAuthCode:     preauth.NewSecret("preauthcode@@@Q7Zk2vN0sLr4yXw8uTq1bHe6cJm3pGd5fAaVi9"),
		AuthorizerAppID: "wx8888888888888888",
		InfoType:        preauth.InfoAuthorized,
		AuthorizedAt:    time.Unix(1773479190, 0), // its CreateTime
	})
	if err != nil {
		log.Print(err) // do not answer the push with "success", and WeChat repeats it
	}
}

// A program that sent visitors to WeChat learns which of them authorized.
func ExampleClient_SubscribeAuthorized() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		panic(err)
	}

	sub, err := client.SubscribeAuthorized(func(a preauth.Authorized) {
		fmt.Println(a.AuthorizerAppID, "authorized as", a.ClaimID, "for", a.Reference)
	}, func(err error) { log.Print(err) })
	if err != nil {
		panic(err)
	}
	defer func() { _ = sub.Drain() }()
}

// A program that needs a single code looks up the current one.
func ExampleClient_Lookup() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		panic(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	found, err := client.Lookup(ctx, preauth.LookupRequest{
		AppID:       "wx0123456789abcdef",
		MinTTL:      5 * time.Minute,
		LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/authorized", AuthType: 3},
	})
	if failed, ok := errors.AsType[*preauth.Error](err); ok && failed.Code == preauth.StatusUnavailable {
		fmt.Println("no code now:", failed.Class, "- the service tries again at", failed.RetryAt)
		return
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("revision", found.Revision, "expires at", found.ExpiresAt)
	_ = found.Links.PC.Reveal() // the link for the browser
}

// A subscriber keeps the newest code of each component. It needs no lock, because the client never
// runs the callback concurrently.
func ExampleClient_Status() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := client.Status(ctx, "wx0123456789abcdef")
	if err != nil {
		panic(err)
	}
	fmt.Println(status.State, "until", status.ExpiresAt)
	var request preauth.StatusRequest
	for {
		page, err := client.StatusPage(ctx, request)
		if err != nil {
			panic(err)
		}
		for _, component := range page.Components {
			fmt.Println(component.AppID, component.State)
		}
		if page.Next == "" {
			break
		}
		request.After = page.Next
	}
}

func ExampleClient_Subscribe() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		panic(err)
	}

	newest := map[string]preauth.Update{} // one of them is of use while it is Usable
	sub, err := client.Subscribe(func(u preauth.Update) {
		if u.Revision > newest[u.AppID].Revision {
			newest[u.AppID] = u
		}
	}, func(err error) { log.Print(err) })
	if err != nil {
		panic(err)
	}
	defer func() { _ = sub.Drain() }()
}

// A program that knows NATS's KV stores keeps the current code of a component, without a
// subscription of its own.
func ExampleParseUpdate_bucket() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()

	kv, err := js.KeyValue(ctx, "preauth")
	if err != nil {
		panic(err) // jetstream.ErrBucketNotFound if it is off
	}
	watcher, err := kv.Watch(ctx, "wx0123456789abcdef")
	if err != nil {
		panic(err)
	}
	var current preauth.Update // of use while it is Usable
	for entry := range watcher.Updates() {
		if entry == nil { // what was there has been delivered
			continue
		}
		current = preauth.Update{}
		if entry.Operation() == jetstream.KeyValuePut {
			if current, err = preauth.ParseUpdate(entry.Value()); err != nil {
				panic(err)
			}
		}
	}
	fmt.Println("usable", current.Usable(time.Now()))
}

// A program in any language can publish this body on "component.token.updated.wx0123456789abcdef".
func ExampleTokenEvent_Encode() {
	event := preauth.TokenEvent{
		AppID:     "wx0123456789abcdef",
		Token:     preauth.NewSecret("61_W3mEQkP0"),
		IssuedAt:  time.Date(2026, time.March, 14, 9, 0, 0, 0, time.UTC),
		ExpiresAt: time.Date(2026, time.March, 14, 11, 0, 0, 0, time.UTC),
	}
	fmt.Printf("%s\n", event.Encode())
	// Output:
	// {"component_appid":"wx0123456789abcdef","component_access_token":"61_W3mEQkP0","issued_at":"2026-03-14T09:00:00Z","expires_at":"2026-03-14T11:00:00Z"}
}

func ExampleParseTokenEvent() {
	subject := "component.token.updated.wx0123456789abcdef"
	appid := preauth.AppIDFromSubject("component.token.updated", subject)
	received := time.Date(2026, time.March, 14, 9, 0, 0, 0, time.UTC)

	event, err := preauth.ParseTokenEvent(appid, nil, []byte(`{"component_access_token":"61_W3mEQkP0","expires_in":7200}`), received)
	fmt.Println(event.AppID, event.Token, event.ExpiresAt.Format(time.RFC3339), err)

	_, err = preauth.ParseTokenEvent(appid, nil, []byte(`{"component_access_token":"61_W3mEQkP0","expires_in":"2h"}`), received)
	fmt.Println(err, errors.Is(err, preauth.ErrInvalid))
	// Output:
	// wx0123456789abcdef [redacted] 2026-03-14T11:00:00Z <nil>
	// invalid: expires_in must be a whole number true
}

func ExampleParseUpdate() {
	body := []byte(`{
		"component_appid": "wx0123456789abcdef",
		"pre_auth_code": "preauthcode@@@S3mEQkP0VbZc5x5vJ8F1G7kPOq2yq0TtX8mZ9n",
		"issued_at": "2026-03-14T09:00:00.25Z",
		"expires_at": "2026-03-14T09:30:00.25Z",
		"expires_in": 1800,
		"revision": 42,
		"cause": "token"
	}`)
	update, err := preauth.ParseUpdate(body)
	if err != nil {
		panic(err)
	}
	fmt.Println(update.AppID, update.PreAuthCode, update.Revision, update.Cause, update.ExpiresAt.Format(time.TimeOnly))
	// Output:
	// wx0123456789abcdef [redacted] 42 token 09:30:00
}

// A Secret leaves through Reveal, and otherwise prints nothing of its text.
func ExampleSecret() {
	code := preauth.NewSecret("preauthcode@@@S3mEQkP0VbZc5x5vJ8F1G7kPOq2yq0TtX8mZ9n")
	fmt.Printf("%v %+v %q %x\n", code, struct{ Code preauth.Secret }{code}, code, code)
	fmt.Println(code.Hint(), len(code.Reveal()))
	// Output:
	// [redacted] {Code:[redacted]} [redacted] [redacted]
	// preauthcode@@@S3…mZ9n 52
}

// A backend makes a link for a visitor whom it wants to authorize an account.
func ExampleEntryLink_Sign() {
	link, err := preauth.EntryLink{
		AppID: "wx0123456789abcdef", ClaimID: "visitor-4f1c", Reference: "order 7", AuthType: 3,
		ExpiresAt: time.Now().Add(10 * time.Minute),
	}.Sign("https://auth.example.com", preauth.NewSecret("5f4dcc3b5aa765d61d8327deb882cf99")) // the first line of the file
	if err != nil {
		panic(err)
	}
	before, _, _ := strings.Cut(link, "&expires=")
	fmt.Println(before)
	// Output: https://auth.example.com/authorize/wx0123456789abcdef?auth_type=3&claim_id=visitor-4f1c
}
