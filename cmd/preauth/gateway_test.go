package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"

	"preauth/internal/app/apptest"
	"preauth/internal/gateway"
	"preauth/internal/natsserver"
)

// newToken makes a token with the command, which adds its line to the file.
func newToken(t *testing.T, file, name string, args ...string) string {
	t.Helper()
	return matches(t, `^(preauth_[A-Z2-7]{26})\n$`, append([]string{"gateway", "token", name, "--add-to=" + file}, args...)...)[1]
}

// web is a gateway that runs, as a program sees it.
type web struct {
	*apptest.Command

	admin, url string
	http       *http.Client
}

// startGateway starts the command with arguments of the test.
func startGateway(t *testing.T, args ...string) *web {
	t.Helper()
	g := &web{http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}}
	g.Command = start(t, append([]string{"gateway", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--timeout=1m"}, args...)...)
	at := g.Err.Await(t, `"msg":"starting","version":"[^"]+","listen":"([^"]+)","admin":"([^"]+)"`)
	g.url, g.admin = "http://"+at[1], at[2]
	return g
}

// do sends a request with a token, and returns the answer.
func (g *web) do(t *testing.T, method, path, token, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := g.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// A gateway takes a program from its token to a visitor's code, over TLS, while its files change.
func TestGateway(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+apptest.NewDatabase(t), "--schema-apply", "--wechat-url="+stand.URL(), "--subject-prefix=acme")
	awaitReady(t, admin)
	tokens, files := filepath.Join(t.TempDir(), "tokens"), newCertificates(t)
	platform := newToken(t, tokens, "platform", "--operations=announce,status")
	g := startGateway(t, "--nats-url="+server.URL(), "--subject-prefix=acme", "--tokens-file="+tokens, "--tls-cert="+files.serverCert, "--tls-key="+files.serverKey)
	g.url = strings.Replace(g.url, "http:", "https:", 1)
	authority, err := os.ReadFile(files.ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	g.http.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	awaitReady(t, g.admin)
	if status, body := get(t, g.admin, "/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz says %d %q", status, body)
	}
	matches(t, `^ready\n$`, "check", "--timeout=1m", "--admin-listen="+g.admin)

	if status, answer := g.do(t, "POST", "/v1/components/wx1/tokens", platform, `{"component_access_token":"`+secret+`-1"}`); status != http.StatusNoContent {
		t.Fatalf("announcing: %d %s", status, answer)
	}
	// A token that is added counts without a restart, and one that is taken away no more.
	shop := newToken(t, tokens, "shop")
	apptest.Eventually(t, "the new token counts", func() bool {
		status, _ := g.do(t, "POST", "/v1/components/wx1/claims", shop, `{"claim_id":"visitor-1"}`)
		return status == http.StatusOK
	})
	if status, answer := g.do(t, "GET", "/v1/components/wx1", platform, ""); status != http.StatusOK || !strings.Contains(answer, `"state":"valid"`) {
		t.Errorf("the status: %d %s", status, answer)
	}
	if err := os.WriteFile(tokens, []byte("shop "+secret), 0o600); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the broken file is reported", func() bool {
		_, metrics := get(t, g.admin, "/metrics")
		return strings.Contains(metrics, `preauth_gateway_file_broken{file="tokens"} 1`)
	})
	g.Err.Await(t, `"level":"ERROR","msg":"tokens file not read again: the old one stays","error":"line 1: a line must have a name`)
	if status, _ := g.do(t, "GET", "/v1/components/wx1/code", shop, ""); status != http.StatusOK {
		t.Errorf("a token of before the file broke: %d", status)
	}
	if err := os.Remove(tokens); err != nil {
		t.Fatal(err)
	}
	site := newToken(t, tokens, "site")
	apptest.Eventually(t, "the old token counts no more", func() bool {
		status, _ := g.do(t, "GET", "/v1/components/wx1/code", shop, "")
		return status == http.StatusUnauthorized
	})
	if status, _ := g.do(t, "GET", "/v1/components/wx1/code", site, ""); status != http.StatusOK {
		t.Errorf("the token in its place: %d", status)
	}
	// So does a certificate.
	serial := func() string {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(g.url, "https://"), &tls.Config{RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	files.issue(t, "server", x509.ExtKeyUsageServerAuth)
	apptest.Eventually(t, "the new certificate is served", func() bool { return serial() != before })

	_, metrics := get(t, g.admin, "/metrics")
	for _, line := range []string{
		`preauth_gateway_requests_total\{operation="announce",status="204"\} 1`, `preauth_gateway_requests_total\{operation="lookup",status="401"\} [1-9]`,
		`preauth_gateway_requests_total\{operation="resolve",status="200"\} 0`, `preauth_gateway_request_duration_seconds_count\{operation="status"\} 1`,
		`preauth_gateway_file_broken\{file="certificate"\} 0`,
	} {
		if !regexp.MustCompile(line).MatchString(metrics) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if status := g.Stop(); status != 0 {
		t.Errorf("it ends with status %d", status)
	}
}

// A gateway that is stopped answers what it has taken.
func TestGatewayFinishesWhatItHas(t *testing.T) {
	t.Parallel()
	server := newNATS(t)
	requests := subscribe(t, connect(t, server.URL()), "preauth.lookup.wx1")
	tokens := filepath.Join(t.TempDir(), "tokens")
	token := newToken(t, tokens, "shop")
	g := startGateway(t, "--nats-url="+server.URL(), "--tokens-file="+tokens)
	awaitReady(t, g.admin)
	answered := make(chan string, 1)
	go func() {
		status, answer := g.do(t, "GET", "/v1/components/wx1/code", token, "")
		answered <- fmt.Sprint(status, answer)
	}()
	request, err := requests.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan int, 1)
	go func() { stopped <- g.Stop() }()
	apptest.Eventually(t, "no more requests are taken", func() bool {
		resp, err := g.http.Get(g.url + "/openapi.json")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	})
	if err := request.Respond([]byte(`{"component_appid":"wx1","pre_auth_code":"code","expires_at":"2030-01-01T00:00:00Z","revision":7}`)); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; !strings.HasPrefix(got, "200") || !strings.Contains(got, `"revision":7`) {
		t.Errorf("the last answer is %s", got)
	}
	if status := <-stopped; status != 0 {
		t.Errorf("it ends with status %d", status)
	}
}

// A gateway starts without NATS, says so, and serves when NATS is there.
func TestGatewayStartsWithoutNATS(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	address, stop := startNATS(t, "127.0.0.1:-1", store, "")
	stop()
	tokens := filepath.Join(t.TempDir(), "tokens")
	token := newToken(t, tokens, "shop")
	g := startGateway(t, "--nats-url="+address, "--tokens-file="+tokens)
	if status, body := get(t, g.admin, "/readyz"); status != http.StatusServiceUnavailable || body != "not connected to NATS\n" {
		t.Errorf("/readyz says %d %q", status, body)
	}
	if status, answer := g.do(t, "GET", "/v1/components/wx1/code", token, ""); status != http.StatusServiceUnavailable || !strings.Contains(answer, "urn:preauth:problem:unreachable") {
		t.Errorf("a look-up: %d %s", status, answer)
	}
	startNATS(t, address, store, "")
	awaitReady(t, g.admin)
}

// A gateway whose user may not hear replies says what to change, to those who ask and at /readyz.
func TestGatewayThatHearsNoReplies(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Options{Config: `authorization { users: [{user: g, password: g, permissions: {subscribe: ["_INBOX.g.>"]}}] }`})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	subscribe(t, connect(t, server.URL(), nats.UserInfo("g", "g"), nats.CustomInboxPrefix("_INBOX.g")), "_INBOX.g.other")
	tokens := filepath.Join(t.TempDir(), "tokens")
	token := newToken(t, tokens, "shop")
	login := []string{"--nats-url=" + server.URL(), "--nats-user=g", "--nats-password=g", "--tokens-file=" + tokens}
	g := startGateway(t, login...)
	awaitReady(t, g.admin)
	for range 2 { // the second is answered from memory
		if status, answer := g.do(t, "GET", "/v1/components/wx1/code", token, ""); status != http.StatusNotImplemented || !strings.Contains(answer, "set --nats-inbox-prefix") {
			t.Errorf("a look-up: %d %s", status, answer)
		}
	}
	if status, body := get(t, g.admin, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "set --nats-inbox-prefix") {
		t.Errorf("/readyz says %d %q", status, body)
	}
	heard := startGateway(t, append(login, "--nats-inbox-prefix=_INBOX.g")...)
	awaitReady(t, heard.admin)
	if status, answer := heard.do(t, "GET", "/v1/components/wx1/code", token, ""); status != http.StatusServiceUnavailable {
		t.Errorf("a look-up with the inbox of the user: %d %s", status, answer)
	}
}

// serveHTTP runs a gateway with each role that may do something of its operations. What the role may
// not do, the gateway says at once, with the role that may.
func (d *deployment) serveHTTP(t *testing.T, config string) {
	t.Helper()
	tokens := filepath.Join(t.TempDir(), "tokens")
	token := newToken(t, tokens, "all", "--operations=*")
	for _, role := range []string{asClient, asTokens, asOperator} {
		login := "--nats-nkey=" + filepath.Join(d.keys, role+".nk")
		if config == "operator.conf" {
			login = "--nats-creds=" + filepath.Join(d.keys, role+".creds")
		}
		g := startGateway(t, login, "--nats-url="+d.url, "--nats-ca="+d.ca, "--nats-inbox-prefix=_INBOX."+role, "--tokens-file="+tokens)
		awaitReady(t, g.admin)
		for _, q := range []struct {
			by                 string
			method, path, body string
		}{
			{asClient, "POST", "/v1/components/wx1/claims", `{"claim_id":"gateway"}`},
			{asClient, "GET", "/v1/components/wx1/code", ""},
			{asClient, "POST", "/v1/resolutions", `{"pre_auth_code":"unknown"}`},
			{asTokens, "POST", "/v1/components/wx1/tokens", `{"component_access_token":"` + secret + `-first"}`},
			{asTokens, "POST", "/v1/components/wx1/authorizations", d.authorization},
			{asOperator, "GET", "/v1/components/wx1", ""},
			{asOperator, "GET", "/v1/components", ""},
		} {
			status, answer := g.do(t, q.method, q.path, token, q.body)
			switch {
			case q.by == role && (status < 300 || q.path == "/v1/resolutions" && status == http.StatusNotFound):
			case q.by != role && status == http.StatusNotImplemented && strings.Contains(answer, "the role "+q.by+" of deploy/nats"):
			default:
				t.Errorf("%s %s as %s: %d %s", q.method, q.path, role, status, answer)
			}
		}
		g.Stop()
	}
}

func TestGatewayRefusesSettings(t *testing.T) {
	tokens, garbage, files := filepath.Join(t.TempDir(), "tokens"), write(t, "garbage", secret), newCertificates(t)
	newToken(t, tokens, "shop")
	good := []string{"gateway", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--nats-url=nats://127.0.0.1:1", "--tokens-file=" + tokens}
	for _, test := range []struct{ arg, says string }{
		{"--tokens-file=", "nothing to serve: name a file with --tokens-file ($PREAUTH_GATEWAY_TOKENS_FILE), whose lines preauth gateway token makes, or with --entry-keys-file"},
		{"--tokens-file=/no/such/" + secret, "--tokens-file ($PREAUTH_GATEWAY_TOKENS_FILE): no such file or directory"},
		{"--tokens-file=" + garbage, "--tokens-file ($PREAUTH_GATEWAY_TOKENS_FILE): line 1: a line must have a name, a hash, operations and components"},
		{"--tls-cert=" + files.serverCert, "--tls-cert ($PREAUTH_GATEWAY_TLS_CERT) and --tls-key ($PREAUTH_GATEWAY_TLS_KEY) go together"},
		{"--listen=here", "--listen ($PREAUTH_GATEWAY_LISTEN) must be host:port"},
		{"--rate=0", "--rate ($PREAUTH_GATEWAY_RATE) must be 1 to 100000, not 0"},
		{"--timeout=1ms", "--timeout ($PREAUTH_GATEWAY_TIMEOUT) must be 100ms to 2m, not 1ms"},
		{"--cors-origins=*", "--cors-origins ($PREAUTH_GATEWAY_CORS_ORIGINS) must be origins, such as https://app.example.com, without a path"},
		{"--cors-origins=https://a.example,https://b.example/", "must be origins"},
		{"--nats-creds=/no/such/" + secret, "--nats-creds ($NATS_CREDS) must name a file"},
		{"--subject-prefix=>", "--subject-prefix ($PREAUTH_SUBJECT_PREFIX) must be words"},
	} {
		apptest.Refused(t, run, []string{test.says}, append(good, test.arg)...)
	}
	apptest.Refused(t, run, []string{"must name PEM files with a certificate and its key"}, append(good, "--tls-cert="+garbage, "--tls-key="+garbage)...)
	apptest.Refused(t, run, []string{"must name PEM files with a certificate and its key"}, append(good, "--tls-cert="+files.serverCert, "--tls-key="+files.clientKey)...)
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, `expected "<name>"`},
		{[]string{"a b"}, "the name must be 1 to 64 letters"},
		{[]string{"shop", "--operations=renew"}, "operations must be some of announce,authorized,claim,lookup,resolve,status"},
		{[]string{"shop", "--components=wx 1"}, "components must be appids"},
		{[]string{"shop", "--add-to=" + tokens}, "--add-to: line 2: the name shop is that of a line above: choose another"},
		{[]string{"site", "--add-to=" + garbage}, "--add-to: line 1: a line must have"},
		{[]string{"site", "--add-to=/no/such/file"}, "--add-to: no such file or directory"},
	} {
		apptest.Refused(t, run, []string{test.says}, append([]string{"gateway", "token"}, test.args...)...)
	}
}

