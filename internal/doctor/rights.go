package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"preauth"
	"preauth/consumer"
)

// A right to publish is tried with a message that is only traced: nats-server checks the right and
// delivers the message to nobody. Servers before 2.11 do not know traces and would deliver it.
// What JetStream itself takes is tried in a form that asks for nothing.
const (
	headerTraceDest = "Nats-Trace-Dest"
	headerTraceOnly = "Nats-Trace-Only"
)

// Rights are written as patterns, as in deploy/nats/accounts.conf. What is tried has nobody in
// place of the wildcards: no component and no consumer has this name.
const nobody = "_"

var (
	anybody = strings.NewReplacer("*", nobody, ">", nobody+"."+nobody)
	// nowhere are inboxes where nobody listens.
	nowhere = []string{"_INBOX.>", "_R_.>"}
)

// trial tries rights on a connection of its own, so that refusals are those of the trial.
type trial struct {
	nc *nats.Conn
	// trace is where the server may report traces. It is "" if publishing cannot be tried; why says
	// why.
	trace, why string
}

// newTrial returns a trial. The caller closes its connection.
func newTrial(ctx context.Context, options nats.Options) (*trial, error) {
	c, err := dial(options)
	if err != nil {
		return nil, err
	}
	t := &trial{nc: c.Conn}
	if !atLeast(t.nc.ConnectedServerVersion(), 2, 11) || !t.nc.HeadersSupported() {
		t.why = "nats-server " + t.nc.ConnectedServerVersion() + " has no way to try it without effect, which 2.11 has"
		return t, nil
	}
	for _, inbox := range nowhere {
		inbox = anybody.Replace(inbox)
		refused, err := t.refuses(ctx, func() error { return t.nc.Publish(inbox, nil) })
		if err != nil {
			t.nc.Close()
			return nil, err
		}
		if !refused {
			t.trace = inbox
			return t, nil
		}
	}
	t.why = needsAnswers
	return t, nil
}

