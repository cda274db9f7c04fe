package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"preauth/internal/app/apptest"
	"preauth/internal/loopback"
)

// newNATSWith starts a nats-server with JetStream from a configuration file, and returns its URL.
func newNATSWith(t *testing.T, config string) string {
	t.Helper()
	address, _ := startNATS(t, "127.0.0.1:-1", t.TempDir(), config) // nats-server chooses the port
	return "nats://" + address
}

// startNATS starts a nats-server, which runs until stop is called or the test ends. It returns the
// address on which the server listens.
func startNATS(t *testing.T, listen, store, config string, change ...func(*server.Options)) (address string, stop func()) {
	t.Helper()
	options, err := server.ProcessConfigFile(write(t, "nats.conf", fmt.Sprintf("listen: %q\njetstream {store_dir: %q}\n%s\n", listen, store, config)))
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	options.NoSigs, options.NoLog = true, true
	for _, c := range change {
		c(options)
	}
	nats, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	stop = func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	}
	t.Cleanup(stop)
	if !nats.ReadyForConnections(patience) {
		t.Fatalf("nats-server does not start:\n%s", config)
	}
	return nats.Addr().String(), stop
}

func TestServeLogsInToNATS(t *testing.T) {
	t.Parallel()
	files := newCertificates(t)
	tls := fmt.Sprintf("cert_file: %q\nkey_file: %q\nca_file: %q\n", files.serverCert, files.serverKey, files.ca)
	user, seed := newNKey(t)
	operator, creds := newOperator(t)

	tests := []struct {
		name   string
		config string
		args   []string
		client []nats.Option
		wrong  []string
		says   string // what the log says about the wrong arguments
	}{
		{
			name:   "user and password",
			config: `authorization {user: me, password: "` + secret + `"}`,
			args:   []string{"--nats-user=me", "--nats-password=" + secret},
			wrong:  []string{"--nats-user=me", "--nats-password=" + secret + "!"},
			client: []nats.Option{nats.UserInfo("me", secret)},
			says:   "Authorization Violation",
		},
		{
			name:   "context of the nats CLI",
			config: `authorization {user: me, password: "` + secret + `"}`,
			args:   []string{"--context=" + write(t, "context.json", `{"user":"me","password":"`+secret+`"}`)},
			wrong:  []string{"--context=" + write(t, "context.json", `{"user":"me","password":"`+secret+`!"}`)},
			client: []nats.Option{nats.UserInfo("me", secret)},
			says:   "Authorization Violation",
		},
		{
			name:   "token",
			config: `authorization {token: "` + secret + `"}`,
			args:   []string{"--nats-token=" + secret},
			wrong:  []string{"--nats-token=" + secret + "!"},
			client: []nats.Option{nats.Token(secret)},
			says:   "Authorization Violation",
		},
		{
			name:   "token in place of a user",
			config: `authorization {token: "` + secret + `"}`,
			args:   []string{"--nats-user=" + secret},
			wrong:  []string{},
			client: []nats.Option{nats.Token(secret)},
			says:   "Authorization Violation",
		},
		{
			name:   "nkey",
			config: `authorization {users: [{nkey: ` + user + `}]}`,
			args:   []string{"--nats-nkey=" + seed},
			wrong:  []string{},
			client: []nats.Option{nkey(seed)},
			says:   "Authorization Violation",
		},
		{
			name:   "credentials file",
			config: operator,
			args:   []string{"--nats-creds=" + creds},
			wrong:  []string{},
			client: []nats.Option{nats.UserCredentials(creds)},
			says:   "Authorization Violation",
		},
		{
			name:   "TLS with a certificate authority",
			config: "tls {" + tls + "}",
			args:   []string{"--nats-ca=" + files.ca},
			wrong:  []string{},
			client: []nats.Option{nats.RootCAs(files.ca)},
			says:   "certificate signed by unknown authority",
		},
		{
			name:   "TLS with a client's certificate",
			config: "tls {" + tls + "verify: true}",
			args:   []string{"--nats-ca=" + files.ca, "--nats-cert=" + files.clientCert, "--nats-key=" + files.clientKey},
			wrong:  []string{"--nats-ca=" + files.ca},
			client: []nats.Option{nats.RootCAs(files.ca), nats.ClientCert(files.clientCert, files.clientKey)},
			// With TLS 1.3 the client may see the closed connection before it reads the alert.
			says: "tls: certificate required|connection reset by peer|broken pipe|EOF",
		},
		{
			name:   "TLS first",
			config: "tls {" + tls + "handshake_first: true}",
			args:   []string{"--nats-ca=" + files.ca, "--nats-tls-first"},
			wrong:  []string{"--nats-ca=" + files.ca},
			client: []nats.Option{nats.RootCAs(files.ca), nats.TLSHandshakeFirst()},
			says:   "", // each side waits for the other to begin
		},
	}
	stand := newWeChat(t, "")
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dsn := apptest.NewDatabase(t) // it belongs to one NATS account
			url, appid := newNATSWith(t, test.config), fmt.Sprint("wx", i)
			rest := []string{"--nats-url=" + url, "--mysql-dsn=" + dsn, "--wechat-url=" + stand.URL(), "--schema-apply"}

			_, admin := serve(t, append(rest, test.args...)...)
			awaitReady(t, admin)
			nc := connect(t, url, test.client...)
			sub := subscribe(t, nc, "preauth.updated")
			if err := nc.Publish("component.token.updated", tokenEvent(appid, "first")); err != nil {
				t.Fatal(err)
			}
			nextUpdate(t, sub, appid)

			refused, admin := serve(t, append(rest, test.wrong...)...)
			if test.says != "" {
				refused.Err.Await(t, test.says)
			}
			expectReasons(t, admin, "NATS: ", "authorization stream: ", "authorized stream: ", "failure stream: ", "token stream: ", "update stream: ")
		})
	}
}

