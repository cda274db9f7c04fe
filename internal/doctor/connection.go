package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// connectTimeout bounds the attempt to connect to one server.
const connectTimeout = 5 * time.Second

// expiresSoon is when the end of a certificate is worth a warning.
const expiresSoon = 14 * 24 * time.Hour

// connection is a connection to NATS for requests that NATS may refuse.
type connection struct {
	*nats.Conn

	refused chan error
}

func dial(options nats.Options) (*connection, error) {
	c := &connection{refused: make(chan error, 16)}
	options.Name, options.Timeout, options.AllowReconnect = "preauth doctor", connectTimeout, false
	options.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case c.refused <- err:
		default: // there is enough to tell
		}
	}
	nc, err := options.Connect()
	c.Conn = nc
	return c, err
}

func (c *connection) close() { c.Conn.Close() }

// ask has a request made. A request that NATS refuses gets no answer, and ends with the refusal.
func (c *connection) ask(ctx context.Context, request func(ctx context.Context) error) error {
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	for len(c.refused) > 0 {
		<-c.refused //nolint:errcheck // of something before
	}
	go func() {
		select {
		case err := <-c.refused:
			refuse(err)
		case <-ctx.Done():
		}
	}()
	err := request(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// isRefused reports whether NATS does not permit something.
func isRefused(err error) bool { return errors.Is(err, nats.ErrPermissionViolation) }

// place returns a server's URL without user and password.
func place(server string) string {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return "a server"
	}
	return u.Scheme + "://" + u.Host
}

// needsNATS is why a check is skipped without NATS.
const needsNATS = "needs a connection to NATS"

// examineNATS connects to each server, and keeps the first connection.
func (e *examination) examineNATS(ctx context.Context) {
	e.group = "NATS"
	type attempt struct {
		server, version string
		err             error
	}
	var attempts []attempt
	for _, server := range e.NATS.Servers {
		options := e.NATS
		options.Servers = []string{server}
		c, err := dial(options)
		made := attempt{server: place(server), err: err}
		if err == nil {
			made.version = c.ConnectedServerVersion()
		}
		attempts = append(attempts, made)
		switch {
		case err != nil:
		case e.nats == nil:
			e.nats = c
		default:
			c.close()
		}
	}
	for _, a := range attempts {
		e.check(ctx, a.server, func(context.Context) verdict {
			if a.err != nil {
				return fault(e.nats == nil, a.err.Error(), natsRemedy(a.err))
			}
			return ok("connected, nats-server " + a.version)
		})
	}
	if e.nats == nil {
		e.skip(needsNATS, "TLS", "message size", toReceive, toKnow, toTake, toAnswer, toAnnounce, toShow)
		return
	}
	e.check(ctx, "TLS", func(context.Context) verdict { return e.encryption() })
	e.check(ctx, "message size", func(context.Context) verdict {
		if most := e.nats.MaxPayload(); most < largest {
			return problem(fmt.Sprintf("at most %d bytes a message, and a failure has up to %d", most, largest),
				"raise max_payload in nats-server's configuration; its default is 1 MB")
		}
		return ok("")
	})
	e.examineRights(ctx)
}

// largest is the largest message of the service, in bytes, with its headers.
const largest = preauth.MaxBody + 4<<10

func (e *examination) encryption() verdict {
	state, err := e.nats.TLSConnectionState()
	switch {
	case err == nil && len(state.PeerCertificates) > 0 && time.Until(state.PeerCertificates[0].NotAfter) < expiresSoon:
		return warning("the server's certificate expires at "+state.PeerCertificates[0].NotAfter.UTC().Format(time.RFC3339), "renew the certificate")
	case err == nil:
		return ok(tls.VersionName(state.Version))
	case isLoopback(e.nats.ConnectedAddr()):
		return ok("none, on this machine")
	}
	return warning("none: tokens and codes cross the network in the clear",
		"give the server TLS, as deploy/nats/server.conf does, and write tls:// in --nats-url")
}

// isLoopback reports whether an address is this machine's own.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// reach names what may be wrong where something cannot be reached: the flags that say how, and what
// to do if nobody listens.
type reach struct{ start, address, authority, certificate string }

// natsRemedy says what to change after a connection to NATS has failed.
func natsRemedy(err error) string {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		strings.Contains(strings.ToLower(err.Error()), "authorization violation"):
		return "log in as a user that the server knows: compare --nats-user and the password ($NATS_PASSWORD), --nats-creds or --nats-nkey with its configuration"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "write nats:// instead of tls:// in --nats-url, and leave out --nats-ca; or give the server TLS"
	case errors.Is(err, nats.ErrSecureConnRequired):
		return "write tls:// in --nats-url, and name its authority with --nats-ca"
	case errors.Is(err, nats.ErrNoServers):
		err = syscall.ECONNREFUSED
	}
	return networkRemedy(err, reach{"start nats-server", "--nats-url ($NATS_URL)", "--nats-ca ($NATS_CA)", "--nats-cert and --nats-key"})
}

// networkRemedy says what to change after a connection has failed, by what the network or TLS said.
func networkRemedy(err error, r reach) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
		timeout net.Error
	)
	switch {
	case errors.As(err, &unknown):
		return "let " + r.authority + " name the authority that signed the server's certificate"
	case errors.As(err, &name):
		return "use a name of the server's certificate that leads to it in " + r.address + ", or have one issued for this name"
	case errors.As(err, &invalid):
		return "renew the server's certificate, or set this machine's clock"
	case strings.Contains(err.Error(), "certificate required"), strings.Contains(err.Error(), "bad certificate"):
		return "give " + r.certificate + ": the server wants a certificate of this client"
	case strings.Contains(err.Error(), "does not look like a TLS handshake"):
		return "the server has no TLS on this port: correct " + r.address
	case errors.As(err, &dns):
		return "correct the host's name in " + r.address + ", or the name server"
	case errors.Is(err, syscall.ECONNREFUSED):
		return r.start + ", or correct " + r.address
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "let firewalls pass connections to it, or correct " + r.address
	}
	return "look at the server's log, and compare " + r.address + " with it"
}