func atLeast(version string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(version, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

// refuses reports whether NATS refuses what send sends. It says so before it answers a ping.
func (t *trial) refuses(ctx context.Context, send func() error) (bool, error) {
	before := t.nc.LastError()
	if err := send(); err != nil {
		return false, err
	}
	if err := t.nc.FlushWithContext(ctx); err != nil {
		return false, err
	}
	after := t.nc.LastError()
	if after == nil || errors.Is(after, before) {
		return false, nil
	}
	return isRefused(after) || errors.Is(after, nats.ErrMaxSubscriptionsExceeded), nil
}

// publishes returns those of the patterns on which the user may not publish.
func (t *trial) publishes(ctx context.Context, patterns ...string) (refused []string, err error) {
	for _, pattern := range patterns {
		msg := nats.NewMsg(anybody.Replace(pattern))
		msg.Header.Set(headerTraceDest, t.trace)
		msg.Header.Set(headerTraceOnly, "true")
		no, err := t.refuses(ctx, func() error { return t.nc.PublishMsg(msg) })
		if err != nil {
			return nil, err
		}
		if no {
			refused = append(refused, pattern)
		}
	}
	return refused, nil
}

// subscribes returns those of the subjects to which the user may not subscribe. Each subscription
// ends as soon as it is there. It is in no queue group, so it takes no request away from a replica.
func (t *trial) subscribes(ctx context.Context, subjects ...string) (refused []string, err error) {
	for _, subject := range subjects {
		no, err := t.refuses(ctx, func() error {
			sub, err := t.nc.SubscribeSync(subject)
			if err != nil {
				return err
			}
			return sub.Unsubscribe()
		})
		if err != nil {
			return nil, err
		}
		if no {
			refused = append(refused, subject)
		}
	}
	return refused, nil
}

// allow says how to mend a right of the service's user.
func allow(verb string, patterns ...string) string {
	return "allow the service's user to " + verb + " " + list(patterns) + ": deploy/nats/accounts.conf has all that it needs"
}

// The names of the checks of rights.
const (
	toReceive  = "right to receive replies"
	toTake     = "right to take requests"
	toShow     = "right to hear what the page shows"
	toAnnounce = "right to announce"
	toAnswer   = "right to answer"
	toUse      = "right to use the streams"
	toCreate   = "right to create streams"
	toKnow     = "right to know its account"
)

// requests are the subjects of requests that the service answers.
func requests(cfg consumer.Config) []string {
	s := cfg.Subjects
	subjects := []string{s.Resolve, micro.APIPrefix + ".>"}
	for _, subject := range []string{s.Lookup, s.Claim, s.Status, s.Renew} {
		subjects = append(subjects, subject, subject+".>")
	}
	return subjects
}

// shown are what the service hears for its page alone.
func shown(s preauth.Subjects) []string { return []string{s.Updated, s.Failed, s.Authorized} }

// othersFare is where it asks the other replicas how they fare, for the page too.
const othersFare = micro.APIPrefix + ".STATS." + preauth.ServiceName

// announcements are where the service announces.
func announcements(s preauth.Subjects) []string {
	return []string{s.Updated + ".*", s.Failed + ".*", s.Authorized + ".*"}
}

// uses are the requests that the service makes to the JetStream API at api, which begins its
// subjects, and how it acknowledges. The others are names of streams.
func uses(api, tokens, authorizations, updates string) []string {
	var patterns []string
	for _, name := range []string{tokens, authorizations} {
		patterns = append(patterns,
			api+"CONSUMER.CREATE."+name+".>", api+"CONSUMER.INFO."+name+".*", api+"CONSUMER.MSG.NEXT."+name+".*", "$JS.ACK."+name+".*.>")
	}
	return append(patterns,
		api+"CONSUMER.CREATE."+updates+".>", api+"CONSUMER.MSG.NEXT."+updates+".*",
		api+"CONSUMER.DELETE."+tokens+".*", api+"CONSUMER.DELETE."+updates+".*",
		api+"DIRECT.GET."+updates+".>")
}

const (
	// brokeOff is the remedy where a trial cannot go on.
	brokeOff = "look at nats-server's log: it ended the connection"
	// needsAnswers is why a right to publish is not tried of a user that may publish no answer:
	// traces go there too.
	needsAnswers = "needs the right to answer"
	// needsReplies is why a check is skipped of a user that hears no answers.
	needsReplies = "needs the right to receive replies"
)

// knowAccount asks for the account, to which the database is bound.
func (e *examination) knowAccount(ctx context.Context) verdict {
	err := e.nats.ask(ctx, func(ctx context.Context) error {
		if e.account = consumer.Account(ctx, e.nats.Conn); e.account == "" {
			return errors.New("the server does not name the account")
		}
		return nil
	})
	if err != nil {
		return warning(err.Error()+": the database is not bound to it", allow("publish on", accountSubject))
	}
	return ok(e.account)
}

// accountSubject is where the server names a user's account.
const accountSubject = "$SYS.REQ.USER.INFO"

// try reports on rights that a trial tries.
func (e *examination) try(ctx context.Context, name, verb string, subjects []string, try func(context.Context, ...string) ([]string, error)) {
	e.check(ctx, name, func(ctx context.Context) verdict {
		refused, err := try(ctx, subjects...)
		switch {
		case err != nil:
			return problem(err.Error(), brokeOff)
		case len(refused) > 0:
			return problem("refused to "+verb+" "+list(refused), allow(verb, refused...))
		}
		return ok(fmt.Sprintf("%d tried", len(subjects)))
	})
}

// examineRights tries the rights that do not depend on the streams.
func (e *examination) examineRights(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t, err := newTrial(ctx, e.NATS)
	if err != nil {
		e.check(ctx, toReceive, func(context.Context) verdict { return problem(err.Error(), natsRemedy(err)) })
		e.skip(needsReplies, toKnow, toTake, toAnswer, toAnnounce, toShow)
		return
	}
	defer t.nc.Close()
	replies := e.check(ctx, toReceive, func(ctx context.Context) verdict {
		inbox := t.nc.NewInbox() + ".*"
		refused, err := t.subscribes(ctx, inbox)
		switch {
		case err != nil:
			return problem(err.Error(), brokeOff)
		case len(refused) > 0:
			return problem("refused to subscribe to "+inbox,
				"set --nats-inbox-prefix ($NATS_INBOX_PREFIX) to the prefix that the user may subscribe to, such as _INBOX.preauth")
		}
		return ok("")
	})
	if e.hears = replies.result == OK; e.hears {
		e.check(ctx, toKnow, e.knowAccount)
	} else {
		e.skip(needsReplies, toKnow)
	}
	if t.trace == "" && e.isAnothers(ctx, t) {
		e.skip("the user is not the service's: log in as the service to have its rights tried", toTake, toAnswer, toAnnounce, toShow)
		return
	}
	e.try(ctx, toTake, "subscribe to", requests(e.Config), t.subscribes)
	e.check(ctx, toShow, func(ctx context.Context) verdict {
		refused, err := t.subscribes(ctx, shown(e.Config.Subjects)...)
		var mute []string
		if t.trace != "" && err == nil {
			mute, err = t.publishes(ctx, othersFare)
		}
		without := func(verb string, subjects []string) verdict {
			return warning("refused to "+verb+" "+list(subjects)+": the service works, and its page shows less", allow(verb, subjects...))
		}
		switch {
		case err != nil:
			return problem(err.Error(), brokeOff)
		case len(refused) > 0:
			return without("subscribe to", refused)
		case len(mute) > 0:
			return without("publish on", mute)
		}
		return ok("")
	})
	switch {
	case t.trace != "":
		e.check(ctx, toAnswer, func(context.Context) verdict { return ok("") })
		e.try(ctx, toAnnounce, "publish on", announcements(e.Config.Subjects), t.publishes)
	case t.why == needsAnswers:
		e.check(ctx, toAnswer, func(context.Context) verdict {
			return warning("refused to publish on "+list(nowhere)+": nobody gets an answer, unless all inboxes have other names",
				allow("publish on", nowhere...))
		})
		e.skip(t.why, toAnnounce)
	default:
		e.skip(t.why, toAnswer, toAnnounce)
	}
}

// isAnothers reports whether the user has another role: it may subscribe to no request.
func (e *examination) isAnothers(ctx context.Context, t *trial) bool {
	all := requests(e.Config)
	refused, err := t.subscribes(ctx, all...)
	return err == nil && len(refused) == len(all)
}

// apiPrefix returns what begins the subjects of the JetStream API.
func apiPrefix(domain string) string {
	if domain == "" {
		return "$JS.API."
	}
	return "$JS." + domain + ".API."
}

// examineUse tries the rights to use the streams with the names.
func (e *examination) examineUse(ctx context.Context, names map[string]string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t, err := newTrial(ctx, e.NATS)
	if err != nil {
		e.skip(err.Error(), toUse)
		return
	}
	defer t.nc.Close()
	if t.trace == "" {
		e.skip(t.why, toUse)
		return
	}
	api := apiPrefix(e.Config.JetStreamDomain)
	subjects := uses(api, names["token stream"], names["authorization stream"], names["update stream"])
	e.try(ctx, toUse, "publish on", subjects, t.publishes)
	var missing []found
	for _, s := range e.streams {
		if s.missing {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return
	}
	e.check(ctx, toCreate, func(ctx context.Context) verdict {
		for _, s := range missing {
			refused, err := t.publishes(ctx, api+"STREAM.CREATE."+s.config.Name)
			if err != nil {
				return problem(err.Error(), brokeOff)
			}
			if len(refused) > 0 {
				return fault(s.needed, "refused to publish on "+list(refused)+", and the stream is missing",
					"create the stream, as docs/operation.md shows under Managed NATS, or "+allow("publish on", refused...))
			}
		}
		return ok(fmt.Sprintf("%d tried", len(missing)))
	})
}
