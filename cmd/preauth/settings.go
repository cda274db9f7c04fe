package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/consumer"
	"preauth/repo"
	"preauth/wechat"
)

// natsSettings connect to NATS. The variables are those of the nats CLI.
type natsSettings struct {
	URL      string `name:"nats-url" env:"NATS_URL" default:"nats://127.0.0.1:4222" help:"NATS servers, separated by commas."`
	User     string `name:"nats-user" env:"NATS_USER" help:"User name, or a token if there is no password."`
	Password string `name:"nats-password" env:"NATS_PASSWORD" help:"Password. Prefer the variable: a flag shows in the process list."`
	Creds    string `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials file."`
	NKey     string `name:"nats-nkey" env:"NATS_NKEY" placeholder:"FILE" help:"File with an nkey seed."`
	Cert     string `name:"nats-cert" env:"NATS_CERT" placeholder:"FILE" help:"TLS client certificate."`
	Key      string `name:"nats-key" env:"NATS_KEY" placeholder:"FILE" help:"TLS client key."`
	CA       string `name:"nats-ca" env:"NATS_CA" placeholder:"FILE" help:"Certificate authority of the servers."`
	TLSFirst bool   `name:"nats-tls-first" env:"NATS_TLS_FIRST" help:"Begin TLS before the server's greeting."`
}

// options returns how to connect. Files are checked now, servers later: the connection is tried for
// ever.
func (s natsSettings) options(log *slog.Logger) ([]nats.Option, error) {
	for flag, file := range map[string]string{
		"--nats-creds": s.Creds, "--nats-nkey": s.NKey, "--nats-cert": s.Cert, "--nats-key": s.Key, "--nats-ca": s.CA,
	} {
		if file == "" {
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errSettings, flag, err)
		}
		f.Close()
	}
	if (s.Cert == "") != (s.Key == "") {
		return nil, fmt.Errorf("%w: --nats-cert and --nats-key go together", errSettings)
	}
	options := []nats.Option{
		nats.Name("preauth"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectJitter(500*time.Millisecond, time.Second),
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(nc *nats.Conn) { log.Info("connected to NATS", "server", nc.ConnectedUrlRedacted()) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected to NATS again", "server", nc.ConnectedUrlRedacted()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("connection to NATS lost", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("NATS reports an error", "subject", subject, "error", err)
		}),
	}
	switch {
	case s.User != "" && s.Password == "":
		options = append(options, nats.Token(s.User))
	case s.User != "":
		options = append(options, nats.UserInfo(s.User, s.Password))
	}
	if s.Creds != "" {
		options = append(options, nats.UserCredentials(s.Creds))
	}
	if s.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(s.NKey)
		if err != nil {
			return nil, fmt.Errorf("%w: --nats-nkey: %w", errSettings, err)
		}
		options = append(options, nkey)
	}
	if s.Cert != "" {
		options = append(options, nats.ClientCert(s.Cert, s.Key))
	}
	if s.CA != "" {
		options = append(options, nats.RootCAs(s.CA))
	}
	if s.TLSFirst {
		options = append(options, nats.TLSHandshakeFirst())
	}
	return options, nil
}

// connect returns a connection that may still be trying.
func (s natsSettings) connect(log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	options, err := s.options(log)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(s.URL, append(options, more...)...)
	if err != nil {
		return nil, fmt.Errorf("%w: connecting to NATS: %w", errSettings, err)
	}
	return nc, nil
}

// mysqlSettings open the database.
type mysqlSettings struct {
	DSN         string `name:"mysql-dsn" env:"MYSQL_DSN" placeholder:"DSN" help:"Database, as user:password@tcp(host:3306)/preauth. Prefer the variable or the file: a flag shows in the process list."`
	DSNFile     string `name:"mysql-dsn-file" env:"MYSQL_DSN_FILE" placeholder:"FILE" help:"File that holds the DSN."`
	Connections int    `name:"mysql-connections" env:"MYSQL_CONNECTIONS" default:"16" help:"Connections to the database at most."`
}

