package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/app"
)

// watchCommand prints what the service announces.
type watchCommand struct {
	components
	client
	code
}

// announcements bounds those that are not printed yet.
const announcements = 10_000

// Run prints updates, failures and authorizations, one a line, until ctx ends.
func (c watchCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	s, err := c.connect()
	if err != nil {
		return err
	}
	defer s.close()
	heard := make(chan *nats.Msg, announcements)
	for _, subject := range []string{s.subjects.Updated, s.subjects.Failed, s.subjects.Authorized} {
		if c.Component != "" {
			subject = preauth.SubjectFor(subject, c.Component)
		}
		if _, err := s.nc.ChanSubscribe(subject, heard); err != nil {
			return fmt.Errorf("subscribing to %s: %w", subject, err)
		}
	}
	if err := s.nc.FlushTimeout(c.Timeout); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	connection := s.nc.StatusChanged(nats.RECONNECTING, nats.CONNECTED)
	defer s.nc.RemoveStatusListener(connection)
	fmt.Fprintln(to.Err, "Listening. Ctrl-C ends it.")
	for {
		select {
		case <-ctx.Done():
			return nil
		case status := <-connection:
			if status == nats.CONNECTED {
				fmt.Fprintln(to.Err, "preauth: NATS is back")
			} else {
				fmt.Fprintln(to.Err, "preauth: NATS is away: what is announced meanwhile is missed")
			}
		case err := <-s.refused: // a role may hear failures and not codes
			fmt.Fprintf(to.Err, "preauth: %v\n", err)
		case msg := <-heard:
			if err := c.print(to.Out, s.subjects, msg); err != nil {
				fmt.Fprintf(to.Err, "preauth: %s: %v\n", msg.Subject, err)
			}
		}
	}
}

// print prints an announcement.
func (c watchCommand) print(out io.Writer, subjects preauth.Subjects, msg *nats.Msg) error {
	is := func(subject string) bool {
		return msg.Subject == subject || preauth.AppIDFromSubject(subject, msg.Subject) != ""
	}
	switch {
	case is(subjects.Updated):
		u, err := preauth.ParseUpdate(msg.Data)
		if err != nil {
			return err
		}
		shown := c.shown(u.PreAuthCode)
		if c.JSON {
			u.PreAuthCode = preauth.NewSecret(shown)
			return printJSON(out, "updated", u.Encode())
		}
		what := fmt.Sprintf("revision %d, made for: %s, until %s, %s", u.Revision, printable(string(u.Cause)), u.ExpiresAt.Format(time.RFC3339), shown)
		if u.Spent {
			what = fmt.Sprintf("revision %d is spent, %s", u.Revision, shown)
		}
		return printEvent(out, time.Now(), "updated", u.AppID, what)
	case is(subjects.Authorized):
		a, err := preauth.ParseAuthorized(msg.Data)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(out, "authorized", a.Encode())
		}
		what := fmt.Sprintf("%s with revision %d", a.AuthorizerAppID, a.Revision)
		if a.ClaimID != "" {
			what = fmt.Sprintf("%s with claim %s", a.AuthorizerAppID, printable(a.ClaimID))
		}
		if a.Reference != "" {
			what += ", reference " + printable(a.Reference)
		}
		return printEvent(out, time.Now(), "authorized", a.AppID, what)
	default:
		return printFailure(out, msg.Data, c.JSON, time.Now())
	}
}

func printEvent(out io.Writer, at time.Time, kind, appid, what string) error {
	_, err := fmt.Fprintf(out, "%s  %-10s  %s  %s\n", at.Format(time.RFC3339), kind, cmp.Or(appid, preauth.NoAppID), what)
	return err
}

func printJSON(out io.Writer, kind string, body []byte) error {
	_, err := fmt.Fprintf(out, "{%q:%s}\n", kind, body)
	return err
}

// printFailure prints a failure that was announced, with what it asks for.
func printFailure(out io.Writer, body []byte, asJSON bool, at time.Time) error {
	f, err := preauth.ParseFailure(body)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, "failed", f.Encode())
	}
	what := fmt.Sprintf("%s: %s", reasonOf(&f), printable(f.ErrMsg))
	switch {
	case !f.RetryAt.IsZero():
		what += ", next attempt at " + f.RetryAt.Format(time.RFC3339)
	case f.AppID != "":
		what += ", given up until a newer token"
	}
	return printEvent(out, at, "failed", f.AppID, what)
}

// failuresCommand prints failures of the past.
type failuresCommand struct {
	components
	client
	jetStream

	Since  time.Duration `name:"since" default:"24h" range:"1s..8760h" help:"How far back to look. The stream keeps a week by default."`
	Stream string        `name:"stream-failures" env:"PREAUTH_STREAM_FAILURES" default:"PREAUTH_FAILED" form:"name" help:"Stream of the failures."`
}

// Run prints the failures that were announced, the oldest first.
func (c failuresCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	s, err := c.connect()
	if err != nil {
		return err
	}
	defer s.close()
	js, err := c.jetStream.open(s)
	if err != nil {
		return fmt.Errorf("failures: %w", err)
	}
	of := failures{js: js, timeout: c.Timeout, subject: preauth.SubjectFor(s.subjects.Failed, cmp.Or(c.Component, "*"))}
	if err := of.open(ctx, c.Stream); err != nil {
		return fmt.Errorf("failures: stream %s: %w", c.Stream, err)
	}
	found := false
	err = of.since(ctx, time.Now().Add(-c.Since), func(msg *jetstream.RawStreamMsg) {
		found = true
		if err := printFailure(to.Out, msg.Data, c.JSON, msg.Time); err != nil { // somebody else's message
			fmt.Fprintf(to.Err, "preauth: %s: %v\n", msg.Subject, err)
		}
	})
	if err != nil {
		return fmt.Errorf("failures: stream %s: %w", c.Stream, err)
	}
	if !found && !c.JSON {
		of := ""
		if c.Component != "" {
			of = " of " + c.Component
		}
		fmt.Fprintf(to.Out, "No failure%s in the last %v.\n", of, c.Since)
	}
	return nil
}

// failures reads a stream message by message: the role operator may not create a consumer.
type failures struct {
	js      jetstream.JetStream
	timeout time.Duration // of each request
	subject string

	stream      jetstream.Stream
	first, last uint64
}

func (f *failures) open(ctx context.Context, name string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if f.stream, err = f.js.Stream(ctx, name); err != nil {
		return err
	}
	state := f.stream.CachedInfo().State
	f.first, f.last = state.FirstSeq, state.LastSeq
	return nil
}

// next returns the first message at the sequence or behind it. The error is
// [jetstream.ErrMsgNotFound] if there is none.
func (f *failures) next(ctx context.Context, sequence uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return f.stream.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(f.subject))
}

// since hands over the messages that were stored at a time or later. It finds the first one by
// halving what may be before it.
func (f *failures) since(ctx context.Context, at time.Time, each func(*jetstream.RawStreamMsg)) error {
	low, high := f.first, f.last+1
	for low < high {
		middle := low + (high-low)/2
		msg, err := f.next(ctx, middle)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			high = middle
		case err != nil:
			return err
		case !msg.Time.Before(at):
			high = middle
		default:
			low = msg.Sequence + 1
		}
	}
	for sequence := low; sequence <= f.last; {
		msg, err := f.next(ctx, sequence)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil
		case err != nil:
			return err
		}
		each(msg)
		sequence = msg.Sequence + 1
	}
	return nil
}
