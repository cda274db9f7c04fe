package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/wechat/wechattest"
)

// demo plays the programs around the service: a token service, a subscriber that looks up each
// code, a client that claims codes, and the receiver of WeChat's pushes. It shows each code's way as
// one line.
type demo struct {
	screen *screen
	client *preauth.Client
	stand  *wechattest.Server

	mu    sync.Mutex
	ways  map[string]way // of codes that are not saved yet, by component
	saved map[string]way // of saved codes, by component and revision
}

// way is what led to a code.
type way struct {
	from     string // "token", or the cause of a code that no event asked for
	began    time.Time
	failures int
}

// trace follows the steps of the service. It is called from many goroutines.
func (d *demo) trace(step consumer.Step) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.ways[step.AppID]
	switch step.Name {
	case consumer.StepReceived:
		if step.Cause != preauth.CauseToken {
			return
		}
		w = way{from: "token", began: time.Now()}
	case consumer.StepIssued:
		if from := fromOf[step.Cause]; w.from == "" && from != "" {
			w = way{from: from, began: time.Now()}
		}
	case consumer.StepFailed:
		if w.from == "" { // nothing that a code comes from
			return
		}
		w.failures++
	case consumer.StepCommitted:
		d.saved[key(step.AppID, step.Revision)] = w
		w = way{}
	case consumer.StepRepeated:
		d.screen.event(neutral, step.AppID, "token announced again: its code is still valid")
		w = way{}
	case consumer.StepSuperseded:
		d.screen.event(neutral, step.AppID, "token superseded by a newer one")
		w = way{}
	default:
		return
	}
	if d.ways[step.AppID] = w; w == (way{}) {
		delete(d.ways, step.AppID)
	}
}

// fromOf is what leads to a code that no token event asked for.
var fromOf = map[preauth.Cause]string{
	preauth.CauseRenewal: "renewal", preauth.CauseDemand: "demand", preauth.CauseSpent: "authorized → spent",
}

func key(appid string, revision uint64) string { return fmt.Sprintf("%s/%d", appid, revision) }

// announced looks up a code that was just announced, and shows its way.
func (d *demo) announced(ctx context.Context, u preauth.Update) {
	d.mu.Lock()
	w := d.saved[key(u.AppID, u.Revision)]
	delete(d.saved, key(u.AppID, u.Revision))
	d.mu.Unlock()
	text := "announced"
	if w.from != "" {
		text = w.from + " → saved → announced"
	}
	if w.failures > 0 {
		text = w.from + " → no code → saved → announced"
	}
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := d.client.Lookup(asking, preauth.LookupRequest{AppID: u.AppID, MinRevision: u.Revision})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		d.screen.event(bad, u.AppID, "%s; %v", text, err)
	default:
		text += " → looked up"
		if !w.began.IsZero() { // this replica made the code
			text += fmt.Sprintf(", %d ms", time.Since(w.began).Milliseconds())
		}
		d.screen.event(good, u.AppID, "%s", text)
	}
}

// claim claims a code, as a program does that sends a visitor to WeChat, and resolves it, as the
// program does when WeChat reports that somebody authorized with it. It passes that on.
func (d *demo) claim(ctx context.Context, appid, visitor string) {
	began := time.Now()
	claim, err := d.client.Claim(ctx, preauth.ClaimRequest{AppID: appid, ClaimID: visitor})
	var resolved preauth.Resolved
	if err == nil {
		resolved, err = d.client.Resolve(ctx, claim.PreAuthCode)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		d.screen.event(bad, appid, "claim of %s: %v", visitor, err)
	default:
		d.screen.event(other, appid, "claim → %s → resolve: %s, %d ms",
			claim.PreAuthCode.Hint(), resolved.ClaimID, time.Since(began).Milliseconds())
		d.authorize(ctx, appid, claim.PreAuthCode)
	}
}

// authorize reports that an account authorized with a code.
func (d *demo) authorize(ctx context.Context, appid string, code preauth.Secret) {
	event := preauth.AuthorizationEvent{AppID: appid, PreAuthCode: code, AuthorizerAppID: "wxvisitor"}
	if err := d.client.AnnounceAuthorization(ctx, event); err != nil && ctx.Err() == nil {
		d.screen.event(bad, appid, "authorization not announced: %v", err)
	}
}

// authorizeCurrent reports that an account authorized with the current code.
func (d *demo) authorizeCurrent(ctx context.Context, appid string) {
	found, err := d.client.Lookup(ctx, preauth.LookupRequest{AppID: appid})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		d.screen.event(bad, appid, "look-up: %v", err)
	default:
		d.authorize(ctx, appid, found.PreAuthCode)
	}
}

