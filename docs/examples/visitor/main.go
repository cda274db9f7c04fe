// Command visitor plays a web application and its visitor: it claims a code, opens the link at the
// stand-in for WeChat, authorizes there, waits until preauth announces that, and resolves the code.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// patience is how long all of it may take, from the start of the other programs on.
const patience = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	log := log.New(os.Stderr, "visitor: ", log.Ltime|log.Lmsgprefix)
	if err := run(ctx, os.Getenv, log); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, getenv func(string) string, log *log.Logger) error {
	nc, err := nats.Connect(cmp.Or(getenv("NATS_URL"), nats.DefaultURL), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	client, err := preauth.NewClient(nc)
	if err != nil {
		return err
	}
	authorized := make(chan preauth.Authorized, 100)
	if _, err := client.SubscribeAuthorized(func(a preauth.Authorized) { authorized <- a }, func(err error) { log.Print(err) }); err != nil {
		return err
	}

	// The web application claims a code for its visitor. The id makes it safe to repeat that.
	request := preauth.ClaimRequest{
		AppID: getenv("WECHAT_APPID"), ClaimID: fmt.Sprintf("visitor-%d", time.Now().UnixNano()), Reference: "order 7",
		LinkOptions: preauth.LinkOptions{RedirectURI: "https://example.com/authorized", AuthType: 3},
	}
	claim, err := claimed(ctx, client, request)
	if err != nil {
		return err
	}
	log.Printf("claimed %s, %v left", claim.PreAuthCode.Hint(), claim.ExpiresIn)

	// A browser would go to claim.Links.PC, from a page of the platform. Here the stand-in has it.
	if err := authorize(ctx, claim.Links.PC, getenv("WECHAT_URL"), "wx8888888888888888"); err != nil {
		return err
	}
	log.Print("authorized on WeChat's page")

	// WeChat pushes that to the token service, which announces it.
	for done := false; !done; {
		select {
		case a := <-authorized:
			if done = a.ClaimID == claim.ClaimID; done {
				log.Printf("preauth announces: %s authorized for %s", a.AuthorizerAppID, a.Reference)
			}
		case <-ctx.Done():
			return fmt.Errorf("waiting for the announcement: %w", ctx.Err())
		}
	}
	resolved, err := client.Resolve(ctx, claim.PreAuthCode)
	if err != nil {
		return err
	}
	log.Printf("resolved the code: %s, authorized by %s at %s", resolved.Reference, resolved.AuthorizerAppID,
		resolved.AuthorizedAt.Local().Format(time.TimeOnly))
	return nil
}

// claimed claims a code. It waits for the first token of the component, and for the service.
func claimed(ctx context.Context, client *preauth.Client, r preauth.ClaimRequest) (preauth.Claim, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		claim, err := client.Claim(asking, r)
		cancel()
		if err == nil || errors.Is(err, preauth.ErrInvalid) {
			return claim, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return claim, err
		}
	}
}

// authorize opens a link to WeChat's page, and sends the page's form.
func authorize(ctx context.Context, link preauth.Secret, wechat, account string) error {
	page, err := url.Parse(link.Reveal())
	if err != nil {
		return errors.New("the link is malformed") // the error would quote it
	}
	at, err := url.Parse(wechat)
	if err != nil {
		return err
	}
	page.Scheme, page.Host = at.Scheme, at.Host
	for _, step := range []struct {
		method, form string
		want         int
	}{
		{http.MethodGet, "", http.StatusOK},
		{http.MethodPost, url.Values{"authorizer_appid": {account}}.Encode(), http.StatusSeeOther}, // back to redirect_uri
	} {
		request, err := http.NewRequestWithContext(ctx, step.method, page.String(), strings.NewReader(step.form))
		if err != nil {
			return errors.New("the link is malformed")
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		response, err := http.DefaultTransport.RoundTrip(request) // its errors do not quote the link, and it follows no redirect
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		if response.StatusCode != step.want {
			return fmt.Errorf("WeChat's page answers with status %d", response.StatusCode)
		}
	}
	return nil
}