// A token that goes to no file is printed with its line.
func TestGatewayTokenIsPrinted(t *testing.T) {
	matches(t, `^preauth_[A-Z2-7]{26}\nshop sha256:[0-9a-f]{64} claim,announce wx1,wxacme\*\n$`, "gateway", "token", "shop", "--operations=claim,announce", "--components=wx1,wxacme*")
	// A file may end without a line break.
	file := write(t, "tokens", strings.TrimSuffix(matches(t, `\n(shop .*)\n$`, "gateway", "token", "shop")[1], "\n"))
	newToken(t, file, "site")
	content, err := os.ReadFile(file)
	if err != nil || strings.Count(string(content), "\n") != 2 {
		t.Errorf("%v\n%s", err, content)
	}
}

// A token goes to a new file, which only its owner can read. One that is in use is never lost:
// neither when its name is taken, nor when its file is named again.
func TestGatewayTokenGoesToANewFile(t *testing.T) {
	directory := t.TempDir()
	tokens, out := filepath.Join(directory, "tokens"), filepath.Join(directory, "shop.token")
	matches(t, `^$`, "gateway", "token", "shop", "--add-to="+tokens, "--token-out="+out)
	read := func(name, form string) string {
		t.Helper()
		content, err := os.ReadFile(name)
		if err != nil || !regexp.MustCompile(form).Match(content) {
			t.Errorf("%v\n%s", err, content)
		}
		return string(content)
	}
	token, line := read(out, `^preauth_[A-Z2-7]{26}\n$`), read(tokens, `^shop sha256:[0-9a-f]{64} claim,lookup,resolve \*\n$`)
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of the token: %v %v", info.Mode(), err)
	}
	if hash := fmt.Sprintf("sha256:%x ", sha256.Sum256([]byte(strings.TrimSpace(token)))); !strings.Contains(line, hash) {
		t.Error("the line is not that of the token")
	}

	another := filepath.Join(directory, "another.token")
	for _, test := range []struct {
		says string
		args []string
	}{
		{"--token-out: the file exists, and a program may need what it has: name another file", []string{"site", "--token-out=" + out}},
		{"--add-to: line 2: the name shop is that of a line above", []string{"shop", "--token-out=" + another}},
		{"--add-to: line 1: a line must have", []string{"site", "--token-out=" + another, "--add-to=" + another}},
		{"--token-out: no such file or directory", []string{"site", "--token-out=/no/such/file"}},
	} {
		apptest.Refused(t, run, []string{test.says}, append([]string{"gateway", "token", "--add-to=" + tokens}, test.args...)...)
	}
	if read(out, "") != token || read(tokens, "") != line {
		t.Error("a command that was refused changed a file")
	}
	if _, err := os.Stat(another); err == nil {
		t.Error("a command that was refused left a token behind")
	}
	// Without a file for the line, it is printed alone.
	matches(t, `^shop sha256:[0-9a-f]{64} claim,lookup,resolve \*\n$`, "gateway", "token", "shop", "--token-out="+another)
}

