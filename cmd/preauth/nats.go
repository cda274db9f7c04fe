package main

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// natsSettings connect to NATS. The variables are those of the nats CLI, as far as it has them.
type natsSettings struct {
	URL         string `name:"nats-url" env:"NATS_URL" default:"nats://127.0.0.1:4222" form:"servers" help:"Servers, separated by commas."`
	User        string `name:"nats-user" env:"NATS_USER" placeholder:"NAME" help:"User name; without a password, a token."`
	Password    string `name:"nats-password" env:"NATS_PASSWORD" placeholder:"PASSWORD" help:"Password. Prefer the variable: a flag shows in the process list."`
	Token       string `name:"nats-token" env:"NATS_TOKEN" placeholder:"TOKEN" help:"Token. Prefer the variable: a flag shows in the process list."`
	Creds       string `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials file with a user JWT and its seed."`
	NKey        string `name:"nats-nkey" env:"NATS_NKEY" placeholder:"FILE" help:"File with the seed of a user's nkey."`
	Cert        string `name:"nats-cert" env:"NATS_CERT" placeholder:"FILE" help:"Certificate of this client for TLS, PEM."`
	Key         string `name:"nats-key" env:"NATS_KEY" placeholder:"FILE" help:"Key of that certificate, PEM."`
	CA          string `name:"nats-ca" env:"NATS_CA" placeholder:"FILE" help:"Certificate authority of the servers, PEM, where the system's are not meant."`
	TLSFirst    bool   `name:"nats-tls-first" env:"NATS_TLS_FIRST" help:"Begin with TLS, before the server's greeting."`
	InboxPrefix string `name:"nats-inbox-prefix" env:"NATS_INBOX_PREFIX" placeholder:"SUBJECT" form:"subject" help:"Subject below which answers are received, in place of _INBOX. Tokens are among them: one that no other user may subscribe to keeps them private."`
}

// logins returns the flags that name a way to log in.
func (s natsSettings) logins() []string {
	var ways []string
	for _, way := range []struct{ flag, value string }{
		{"--nats-user", s.User}, {"--nats-token", s.Token}, {"--nats-creds", s.Creds}, {"--nats-nkey", s.NKey},
	} {
		if way.value != "" {
			ways = append(ways, way.flag)
		}
	}
	return ways
}

// options returns how to connect. Files are looked at now, servers later.
func (s natsSettings) options() (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Name, o.InboxPrefix, o.TLSHandshakeFirst = "preauth", s.InboxPrefix, s.TLSFirst
	for server := range strings.SplitSeq(s.URL, ",") {
		o.Servers = append(o.Servers, strings.TrimSpace(server))
	}
	var errs []error
	if ways := s.logins(); len(ways) > 1 {
		errs = append(errs, refuse("%s cannot be used together: keep one of them", strings.Join(ways, " and ")))
	}
	if s.Password != "" && s.User == "" {
		errs = append(errs, refuse("--nats-password ($NATS_PASSWORD) goes with --nats-user: give that too"))
	}
	if (s.Cert == "") != (s.Key == "") {
		errs = append(errs, refuse("--nats-cert ($NATS_CERT) and --nats-key ($NATS_KEY) go together: give both or none"))
	}
	if s.Password == "" {
		o.Token = cmp.Or(s.Token, s.User)
	} else {
		o.User, o.Password = s.User, s.Password
	}
	// Their names are in no error: given the secret itself in place of a file's name, one would repeat it.
	use := func(flags, want string, option nats.Option, files ...string) {
		if slices.Contains(files, "") {
			return
		}
		for _, file := range files {
			if _, err := contentOf(file); err != nil {
				errs = append(errs, refuse("%s must name %s: %w", flags, want, err))
				return
			}
		}
		if option(&o) != nil {
			errs = append(errs, refuse("%s must name %s: this is another one", flags, want))
		}
	}
	use("--nats-creds ($NATS_CREDS)", "a file with a user JWT and its seed", credentials(s.Creds), s.Creds)
	use("--nats-nkey ($NATS_NKEY)", "a file with the seed of a user's nkey", nkey(s.NKey), s.NKey)
	use("--nats-ca ($NATS_CA)", "a PEM file with certificates", nats.RootCAs(s.CA), s.CA)
	use("--nats-cert ($NATS_CERT) and --nats-key ($NATS_KEY)", "PEM files with a certificate and its key", nats.ClientCert(s.Cert, s.Key), s.Cert, s.Key)
	return o, errors.Join(errs...)
}

// contentOf returns what a file holds. The error does not name it.
func contentOf(file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, failed.Err
	}
	return content, err
}

// credentials is [nats.UserCredentials] for a file that can be used.
func credentials(file string) nats.Option {
	return func(o *nats.Options) error {
		if err := nats.UserCredentials(file)(o); err != nil {
			return err
		}
		if _, err := o.UserJWT(); err != nil {
			return err
		}
		_, err := o.SignatureCB([]byte("any"))
		return err
	}
}

func nkey(file string) nats.Option {
	return func(o *nats.Options) error {
		option, err := nats.NkeyOptionFromSeed(file)
		if err != nil {
			return err
		}
		return option(o)
	}
}

// writeTimeout is how long a server may take nothing of what is sent before the connection is given up.
const writeTimeout = 5 * time.Second

// refusedEvery is how often it is logged that a connection cannot be made.
const refusedEvery = 10 * time.Second

// connect returns a connection that may still be tried, which goes on for ever. closed is called when
// there is none any more: after [nats.Conn.Close], or when a server ends it in a way that forbids
// another attempt.
func (s natsSettings) connect(log *slog.Logger, closed func(error)) (*nats.Conn, error) {
	o, err := s.options()
	if err != nil {
		return nil, err
	}
	o.RetryOnFailedConnect, o.MaxReconnect, o.IgnoreAuthErrorAbort = true, -1, true
	o.ReconnectWait, o.ReconnectJitter, o.ReconnectJitterTLS = 500*time.Millisecond, 500*time.Millisecond, time.Second
	o.PingInterval, o.MaxPingsOut = 10*time.Second, 2
	// While a write waits, whatever uses the connection does, health and the end of the service too.
	o.FlusherTimeout, o.ReconnectOnFlusherError = writeTimeout, true

	// nats.go calls these one after the other.
	var logged time.Time
	connected := func(nc *nats.Conn) {
		logged = time.Time{}
		log.Info("connected to NATS", "server", nc.ConnectedUrlRedacted())
	}
	refused := func(_ *nats.Conn, err error) {
		if time.Since(logged) >= refusedEvery {
			logged = time.Now()
			log.Warn("not connected to NATS: trying again", "error", err)
		}
	}
	o.ConnectedCB, o.ReconnectedCB, o.ReconnectErrCB = connected, connected, refused
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) {
		if err != nil {
			log.Warn("connection to NATS lost", "error", err)
		}
	}
	o.AsyncErrorCB = func(nc *nats.Conn, sub *nats.Subscription, err error) {
		switch {
		case !nc.IsConnected():
			refused(nc, err)
		case sub != nil:
			log.Warn("NATS reports an error", "error", err, "subject", sub.Subject)
		default:
			log.Warn("NATS reports an error", "error", err)
		}
	}
	o.ClosedCB = func(nc *nats.Conn) { closed(nc.LastError()) }
	nc, err := o.Connect()
	if err != nil {
		return nil, refuse("--nats-url: %w", err)
	}
	return nc, nil
}