func (s mysqlSettings) open() (*repo.Repo, error) {
	dsn := s.DSN
	switch {
	case dsn != "" && s.DSNFile != "":
		return nil, fmt.Errorf("%w: give either --mysql-dsn or --mysql-dsn-file", errSettings)
	case s.DSNFile != "":
		content, err := os.ReadFile(s.DSNFile)
		if err != nil {
			return nil, fmt.Errorf("%w: --mysql-dsn-file: %w", errSettings, err)
		}
		dsn = strings.TrimSpace(string(content))
	}
	if dsn == "" {
		return nil, fmt.Errorf("%w: name the database with MYSQL_DSN, --mysql-dsn-file or --mysql-dsn", errSettings)
	}
	if s.Connections < 2 || s.Connections > 10_000 {
		return nil, fmt.Errorf("%w: --mysql-connections must be 2 to 10000, not %d", errSettings, s.Connections)
	}
	db, err := repo.Open(dsn, s.Connections)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSettings, err)
	}
	return db, nil
}

// wechatSettings reach WeChat.
type wechatSettings struct {
	URLs    []string      `name:"wechat-url" env:"PREAUTH_WECHAT_URL" default:"https://api.weixin.qq.com,https://api2.weixin.qq.com" help:"Base URLs of the API, tried in this order when one cannot be reached."`
	Path    string        `name:"wechat-path" env:"PREAUTH_WECHAT_PATH" default:"/cgi-bin/component/api_create_preauthcode" help:"Path of the call below the base URL."`
	Timeout time.Duration `name:"wechat-timeout" env:"PREAUTH_WECHAT_TIMEOUT" default:"5s" help:"Time for one call to one host."`
	Calls   int           `name:"wechat-calls" env:"PREAUTH_WECHAT_CALLS" default:"64" help:"Calls under way at once, per replica."`
}

func (s wechatSettings) client() (*wechat.Client, error) {
	client, err := wechat.New(wechat.Config{BaseURLs: s.URLs, Path: s.Path, Timeout: s.Timeout, MaxConnections: s.Calls})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSettings, err)
	}
	return client, nil
}

// subjectSettings are the subjects of the contract.
type subjectSettings struct {
	Token   string `name:"subject-token" env:"PREAUTH_SUBJECT_TOKEN" default:"component.token.updated" help:"Where tokens are announced."`
	Updated string `name:"subject-updated" env:"PREAUTH_SUBJECT_UPDATED" default:"preauth.updated" help:"Where codes are announced."`
	Failed  string `name:"subject-failed" env:"PREAUTH_SUBJECT_FAILED" default:"preauth.failed" help:"Where failures are announced."`
	Lookup  string `name:"subject-lookup" env:"PREAUTH_SUBJECT_LOOKUP" default:"preauth.lookup" help:"Where look-ups are asked."`
}

func (s subjectSettings) subjects() preauth.Subjects {
	return preauth.Subjects{TokenUpdated: s.Token, Updated: s.Updated, Failed: s.Failed, Lookup: s.Lookup}
}

// serviceSettings are how the service works.
type serviceSettings struct {
	subjectSettings

	TokenStream    string `name:"stream-tokens" env:"PREAUTH_STREAM_TOKENS" default:"COMPONENT_TOKENS" help:"Stream of the tokens, created if no stream covers their subject."`
	UpdateStream   string `name:"stream-updates" env:"PREAUTH_STREAM_UPDATES" default:"PREAUTH" help:"Stream of the codes, created if missing."`
	FailureStream  string `name:"stream-failures" env:"PREAUTH_STREAM_FAILURES" default:"PREAUTH_FAILED" help:"Stream of the failures, created if missing."`
	StreamReplicas int    `name:"stream-replicas" env:"PREAUTH_STREAM_REPLICAS" default:"1" help:"Servers that keep each created stream: 1, or 3 or 5 in a cluster."`
	Durable        string `name:"durable" env:"PREAUTH_DURABLE" default:"preauth" help:"Consumer of the token stream that all replicas share."`
	Source         string `name:"source" env:"PREAUTH_SOURCE" default:"/preauth" help:"CloudEvents source of what is announced."`

	AckWait        time.Duration `name:"ack-wait" env:"PREAUTH_ACK_WAIT" default:"5s" help:"Time without a sign of life after which another replica gets an event."`
	InHand         int           `name:"in-hand" env:"PREAUTH_IN_HAND" default:"512" help:"Token events worked on at once, per replica."`
	Requests       int           `name:"requests" env:"PREAUTH_REQUESTS" default:"256" help:"Look-ups at once that need MySQL; one more is answered with 429."`
	RequestTimeout time.Duration `name:"request-timeout" env:"PREAUTH_REQUEST_TIMEOUT" default:"4s" help:"Time in which such a look-up is answered."`
	Shutdown       time.Duration `name:"shutdown" env:"PREAUTH_SHUTDOWN" default:"15s" help:"Time for finishing what is in hand."`
	Stall          time.Duration `name:"stall" env:"PREAUTH_STALL" default:"1m" help:"Time without progress after which the service counts as not ready."`

	DelayTransient    time.Duration `name:"delay-transient" env:"PREAUTH_DELAY_TRANSIENT" default:"200ms" help:"First wait after a failure that passes by itself; it doubles."`
	DelayTransientMax time.Duration `name:"delay-transient-max" env:"PREAUTH_DELAY_TRANSIENT_MAX" default:"10s" help:"Longest such wait."`
	DelayThrottled    time.Duration `name:"delay-throttled" env:"PREAUTH_DELAY_THROTTLED" default:"1m" help:"Wait after WeChat's limit per minute."`
	DelayQuota        time.Duration `name:"delay-quota" env:"PREAUTH_DELAY_QUOTA" default:"30m" help:"Wait between probes while the quota of the day is used up."`
	DelayOperator     time.Duration `name:"delay-operator" env:"PREAUTH_DELAY_OPERATOR" default:"1m" help:"Wait while somebody has to change the allow-list or the account."`
	DelayOnce         time.Duration `name:"delay-once" env:"PREAUTH_DELAY_ONCE" default:"2s" help:"Wait before the one quick retry of an unknown error or of a fresh token's rejection."`
}

