package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/term"

	"preauth"
	"preauth/internal/app"
)

// client is how a command reaches the service, and prints what it answers.
type client struct {
	NATS app.NATS `embed:"" group:"nats"`

	SubjectPrefix string        `name:"subject-prefix" group:"Requests" env:"PREAUTH_SUBJECT_PREFIX" placeholder:"SUBJECT" form:"subject" help:"Prefix of the service's subjects."`
	Timeout       time.Duration `name:"timeout" group:"Requests" default:"5s" range:"1ms..1m" help:"Time to wait for the answer."`
	JSON          bool          `name:"json" group:"Requests" help:"Print JSON, with the members of docs/contract.md."`
}

// session is a connection to NATS with a client of the service on it.
type session struct {
	*preauth.Client

	nc       *nats.Conn
	subjects preauth.Subjects
	refused  chan error // what NATS does not let the user do
}

// connect connects to NATS. The caller closes the session.
func (c client) connect() (*session, error) {
	options, err := c.NATS.Options()
	if err != nil {
		return nil, err
	}
	options.Timeout, options.MaxReconnect = c.Timeout, -1 // commands that go on wait for NATS to come back
	refused := make(chan error, 16)
	options.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case refused <- err:
		default: // there is enough to tell
		}
	}
	nc, err := options.Connect()
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS at --nats-url ($NATS_URL): %w", err)
	}
	s := &session{nc: nc, subjects: preauth.DefaultSubjects().WithPrefix(c.SubjectPrefix), refused: refused}
	if s.Client, err = preauth.NewClient(nc, preauth.WithSubjects(s.subjects)); err != nil {
		nc.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) close() { s.nc.Close() }

// do connects and has request done within the time-out. subject is where the request goes.
func (c client) do(ctx context.Context, subject func(preauth.Subjects) string, request func(context.Context, *session) error) error {
	s, err := c.connect()
	if err != nil {
		return err
	}
	defer s.close()
	return s.ask(ctx, c.Timeout, subject(s.subjects), request)
}

// ask has request done within the time-out. subject is where the request goes.
func (s *session) ask(whole context.Context, timeout time.Duration, subject string, request func(context.Context, *session) error) error {
	ctx, cancel := context.WithTimeout(whole, timeout)
	defer cancel()
	ctx, refuse := context.WithCancelCause(ctx)
	go func() { // a request that NATS refuses gets no answer
		select {
		case err := <-s.refused:
			refuse(err)
		case <-ctx.Done():
		}
	}()
	err := request(ctx, s)
	failed, isFailure := errors.AsType[*preauth.Error](err)
	switch cause := context.Cause(ctx); {
	case err == nil:
		return nil
	case whole.Err() != nil:
		return errInterrupted
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("nobody answers on %s: is the service running, on this NATS and with this subject prefix?", subject)
	case errors.Is(cause, nats.ErrPermissionViolation):
		return fmt.Errorf("%w: log in as a user who may do this", cause)
	case cause != nil && !errors.Is(err, cause):
		return cause
	case isFailure && failed.Class.Advice() != "":
		return fmt.Errorf("%w\nwhat to do: %s", err, printable(advice(failed)))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer on %s within %v: wait longer with --timeout, or look into the service's log", subject, timeout)
	}
	return err
}

// jetStream is how a command reaches streams.
type jetStream struct {
	Domain string `name:"nats-js-domain" group:"nats" env:"NATS_JS_DOMAIN" placeholder:"DOMAIN" form:"name" help:"JetStream domain, if it is not the one of the servers."`
}

func (j jetStream) open(s *session) (jetstream.JetStream, error) {
	if j.Domain == "" {
		return jetstream.New(s.nc)
	}
	return jetstream.NewWithDomain(s.nc, j.Domain)
}

// advice says what the failure asks for that is the reason of an error.
func advice(failed *preauth.Error) string {
	if failed.RequestIP == "" {
		return failed.Class.Advice()
	}
	return fmt.Sprintf("%s (request_ip is %s)", failed.Class.Advice(), failed.RequestIP)
}

// errInterrupted is why a command ends that somebody ends before it is done.
var errInterrupted = errors.New("interrupted")

// component is the argument of commands about one component.
type component struct {
	Component string `arg:"" help:"The component_appid."`
}

func (c component) check() error {
	if err := preauth.CheckAppID(c.Component); err != nil {
		return app.UsageErrorf("<component>: %w", err)
	}
	return nil
}

// components is the argument of commands about one component or all.
type components struct {
	Component string `arg:"" optional:"" help:"The component_appid; without it, all components."`
}

func (c components) check() error {
	if c.Component == "" {
		return nil
	}
	return component(c).check()
}

// code is how a command prints codes.
type code struct {
	Reveal bool `name:"reveal" help:"Print the whole code, and not only its first and last characters."`
}

// shown returns what is printed of a code.
func (c code) shown(secret preauth.Secret) string {
	if c.Reveal {
		return secret.Reveal()
	}
	return secret.Hint()
}

// maxSecret bounds what is read for a secret.
const maxSecret = 64 << 10

// readSecret reads a token or a code from a file, or from standard input if the file is "-". Errors
// do not name the file: people give the secret itself where a file name belongs.
func readSecret(ctx context.Context, to app.Stdio, flag, file string) (preauth.Secret, error) {
	in := os.Stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return preauth.Secret{}, app.UsageErrorf("%s must name a file, or be - for standard input: %w", flag, withoutName(err))
		}
		defer opened.Close()
		in = opened
	} else if term.IsTerminal(int(in.Fd())) {
		fmt.Fprintf(to.Err, "Type or paste what %s would have, then Enter and Ctrl-D.\n", flag)
	}
	type content struct {
		text []byte
		err  error
	}
	read := make(chan content, 1)
	go func() { // nothing ends the read of a terminal
		text, err := io.ReadAll(io.LimitReader(in, maxSecret))
		read <- content{text, err}
	}()
	select {
	case got := <-read:
		if got.err != nil {
			return preauth.Secret{}, fmt.Errorf("reading %s: %w", flag, withoutName(got.err))
		}
		return preauth.NewSecret(strings.TrimSpace(string(got.text))), nil
	case <-ctx.Done():
		return preauth.Secret{}, errInterrupted
	}
}

// withoutName returns the reason of an error without the name of the file.
func withoutName(err error) error {
	if failed, ok := errors.AsType[*os.PathError](err); ok {
		return failed.Err
	}
	return err
}
