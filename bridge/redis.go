package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"

	"preauth"
	"preauth/internal/app"
)

// redisSettings are how to connect to Redis.
type redisSettings struct {
	URL string `name:"redis-url" env:"REDIS_URL" default:"redis://127.0.0.1:6379/0" placeholder:"URL" help:"Redis, as redis://USER:PASSWORD@HOST:PORT/DATABASE, with rediss:// for TLS. Prefer the variable: flags show in the process list."`
	CA  string `name:"redis-ca" env:"REDIS_CA" placeholder:"FILE" help:"Certificate authority of Redis, PEM. Default: the system's authorities."`
}

// open returns a client, which connects when it is used. Errors do not repeat the URL: it may have a
// password.
func (s redisSettings) open() (*redis.Client, error) {
	options, err := redis.ParseURL(s.URL)
	if err != nil {
		return nil, app.UsageErrorf("--redis-url ($REDIS_URL) must be redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// with the same, or unix://USER:PASSWORD@/PATH?db=DATABASE; characters such as / and @ of a password are escaped, as %%2F and %%40")
	}
	if s.CA != "" {
		if options.TLSConfig == nil {
			return nil, app.UsageErrorf("--redis-ca ($REDIS_CA) goes with a --redis-url that begins with rediss://")
		}
		content, err := os.ReadFile(s.CA)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(content) {
			return nil, app.UsageErrorf("--redis-ca ($REDIS_CA) must name a PEM file with certificates, which can be read")
		}
		options.TLSConfig.RootCAs, options.TLSConfig.MinVersion = pool, tls.VersionTLS12
	}
	// What follows asks for nothing that old servers and narrow rights lack.
	options.Protocol, options.DisableIdentity = 2, true
	options.MaxRetries, options.PoolSize = 1, 4
	return redis.NewClient(options), nil
}

// silent is the log of the client of Redis. What fails is returned too, and logged once.
type silent struct{}

// Printf drops the line.
func (silent) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(silent{}) } //nolint:gochecknoinits // the log is one for all clients

// isWrongType reports whether an error is about one key that holds something else than a string.
func isWrongType(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	return ok && strings.Contains(reply.Error(), "WRONGTYPE")
}

// advice says what to change, by how an error of Redis begins.
var advice = map[string]string{
	"READONLY":  "this is a replica, so give the address of the primary",
	"MOVED":     "this is a Redis Cluster, so give the address of a proxy that leads to all of it",
	"CROSSSLOT": "this is a Redis Cluster, which has to keep both keys of a component on one node: put braces around {appid}",
	"NOPERM":    "give the user of --redis-url ($REDIS_URL) the rights in docs/bridge.md",
	"NOAUTH":    "give --redis-url ($REDIS_URL) a user and a password",
	"WRONGPASS": "correct user and password in --redis-url ($REDIS_URL)",
}

// advised adds to an error of Redis what to change, if that is known.
func advised(err error) error {
	if reply, ok := errors.AsType[redis.Error](err); ok {
		kind, _, _ := strings.Cut(reply.Error(), " ")
		if todo, known := advice[kind]; known {
			return fmt.Errorf("%w: %s", err, todo)
		}
	}
	return err
}

// pattern is the form of the keys of components: the appid stands between two fixed texts.
type pattern struct{ before, after string }

const placeholder = "{appid}"

// parsePattern parses the value of a flag.
func parsePattern(flag, text string) (pattern, error) {
	before, after, ok := strings.Cut(text, placeholder)
	if !ok || strings.Contains(after, placeholder) {
		return pattern{}, app.UsageErrorf("%s must contain %s once, where the component_appid stands", flag, placeholder)
	}
	return pattern{before, after}, nil
}

// key returns the key of a component.
func (p pattern) key(appid string) string { return p.before + appid + p.after }

// appid returns the component that a key belongs to. ok is false if it is another key.
func (p pattern) appid(key string) (appid string, ok bool) {
	rest, ok := strings.CutPrefix(key, p.before)
	if !ok {
		return "", false
	}
	appid, ok = strings.CutSuffix(rest, p.after)
	return appid, ok && preauth.CheckAppID(appid) == nil
}

// glob returns the pattern as Redis takes it. It matches more than the keys of components.
func (p pattern) glob() string { return escaped(p.before) + "*" + escaped(p.after) }

var globEscapes = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`)

func escaped(text string) string { return globEscapes.Replace(text) }

// checkComponents returns an error about a flag that names components.
func checkComponents(appids []string) error {
	for _, appid := range appids {
		if err := preauth.CheckAppID(appid); err != nil {
			return app.UsageErrorf("--component ($PREAUTH_BRIDGE_COMPONENTS): %w", err)
		}
	}
	return nil
}

var errUnusable = errors.New("not usable")

// unusable returns an error about the value of a single key. It must not repeat the value.
func unusable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUnusable}, args...)...)
}

// isTimeout reports whether nothing came in time on a connection that may be whole.
func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