func (s serviceSettings) config(calls int) (consumer.Config, error) {
	for flag, d := range map[string]time.Duration{
		"--ack-wait": s.AckWait, "--request-timeout": s.RequestTimeout, "--shutdown": s.Shutdown, "--stall": s.Stall,
		"--delay-transient": s.DelayTransient, "--delay-transient-max": s.DelayTransientMax, "--delay-throttled": s.DelayThrottled,
		"--delay-quota": s.DelayQuota, "--delay-operator": s.DelayOperator, "--delay-once": s.DelayOnce,
	} {
		if d <= 0 {
			return consumer.Config{}, fmt.Errorf("%w: %s must be more than 0, not %v", errSettings, flag, d)
		}
	}
	for flag, n := range map[string]int{"--in-hand": s.InHand, "--requests": s.Requests, "--wechat-calls": calls} {
		if n <= 0 {
			return consumer.Config{}, fmt.Errorf("%w: %s must be more than 0, not %d", errSettings, flag, n)
		}
	}
	cfg := consumer.Config{
		Subjects:    s.subjects(),
		TokenStream: s.TokenStream, UpdateStream: s.UpdateStream, FailureStream: s.FailureStream,
		StreamReplicas: s.StreamReplicas, Durable: s.Durable, Source: s.Source, Version: version(),
		Calls: calls, InHand: s.InHand, Requests: s.Requests, RequestTimeout: s.RequestTimeout,
		AckWait: s.AckWait, Shutdown: s.Shutdown, Stall: s.Stall,
		Delays: consumer.Delays{
			Transient: s.DelayTransient, TransientMax: s.DelayTransientMax, Throttled: s.DelayThrottled,
			Quota: s.DelayQuota, Operator: s.DelayOperator, Once: s.DelayOnce,
		},
	}
	if err := cfg.Check(); err != nil {
		return consumer.Config{}, fmt.Errorf("%w: %w", errSettings, err)
	}
	return cfg, nil
}

// logSettings say how to log.
type logSettings struct {
	Level  slog.Level `name:"log-level" env:"PREAUTH_LOG_LEVEL" default:"INFO" help:"Least level that is logged: DEBUG, INFO, WARN or ERROR."`
	Format string     `name:"log-format" env:"PREAUTH_LOG_FORMAT" default:"auto" enum:"auto,text,json" help:"auto is text on a terminal and JSON otherwise."`
}

func (s logSettings) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.Level}
	if s.Format == "text" || s.Format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// schemaCommand is about the database schema.
type schemaCommand struct {
	Print schemaPrint `cmd:"" help:"Print the schema."`
	Apply schemaApply `cmd:"" help:"Create what is missing in the database. Safe to repeat."`
}

type schemaPrint struct{}

// Run prints the schema.
func (schemaPrint) Run(to streams) error {
	_, err := io.WriteString(to.out, preauth.Schema)
	return err
}

type schemaApply struct {
	mysqlSettings
}

// Run applies the schema.
func (c schemaApply) Run(ctx context.Context, to streams) (err error) {
	db, err := c.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.ApplySchema(ctx); err != nil {
		return err
	}
	fmt.Fprintln(to.out, "The schema is applied.")
	return nil
}
