package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/entry"
	"preauth/internal/gateway"
)

// gatewayCommand puts HTTP in front of the service.
type gatewayCommand struct {
	Serve gatewayServe `cmd:"" default:"withargs" help:"Serve the operations of the contract over HTTP, for programs that do not speak NATS."`
	Token gatewayToken `cmd:"" help:"Make a token for a program, and its line for the tokens file."`
}

// gatewayServe has the settings of a gateway.
type gatewayServe struct {
	NATS  app.NATS  `embed:"" group:"nats"`
	Admin app.Admin `embed:"" group:"admin"`
	Log   app.Log   `embed:"" group:"admin"`

	SubjectPrefix string        `name:"subject-prefix" group:"nats" env:"PREAUTH_SUBJECT_PREFIX" placeholder:"SUBJECT" form:"subject" help:"Prefix of the service's subjects."`
	Listen        string        `name:"listen" group:"HTTP" env:"PREAUTH_GATEWAY_LISTEN" default:"127.0.0.1:8080" form:"address" help:"Address for the programs."`
	TokensFile    string        `name:"tokens-file" group:"HTTP" env:"PREAUTH_GATEWAY_TOKENS_FILE" placeholder:"FILE" help:"File that says which token may do what. It is read again when it changes. Without it, the gateway serves the entry page alone."`
	TLSCert       string        `name:"tls-cert" group:"HTTP" env:"PREAUTH_GATEWAY_TLS_CERT" placeholder:"FILE" help:"TLS certificate with its chain, PEM. It is read again when it changes. Without it, the gateway speaks plain HTTP."`
	TLSKey        string        `name:"tls-key" group:"HTTP" env:"PREAUTH_GATEWAY_TLS_KEY" placeholder:"FILE" help:"Key of that certificate, PEM."`
	Rate          int           `name:"rate" group:"HTTP" env:"PREAUTH_GATEWAY_RATE" default:"100" range:"1..100000" help:"Requests that each token may make in a second, and all visitors of the entry page together, per gateway."`
	Timeout       time.Duration `name:"timeout" group:"HTTP" env:"PREAUTH_GATEWAY_TIMEOUT" default:"5s" range:"100ms..2m" help:"Time to wait for the service's answer. It should be a little longer than the service's --request-timeout."`
	CORSOrigins   []string      `name:"cors-origins" group:"HTTP" env:"PREAUTH_GATEWAY_CORS_ORIGINS" placeholder:"ORIGIN" help:"Origins whose scripts may call the gateway from a browser, separated by commas. Every user of such a page can read its token."`

	EntryKeysFile    string `name:"entry-keys-file" group:"entry page" env:"PREAUTH_GATEWAY_ENTRY_KEYS_FILE" placeholder:"FILE" help:"File with the keys that sign links to the entry page, one a line. It is read again when it changes. Without it, there is no page."`
	EntryRedirectURI string `name:"entry-redirect-uri" group:"entry page" env:"PREAUTH_GATEWAY_ENTRY_REDIRECT_URI" placeholder:"URL" help:"Address to which WeChat sends the account's owner afterwards. The entry page has to be reached at the same scheme and host."`
}