// authorized shows whose claim's code is spent. A current one is shown when another takes its place.
func (d *demo) authorized(a preauth.Authorized) {
	if a.ClaimID != "" {
		d.screen.event(other, a.AppID, "authorized → spent: the code of %s", a.ClaimID)
	}
}

// failed shows why a component has no code.
func (d *demo) failed(msg *nats.Msg) {
	f, err := preauth.ParseFailure(msg.Data)
	if err != nil {
		d.screen.event(bad, "", "failure: %v", err)
		return
	}
	next := "given up"
	if !f.RetryAt.IsZero() {
		next = "next call at " + f.RetryAt.Local().Format(time.TimeOnly)
	}
	reason, _, _ := strings.Cut(f.ErrMsg, " rid:")
	d.screen.event(bad, f.AppID, "no code: %s: %s; %s", f.Class, strings.TrimSpace(reason), next)
}

// announce announces a new token of a component.
func (d *demo) announce(ctx context.Context, appid string) {
	token := preauth.NewSecret(fmt.Sprintf("dev_token_%s_%d", appid, time.Now().UnixNano()))
	if err := d.client.Announce(ctx, preauth.TokenEvent{AppID: appid, Token: token}); err != nil && ctx.Err() == nil {
		d.screen.event(bad, appid, "token not announced: %v", err)
	}
}

// outage is how long WeChat fails. The service tries for up to 4 seconds before it reports a
// failure.
const outage = 5 * time.Second

// fail makes WeChat fail for a component.
func (d *demo) fail(appid string) {
	ends := time.Now().Add(outage)
	d.stand.Every(func(call wechattest.Call) wechattest.Fault {
		if call.AppID == appid && time.Now().Before(ends) {
			return wechattest.Error(-1, "")
		}
		return wechattest.Fault{}
	})
}

// run shows what happens until ctx ends. It announces tokens every pace, of one component after the
// other, and shows a claim, two authorizations and a failure of WeChat in each second round. With a
// pace of 0 it announces each component's token once.
func (d *demo) run(ctx context.Context, url string, components int, pace time.Duration, ready func() error) error {
	if !becomesReady(ctx, ready) {
		return nil
	}
	nc, err := nats.Connect(url, nats.Name("preauth-dev"), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connecting to NATS: %w", err)
	}
	defer nc.Close()
	if d.client, err = preauth.NewClient(nc); err != nil {
		return err
	}
	var lookups sync.WaitGroup
	defer lookups.Wait()
	updates, err := d.client.Subscribe(func(u preauth.Update) {
		if !u.Spent {
			lookups.Go(func() { d.announced(ctx, u) })
		}
	}, func(err error) { d.screen.event(bad, "", "update: %v", err) })
	if err != nil {
		return err
	}
	defer func() { _ = updates.Unsubscribe() }()
	authorizations, err := d.client.SubscribeAuthorized(d.authorized, func(err error) { d.screen.event(bad, "", "authorization: %v", err) })
	if err != nil {
		return err
	}
	defer func() { _ = authorizations.Unsubscribe() }()
	failures, err := nc.Subscribe(preauth.DefaultSubjects().Failed, d.failed)
	if err != nil {
		return err
	}
	defer func() { _ = failures.Unsubscribe() }()

	appid := func(i int) string { return fmt.Sprintf("wxdev%d", i%components+1) }
	d.screen.commands(url, appid(0))
	for i := range components {
		d.announce(ctx, appid(i))
	}
	if pace == 0 {
		<-ctx.Done()
	}
	for half := 1; wait(ctx, pace/2); half++ {
		switch component := appid(half / 2); half % 4 {
		case 1:
			d.claim(ctx, component, fmt.Sprintf("visitor-%d", 100+half/4))
		case 2:
			d.announce(ctx, component)
		case 3:
			d.authorizeCurrent(ctx, component)
		case 0:
			if pace > outage {
				d.fail(component)
			}
			d.announce(ctx, component)
		}
	}
	return nil
}

// ticketPace is how often WeChat pushes a ticket.
const ticketPace = 10 * time.Minute

// pushTickets has the stand-in push tickets to a platform until ctx ends. The first one comes when
// the service is ready, so that a token service finds the stream.
func (d *demo) pushTickets(ctx context.Context, appid string, ready func() error) {
	for more := becomesReady(ctx, ready); more; more = wait(ctx, ticketPace) {
		d.stand.PushTicket(appid)
	}
}

// becomesReady waits until the service is ready or ctx ends, and reports whether it is ready.
func becomesReady(ctx context.Context, ready func() error) bool {
	for ready() != nil {
		if !wait(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return true
}

// wait waits for d or for the end of ctx, and reports whether d is over.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
