package app

import (
	"cmp"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"preauth/internal/outage"
)

// NATS is how to connect to NATS. Where the nats CLI has a variable for a setting, this is the same
// one.
type NATS struct {
	Context     string `name:"context" env:"NATS_CONTEXT" placeholder:"NAME" help:"Context of the nats CLI, by its name or the absolute path of its file. The settings below win over it; one of a login or a certificate replaces all of that."`
	URL         string `name:"nats-url" env:"NATS_URL" default:"nats://127.0.0.1:4222" form:"servers" help:"Servers, separated by commas."`
	User        string `name:"nats-user" env:"NATS_USER" placeholder:"NAME" help:"User name, or a token if there is no password."`
	Password    string `name:"nats-password" env:"NATS_PASSWORD" placeholder:"PASSWORD" help:"Password. Prefer the variable: flags show in the process list."`
	Token       string `name:"nats-token" env:"NATS_TOKEN" placeholder:"TOKEN" help:"Token. Prefer the variable: flags show in the process list."`
	Creds       string `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials file with a user JWT and its seed."`
	NKey        string `name:"nats-nkey" env:"NATS_NKEY" placeholder:"FILE" help:"File with the seed of a user's nkey."`
	Cert        string `name:"nats-cert" env:"NATS_CERT" placeholder:"FILE" help:"TLS certificate of this client, PEM."`
	Key         string `name:"nats-key" env:"NATS_KEY" placeholder:"FILE" help:"Key of that certificate, PEM."`
	CA          string `name:"nats-ca" env:"NATS_CA" placeholder:"FILE" help:"Certificate authority of the servers, PEM. Default: the system's authorities."`
	TLSFirst    bool   `name:"nats-tls-first" env:"NATS_TLS_FIRST" help:"Start TLS before the server's greeting."`
	InboxPrefix string `name:"nats-inbox-prefix" env:"NATS_INBOX_PREFIX" placeholder:"SUBJECT" form:"subject" help:"Prefix of the subjects on which the connection receives replies, instead of _INBOX. Tokens arrive there too: choose a prefix that no other user may subscribe to."`
}

// Where returns the servers' URLs without user and password.
func (s NATS) Where() string {
	var urls []string
	for server := range strings.SplitSeq(s.URL, ",") {
		if u, err := parseServer(server); err == nil {
			urls = append(urls, u.Scheme+"://"+u.Host)
		}
	}
	return strings.Join(urls, ",")
}

// logins returns the flags in use that log in.
func (s NATS) logins() []string {
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

// Options returns how to connect. It reads the files that the settings name, and connects to
// nothing.
func (s NATS) Options() (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Name, o.InboxPrefix, o.TLSHandshakeFirst = "preauth", s.InboxPrefix, s.TLSFirst
	for server := range strings.SplitSeq(s.URL, ",") {
		o.Servers = append(o.Servers, strings.TrimSpace(server))
	}
	var errs []error
	var here, orContext string // where the settings may be, for the errors
	if s.Context != "" {
		here, orContext = ", here or in the context", " or the context"
	}
	if ways := s.logins(); len(ways) > 1 {
		errs = append(errs, UsageErrorf("%s cannot be used together: keep one of them%s", strings.Join(ways, " and "), here))
	}
	if s.Password != "" && s.User == "" {
		errs = append(errs, UsageErrorf("--nats-password ($NATS_PASSWORD) goes with --nats-user: give that too"))
	}
	if (s.Cert == "") != (s.Key == "") {
		errs = append(errs, UsageErrorf("--nats-cert ($NATS_CERT) and --nats-key ($NATS_KEY) go together: give both or none%s", here))
	}
	if s.Password == "" {
		o.Token = cmp.Or(s.Token, s.User)
	} else {
		o.User, o.Password = s.User, s.Password
	}
	// The errors leave file names out: somebody may have given the secret itself instead.
	use := func(flags, want string, option nats.Option, files ...string) {
		if slices.Contains(files, "") {
			return
		}
		for _, file := range files {
			if _, err := contentOf(file); err != nil {
				errs = append(errs, UsageErrorf("%s%s must name %s: %w", flags, orContext, want, err))
				return
			}
		}
		if option(&o) != nil {
			errs = append(errs, UsageErrorf("%s%s must name %s: this file contains something else", flags, orContext, want))
		}
	}
	use("--nats-creds ($NATS_CREDS)", "a file with a user JWT and its seed", credentials(s.Creds), s.Creds)
	use("--nats-nkey ($NATS_NKEY)", "a file with the seed of a user's nkey", nkey(s.NKey), s.NKey)
	use("--nats-ca ($NATS_CA)", "a PEM file with certificates", nats.RootCAs(s.CA), s.CA)
	use("--nats-cert ($NATS_CERT) and --nats-key ($NATS_KEY)", "PEM files with a certificate and its key", nats.ClientCert(s.Cert, s.Key), s.Cert, s.Key)
	return o, errors.Join(errs...)
}

// authorities returns the certificate authorities of the servers, nil for the system's.
func (s NATS) authorities() (*x509.CertPool, error) {
	if s.CA == "" {
		return nil, nil //nolint:nilnil // a nil pool stands for the system's
	}
	const must = "--nats-ca ($NATS_CA) must name a PEM file with certificates"
	content, err := contentOf(s.CA)
	if err != nil {
		return nil, UsageErrorf(must+": %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, UsageErrorf(must + ": this file contains something else")
	}
	return pool, nil
}

// contentOf returns the content of a file. Its error does not name the file.
func contentOf(file string) ([]byte, error) {
	content, err := os.ReadFile(file) //nolint:gosec // an operator names the files, also in variables
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, failed.Err
	}
	return content, err
}

// credentials is [nats.UserCredentials], but fails now if the file is unusable.
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

// writeTimeout is how long a write may block before the connection is given up.
const writeTimeout = 5 * time.Second

// Connect returns a connection that may not be established yet: it retries forever in the
// background. closed is called once the connection is closed for good, either by [nats.Conn.Close]
// or because a server ended it in a way that forbids another attempt.
func (s NATS) Connect(log *slog.Logger, closed func(error)) (*nats.Conn, error) {
	o, err := s.Options()
	if err != nil {
		return nil, err
	}
	o.RetryOnFailedConnect, o.MaxReconnect, o.IgnoreAuthErrorAbort = true, -1, true
	o.ReconnectWait, o.ReconnectJitter, o.ReconnectJitterTLS = 500*time.Millisecond, 500*time.Millisecond, time.Second
	o.PingInterval, o.MaxPingsOut = 10*time.Second, 2
	// A write that blocks holds up everything that uses the connection, including health checks and
	// shutdown.
	o.FlusherTimeout, o.ReconnectOnFlusherError = writeTimeout, true

	down := outage.New(log, "NATS", time.Now)
	connected := func(nc *nats.Conn) {
		down.Back()
		log.Info("connected to NATS", "server", nc.ConnectedUrlRedacted())
	}
	o.ConnectedCB, o.ReconnectedCB = connected, connected
	o.ReconnectErrCB = func(_ *nats.Conn, err error) { down.Away(err) }
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) {
		if err != nil { // not by Close
			down.Away(err)
		}
	}
	// The users of the connection report the other errors.
	o.AsyncErrorCB = func(nc *nats.Conn, _ *nats.Subscription, err error) {
		if !nc.IsConnected() {
			down.Away(err)
		}
	}
	o.ClosedCB = func(nc *nats.Conn) { closed(nc.LastError()) }
	nc, err := o.Connect()
	if err != nil {
		return nil, UsageErrorf("--nats-url: %w", err)
	}
	return nc, nil
}