// docs/gateway.md has the settings and the operations, and docs/entry.md those of the entry page.
func TestGatewayIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := os.ReadFile("../../docs/entry.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	pages := map[string]string{"HTTP": text, "entry page": string(entry)}
	settings := 0
	for _, leaf := range kong.Must(new(cli), kong.Vars{"version": ""}).Model.Leaves(true) {
		for _, flag := range leaf.Flags {
			if leaf.Path() != "gateway serve" || flag.Group == nil || pages[flag.Group.Key] == "" {
				continue
			}
			settings++
			if row := fmt.Sprintf("\n| `--%s` | `%s` | %s |", flag.Name, flag.Envs[0], quotedDefault(flag)); !strings.Contains(pages[flag.Group.Key], row) {
				t.Errorf("the page of %s has no row that begins with %s", flag.Group.Key, row)
			}
		}
	}
	if settings == 0 {
		t.Error("the gateway has no settings")
	}
	for _, operation := range gateway.Operations() {
		if !strings.Contains(text, "| `"+operation+"` |") {
			t.Errorf("docs/gateway.md has no row for the operation %s", operation)
		}
	}
}

func quotedDefault(flag *kong.Flag) string {
	if flag.Default == "" {
		return ""
	}
	return "`" + flag.Default + "`"
}