func TestServeSaysWhatIsWrongWithTheCertificateOfNATS(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		server []func(*x509.Certificate)
		client []func(*x509.Certificate)
		says   string
	}{
		{"expired", []func(*x509.Certificate){expired}, nil, "certificate has expired or is not yet valid"},
		{"another host's", []func(*x509.Certificate){forAnotherHost}, nil, "x509: cannot validate certificate for 127.0.0.1"},
		// The error depends on what arrives first, the alert or the closed connection.
		{"the client's expired", nil, []func(*x509.Certificate){expired}, "tls: expired certificate|connection reset by peer|broken pipe|EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files := newCertificates(t)
			cert, key := files.issue(t, "its", x509.ExtKeyUsageServerAuth, test.server...)
			clientCert, clientKey := files.issue(t, "own", x509.ExtKeyUsageClientAuth, test.client...)
			url := newNATSWith(t, fmt.Sprintf("tls {cert_file: %q, key_file: %q, ca_file: %q, verify: true}", cert, key, files.ca))
			service, admin := serve(t, "--nats-url="+url, "--mysql-dsn="+apptest.NewDatabase(t), "--schema-apply",
				"--nats-ca="+files.ca, "--nats-cert="+clientCert, "--nats-key="+clientKey)
			service.Err.Await(t, `"NATS (?:still )?away".*(`+test.says+")")
			expectReasons(t, admin, "NATS: ", "authorization stream: ", "authorized stream: ", "failure stream: ", "token stream: ", "update stream: ")
		})
	}
}

// refusing rejects every client, like a server whose configuration does not have the user yet.
type refusing struct{ clients atomic.Int64 }

func (r *refusing) Check(server.ClientAuthentication) bool {
	r.clients.Add(1)
	return false
}

func TestServeKeepsTryingToLogIn(t *testing.T) {
	t.Parallel()
	address, _, err := loopback.Address("")
	if err != nil {
		t.Fatal(err)
	}
	store, refuse := t.TempDir(), new(refusing)
	_, stop := startNATS(t, address, store, "", func(o *server.Options) { o.CustomClientAuthentication = refuse })
	service, admin := serve(t, "--nats-url=nats://me:"+secret+"@"+address, "--mysql-dsn="+apptest.NewDatabase(t), "--schema-apply")
	// By default, nats.go gives up after two.
	apptest.Eventually(t, "three refusals", func() bool { return refuse.clients.Load() > 2 })
	service.Err.Await(t, `"NATS away","error":"nats: Authorization Violation"`)
	stop()
	startNATS(t, address, store, `authorization {user: me, password: "`+secret+`"}`)
	awaitReady(t, admin)
}