// Run serves until ctx ends.
func (c gatewayServe) Run(ctx context.Context, to app.Stdio) error {
	files, err := c.check()
	if err != nil {
		return err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	log := c.Log.Logger(to.Err)
	listener, err := app.Listen(ctx, "--listen", c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	admin, err := app.Listen(ctx, "--admin-listen", c.Admin.Listen)
	if err != nil {
		return err
	}
	defer admin.Close()
	log.Info("starting", "version", app.Version(), "listen", listener.Addr().String(), "admin", admin.Addr().String(),
		"nats", c.NATS.Where(), "operations", files.tokens != nil, "entry_page", files.entryKeys != nil, "tls", files.certificate != nil)
	closed := make(chan struct{})
	nc, err := c.NATS.Connect(log, func(reason error) {
		giveUp(app.ClosedError(reason))
		close(closed)
	})
	if err != nil {
		return err
	}
	defer func() {
		nc.Close()
		<-closed
	}()
	subjects := preauth.DefaultSubjects().WithPrefix(c.SubjectPrefix)
	client, err := preauth.NewClient(nc, preauth.WithSubjects(subjects), preauth.WithTraceParent(gateway.TraceParent))
	if err != nil {
		return err
	}
	registry := app.NewRegistry()
	options := gateway.Options{
		Client: client, NATS: nc, Subjects: subjects, Rate: c.Rate, Timeout: c.Timeout, Origins: c.CORSOrigins, Registry: registry, Log: log,
	}
	if files.tokens != nil {
		options.Tokens = files.tokens.Current
	}
	g := gateway.New(options)
	if files.entryKeys != nil {
		page, err := entry.New(entry.Source{Keys: files.entryKeys.Current, RedirectURI: c.EntryRedirectURI, Rate: c.Rate, Claim: g.Claim, Resolve: g.Resolve}, log)
		if err != nil {
			return app.UsageErrorf("--entry-redirect-uri ($PREAUTH_GATEWAY_ENTRY_REDIRECT_URI): %w", err)
		}
		g.ServeEntry(page)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer giveUp(nil) // which ends the watching
	if r := files.tokens; r != nil {
		registry.MustRegister(r.Gauge("tokens"))
		watching.Go(func() { r.Watch(ctx, log, "tokens file") })
	}
	if r := files.entryKeys; r != nil {
		registry.MustRegister(r.Gauge("entry_keys"))
		watching.Go(func() { r.Watch(ctx, log, "keys of the entry page") })
	}
	var certificate func() *tls.Certificate
	if r := files.certificate; r != nil {
		certificate = r.Current
		registry.MustRegister(r.Gauge("certificate"))
		watching.Go(func() { r.Watch(ctx, log, "TLS certificate") })
	}
	defer app.ServeAdmin(admin, log, http.NotFoundHandler(), g.Ready, registry)()
	if err := g.Serve(ctx, listener, certificate); err != nil {
		return err
	}
	if err := context.Cause(ctx); errors.Is(err, app.ErrNATSClosed) {
		return err
	}
	return nil
}

// gatewayFiles are the files that a gateway reads again when they change.
type gatewayFiles struct {
	tokens      *gateway.Reloader[gateway.Tokens]   // nil if the gateway has no operations
	entryKeys   *gateway.Reloader[[]preauth.Secret] // nil without the entry page
	certificate *gateway.Reloader[*tls.Certificate] // nil without TLS
}

// check checks the settings and reads the files that they name.
func (c gatewayServe) check() (files gatewayFiles, err error) {
	for _, origin := range c.CORSOrigins {
		if u, err := url.Parse(origin); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Scheme+"://"+u.Host != origin || u.Hostname() == "" {
			return files, app.UsageErrorf("--cors-origins ($PREAUTH_GATEWAY_CORS_ORIGINS) must be origins, such as https://app.example.com, without a path")
		}
	}
	switch {
	case c.TokensFile == "" && c.EntryKeysFile == "" && c.EntryRedirectURI == "":
		return files, app.UsageErrorf("nothing to serve: name a file with --tokens-file ($PREAUTH_GATEWAY_TOKENS_FILE), whose lines preauth gateway token makes, or with --entry-keys-file ($PREAUTH_GATEWAY_ENTRY_KEYS_FILE) for the entry page")
	case (c.EntryKeysFile == "") != (c.EntryRedirectURI == ""):
		return files, app.UsageErrorf("--entry-keys-file ($PREAUTH_GATEWAY_ENTRY_KEYS_FILE) and --entry-redirect-uri ($PREAUTH_GATEWAY_ENTRY_REDIRECT_URI) go together: give both or none")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return files, app.UsageErrorf("--tls-cert ($PREAUTH_GATEWAY_TLS_CERT) and --tls-key ($PREAUTH_GATEWAY_TLS_KEY) go together: give both or none")
	}
	if c.TokensFile != "" {
		files.tokens, err = gateway.NewReloader(func(contents [][]byte) (gateway.Tokens, error) { return gateway.ParseTokens(contents[0]) }, c.TokensFile)
		if err != nil {
			return files, app.UsageErrorf("--tokens-file ($PREAUTH_GATEWAY_TOKENS_FILE): %w", err)
		}
	}
	if c.EntryKeysFile != "" {
		files.entryKeys, err = gateway.NewReloader(func(contents [][]byte) ([]preauth.Secret, error) { return preauth.ParseEntryKeys(contents[0]) }, c.EntryKeysFile)
		if err != nil {
			return files, app.UsageErrorf("--entry-keys-file ($PREAUTH_GATEWAY_ENTRY_KEYS_FILE): %w", err)
		}
		if _, err := entry.CheckRedirectURI(c.EntryRedirectURI); err != nil {
			return files, app.UsageErrorf("--entry-redirect-uri ($PREAUTH_GATEWAY_ENTRY_REDIRECT_URI): %w", err)
		}
	}
	if c.TLSCert != "" {
		files.certificate, err = gateway.NewReloader(func(contents [][]byte) (*tls.Certificate, error) {
			pair, err := tls.X509KeyPair(contents[0], contents[1])
			return &pair, err
		}, c.TLSCert, c.TLSKey)
		if err != nil {
			return files, app.UsageErrorf("--tls-cert ($PREAUTH_GATEWAY_TLS_CERT) and --tls-key ($PREAUTH_GATEWAY_TLS_KEY) must name PEM files with a certificate and its key: %w", err)
		}
	}
	return files, nil
}

// gatewayToken makes a token.
type gatewayToken struct {
	Name       string   `arg:"" help:"Name of the program, for the log."`
	Operations []string `name:"operations" default:"claim,lookup,resolve" placeholder:"NAME" help:"What it may do, separated by commas: announce, authorized, claim, lookup, resolve, status, or * for all."`
	Components []string `name:"components" default:"*" placeholder:"APPID" help:"For which components, separated by commas. * stands for any characters and ? for one."`
	AddTo      string   `name:"add-to" placeholder:"FILE" help:"Tokens file to add the line to. Without it, the line is printed."`
	TokenOut   string   `name:"token-out" placeholder:"FILE" help:"New file for the token, which only you can read. Without it, the token is printed."`
}

// Run makes a token and its line. It prints those that no file is named for.
func (c gatewayToken) Run(to app.Stdio) error {
	token, line, err := gateway.NewToken(c.Name, c.Operations, c.Components)
	if err != nil {
		return app.UsageErrorf("%w", err)
	}
	if c.TokenOut != "" { // before the line: the hash of a token that nobody has is of no use
		if err := writeToken(c.TokenOut, token); err != nil {
			return app.UsageErrorf("--token-out: %w", err)
		}
	}
	if c.AddTo != "" {
		if err := addLine(c.AddTo, line); err != nil {
			if c.TokenOut != "" {
				err = errors.Join(err, withoutName(os.Remove(c.TokenOut)))
			}
			return app.UsageErrorf("--add-to: %w", err)
		}
	}
	if c.TokenOut == "" {
		fmt.Fprintln(to.Out, token.Reveal())
	}
	if c.AddTo == "" {
		fmt.Fprintln(to.Out, line)
	}
	return nil
}

// writeToken writes a token to a new file. It leaves a file that exists alone, and no file behind
// after an error.
func writeToken(name string, token preauth.Secret) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return errors.New("the file exists, and a program may need what it has: name another file")
	}
	if err != nil {
		return withoutName(err)
	}
	_, err = fmt.Fprintln(file, token.Reveal())
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(withoutName(err), withoutName(os.Remove(name)))
	}
	return nil
}

// addLine adds a line to a tokens file if the file can be parsed with it. It creates a missing file.
func addLine(name, line string) error {
	before, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return withoutName(err)
	}
	if len(before) > 0 && !strings.HasSuffix(string(before), "\n") {
		line = "\n" + line
	}
	if _, err := gateway.ParseTokens([]byte(string(before) + line)); err != nil {
		return err
	}
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return withoutName(err)
	}
	_, err = file.WriteString(line + "\n")
	return errors.Join(err, file.Close())
}