func TestServeReceivesBelowItsInboxPrefix(t *testing.T) {
	t.Parallel()
	// The user may subscribe to what the service needs, but not below _INBOX.
	url := newNATSWith(t, `authorization {users: [
		{user: me, password: "`+secret+`", permissions: {publish: ">", subscribe: ["inbox-of-preauth.>", "preauth.lookup", "preauth.lookup.>", "preauth.claim", "preauth.claim.>", "preauth.resolve", "preauth.status", "preauth.status.>", "preauth.renew", "preauth.renew.>", "$SRV.>"]}}
	]}`)
	login := []string{"--nats-url=" + url, "--nats-user=me", "--nats-password=" + secret, "--mysql-dsn=" + apptest.NewDatabase(t), "--schema-apply"}
	_, admin := serve(t, append(login, "--nats-inbox-prefix=inbox-of-preauth")...)
	awaitReady(t, admin)
}

// newNKey returns a user's public key, and a file with its seed.
func newNKey(t *testing.T) (user, file string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return publicKey(t, pair), write(t, "user.nk", string(seedOf(t, pair)))
}

// nkey logs in with the seed in a file.
func nkey(file string) nats.Option {
	return func(o *nats.Options) error {
		option, err := nats.NkeyOptionFromSeed(file)
		if err == nil {
			err = option(o)
		}
		return err
	}
}

func publicKey(t *testing.T, pair nkeys.KeyPair) string {
	t.Helper()
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seedOf(t *testing.T, pair nkeys.KeyPair) []byte {
	t.Helper()
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// newOperator returns the configuration of a server that trusts an operator, and the credentials
// file of a user of one of its accounts.
func newOperator(t *testing.T) (config, creds string) {
	t.Helper()
	must := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	pair := func(create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
		t.Helper()
		p, err := create()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	operator, system, account, user := pair(nkeys.CreateOperator), pair(nkeys.CreateAccount), pair(nkeys.CreateAccount), pair(nkeys.CreateUser)
	operatorClaims := jwt.NewOperatorClaims(publicKey(t, operator))
	operatorClaims.SystemAccount = publicKey(t, system)
	systemClaims, accountClaims := jwt.NewAccountClaims(publicKey(t, system)), jwt.NewAccountClaims(publicKey(t, account))
	accountClaims.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	config = fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload {%s: %s, %s: %s}\n", must(operatorClaims.Encode(operator)),
		publicKey(t, system), must(systemClaims.Encode(operator)), publicKey(t, account), must(accountClaims.Encode(operator)))
	content, err := jwt.FormatUserConfig(must(jwt.NewUserClaims(publicKey(t, user)).Encode(account)), seedOf(t, user))
	return config, write(t, "user.creds", must(string(content), err))
}

// certificates are the files of a certificate authority and of the certificates that it signed.
type certificates struct {
	ca, serverCert, serverKey, clientCert, clientKey string

	dir          string
	authority    *x509.Certificate
	authorityKey *ecdsa.PrivateKey
}

func newCertificates(t *testing.T) certificates {
	t.Helper()
	c := certificates{
		dir: t.TempDir(),
		authority: &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
			NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		},
		authorityKey: newKey(t),
	}
	c.ca = c.sign(t, "ca.pem", c.authority, c.authorityKey)
	c.serverCert, c.serverKey = c.issue(t, "server", x509.ExtKeyUsageServerAuth)
	c.clientCert, c.clientKey = c.issue(t, "client", x509.ExtKeyUsageClientAuth)
	return c
}

// issue writes a certificate for 127.0.0.1 and its key, and returns the files. It overwrites
// earlier files with the name.
func (c certificates) issue(t *testing.T, name string, usage x509.ExtKeyUsage, change ...func(*x509.Certificate)) (cert, keyFile string) {
	t.Helper()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: c.authority.NotBefore, NotAfter: c.authority.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	for _, each := range change {
		each(leaf)
	}
	key := newKey(t)
	content, err := x509.MarshalPKCS8PrivateKey(key)
	return c.sign(t, name+".pem", leaf, key), c.save(t, name+".key", "PRIVATE KEY", content, err)
}

func (c certificates) sign(t *testing.T, name string, certificate *x509.Certificate, key *ecdsa.PrivateKey) string {
	t.Helper()
	content, err := x509.CreateCertificate(rand.Reader, certificate, c.authority, key.Public(), c.authorityKey)
	return c.save(t, name, "CERTIFICATE", content, err)
}

func (c certificates) save(t *testing.T, name, kind string, content []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Defects of certificates.
func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }

func forAnotherHost(c *x509.Certificate) {
	c.IPAddresses, c.DNSNames = nil, []string{"nats.example.com"}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
