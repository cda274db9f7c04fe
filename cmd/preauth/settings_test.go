package main

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// sample is what the tests need to know of a setting.
type sample struct {
	// possible is a value other than the default; empty where that takes more than one setting.
	possible string
	// impossible are values that are refused, each by itself.
	impossible []string
	// says is what the refusal of each of them says besides the name of the flag.
	says string
}

// The kinds of values that many settings share.
var (
	aSubject = sample{"other.subject", []string{" ", "a b", "a..b", "a.*", ".a", "ä"}, "must be words of letters, digits, '_' and '-', joined by dots, such as preauth.updated"}
	aName    = sample{"OTHER", []string{" ", "a.b", "a b", strings.Repeat("x", 65)}, "must be 1 to 64 letters, digits, '_' and '-'"}
	aSwitch  = sample{"true", []string{"perhaps"}, "bool value must be true, 1, yes, false, 0 or no"}
	aDelay   = sample{"123ms", []string{"0s", "-1s", "25h"}, "must be 1ms to 24h"}
	anAddr   = sample{"127.0.0.1:0", []string{" ", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536", "::1:80"}, "must be host:port, such as 127.0.0.1:8180"}
	aFile    = sample{"", []string{"/no/such/" + secret, "/"}, "must name a "}
)

// samples has every setting of "preauth serve".
var samples = map[string]sample{
	"nats-url":            {"nats://example.com:4222, tls://example.com", []string{" ", "nats://", "http://example.com", "nats://u:" + secret + "@:x", "nats://example.com,", "nats://example.com:99999"}, "must be addresses of NATS servers"},
	"nats-user":           {"me", nil, ""}, // see the settings that exclude each other
	"nats-password":       {"", []string{secret}, "goes with --nats-user: give that too"},
	"nats-token":          {"token", nil, ""},
	"nats-creds":          aFile,
	"nats-nkey":           aFile,
	"nats-cert":           {"", []string{"/no/such/file"}, "go together: give both or none"},
	"nats-key":            {"", []string{"/no/such/file"}, "go together: give both or none"},
	"nats-ca":             aFile,
	"nats-tls-first":      aSwitch,
	"nats-inbox-prefix":   aSubject,
	"mysql-dsn":           {"me:password@tcp(example.com:3306)/other", []string{"me:" + secret + "@tcp(127.0.0.1:3306)", "me:" + secret + "@tcp(127.0.0.1)/", secret}, "it must read user:password@tcp(host:3306)/database"},
	"mysql-dsn-file":      {"", []string{"/no/such/" + secret, "/"}, "cannot be read: "},
	"mysql-ca":            aFile,
	"mysql-cert":          {"", []string{"/no/such/file"}, "go together: give both or none"},
	"mysql-key":           {"", []string{"/no/such/file"}, "go together: give both or none"},
	"mysql-connections":   {"7", []string{"1", "-1", "10001"}, "must be 2 to 10000"},
	"schema-apply":        aSwitch,
	"wechat-url":          {"http://127.0.0.1:1", []string{" ", "example.com", "ftp://example.com", "https://u:" + secret + "@example.com", "https://example.com?token=" + secret, "https://a,,https://b"}, "must be an https or http address"},
	"wechat-path":         {"/other", []string{" ", "other", "//example.com", "/a?b=" + secret}, "Path must begin with one /"},
	"wechat-timeout":      {"1s", []string{"0s", "99ms", "61s"}, "must be 100ms to 1m"},
	"calls-per-second":    {"7", []string{"0", "-1", "100001"}, "must be 1 to 100000"},
	"calls-per-day":       {"700", []string{"0", "99", "100000001"}, "must be 100 to 100000000"},
	"spares":              {"7", []string{"-1", "1001"}, "must be 0 to 1000"},
	"retention":           {"7h", []string{"0s", "59m", "8761h"}, "must be 1h to 8760h"},
	"wechat-calls":        {"7", []string{"0", "-1", "10001"}, "must be 1 to 10000"},
	"subject-token":       aSubject,
	"subject-updated":     aSubject,
	"subject-failed":      aSubject,
	"subject-lookup":      aSubject,
	"subject-claim":       aSubject,
	"subject-resolve":     aSubject,
	"stream-tokens":       aName,
	"stream-updates":      aName,
	"stream-failures":     aName,
	"stream-replicas":     {"3", []string{"0", "2", "-1"}, "must be one of 1, 3, 5, not "},
	"durable":             aName,
	"source":              {"https://example.com/preauth", []string{" ", "a b", "%zz"}, "must be a URI reference, such as /preauth"},
	"in-hand":             {"7", []string{"0", "-1", "100001"}, "must be 1 to 100000"},
	"ack-wait":            {"7s", []string{"0s", "999ms", "-5s", "11m"}, "must be 1s to 10m"},
	"requests":            {"7", []string{"0", "-1", "100001"}, "must be 1 to 100000"},
	"request-timeout":     {"1s", []string{"0s", "9ms", "2m"}, "must be 10ms to 1m"},
	"stall":               {"7s", []string{"0s", "25h"}, "must be 1s to 24h"},
	"shutdown":            {"7s", []string{"0s", "2h"}, "must be 1s to 1h"},
	"delay-transient":     aDelay,
	"delay-transient-max": {"20s", []string{"0s", "-1s", "25h"}, "must be 1ms to 24h"},
	"delay-throttled":     aDelay,
	"delay-quota":         aDelay,
	"delay-operator":      aDelay,
	"delay-once":          aDelay,
	"admin-listen":        anAddr,
	"log-level":           {"warn", []string{"loud", "INFO"}, "must be one of debug, info, warn, error, not "},
	"log-format":          {"text", []string{"xml"}, "must be one of auto, text, json, not "},
}

// command returns what kong knows of a command.
func command(t *testing.T, path ...string) *kong.Node {
	t.Helper()
	node := model().Node
	for _, name := range path {
		i := slices.IndexFunc(node.Children, func(child *kong.Node) bool { return child.Name == name })
		if i < 0 {
			t.Fatalf("there is no command %q", name)
		}
		node = node.Children[i]
	}
	return node
}

// settings returns the flags of a command that are its own.
func settings(t *testing.T, path ...string) []*kong.Flag {
	t.Helper()
	var own []*kong.Flag
	for _, flag := range command(t, path...).Flags {
		if flag.Name != "help" {
			own = append(own, flag)
		}
	}
	return own
}

// refused requires that a command does not begin to work.
func refused(t *testing.T, says []string, args ...string) {
	t.Helper()
	// What is not refused ends at once, with status 0 or 1.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out, stderr := newOutput(), newOutput()
	status := run(ctx, args, out, stderr)
	if status != 2 || out.String() != "" {
		t.Errorf("%q: status %d, output %q; want 2 and nothing", args, status, out)
	}
	for _, text := range says {
		if !strings.Contains(stderr.String(), text) {
			t.Errorf("%q: the refusal is %q, want it to say %q", args, stderr, text)
		}
	}
	hasNoSecret(t, stderr.String())
}

func TestServeRefusesAProxyThatCannotBeRead(t *testing.T) {
	serve := []string{"serve", "--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth", "--admin-listen=127.0.0.1:0", "--nats-url=nats://127.0.0.1:1"}
	for _, proxy := range []string{
		"http://me:" + secret + "%zz@proxy:3128", "http://me:" + secret + "#x@proxy:3128", "http://proxy:99999", "ftp://proxy", "http://", "proxy:3128/a",
	} {
		t.Setenv("HTTPS_PROXY", proxy)
		refused(t, []string{"$HTTPS_PROXY must be an address such as http://proxy.example.com:3128"}, serve...)
	}
	for _, proxy := range []string{"", "proxy:3128", "http://me:%23@proxy:3128/", "socks5://127.0.0.1:1080", "https://[::1]:3128"} {
		t.Setenv("HTTPS_PROXY", proxy)
		if _, err := (wechatSettings{URLs: []string{"https://a.example", " https://b.example"}, Path: "/x"}).client(); err != nil {
			t.Errorf("%q: %v", proxy, err)
		}
	}
}

func TestServeRefusesImpossibleValues(t *testing.T) {
	possible := []string{"serve", "--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth", "--admin-listen=127.0.0.1:0", "--nats-url=nats://me:" + secret + "@127.0.0.1:1"}
	for _, flag := range settings(t, "serve") {
		s, ok := samples[flag.Name]
		if !ok {
			t.Errorf("no sample of --%s", flag.Name)
		}
		args := slices.DeleteFunc(slices.Clone(possible), func(arg string) bool {
			return strings.HasPrefix(arg, "--"+flag.Name+"=") || flag.Name == "mysql-dsn-file" && strings.HasPrefix(arg, "--mysql-dsn=")
		})
		for i, value := range s.impossible {
			t.Run(flag.Name+"="+value, func(t *testing.T) {
				says := []string{"preauth: ", "--" + flag.Name, s.says}
				refused(t, says, append(args, "--"+flag.Name+"="+value)...)
				if i == 0 {
					t.Setenv(flag.Envs[0], value)
					refused(t, append(says, flag.Envs[0]), args...)
				}
			})
		}
		switch flag.Target.Interface().(type) {
		case int:
			refused(t, []string{"--" + flag.Name + ": expected a valid 64 bit int"}, append(args, "--"+flag.Name+"=many")...)
		case time.Duration:
			refused(t, []string{"--" + flag.Name + ": must be a duration with its unit, such as 300ms, 5s, 10m or 1h30m"}, append(args, "--"+flag.Name+"=5")...)
		}
	}
}

func TestServeRefusesSettingsThatDoNotGoTogether(t *testing.T) {
	_, seed := newNKey(t)
	garbage := write(t, "garbage", secret)
	files := newCertificates(t)
	possible := []string{"serve", "--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth", "--admin-listen=127.0.0.1:0", "--nats-url=127.0.0.1:1"}
	tests := []struct {
		name string
		args []string
		says string
	}{
		{"no database", []string{"--mysql-dsn="}, "no database: name one with --mysql-dsn ($MYSQL_DSN) or --mysql-dsn-file ($MYSQL_DSN_FILE)"},
		{"two DSNs", []string{"--mysql-dsn-file=" + garbage}, "--mysql-dsn ($MYSQL_DSN) and --mysql-dsn-file ($MYSQL_DSN_FILE) cannot be used together"},
		{"a file with garbage for a DSN", []string{"--mysql-dsn=", "--mysql-dsn-file=" + garbage}, "--mysql-dsn-file ($MYSQL_DSN_FILE): repo: the MySQL DSN: it must read "},
		{"two ways to log in to NATS", []string{"--nats-user=me", "--nats-token=" + secret}, "--nats-user and --nats-token cannot be used together: keep one of them"},
		{"three ways", []string{"--nats-user=me", "--nats-nkey=" + seed, "--nats-token=" + secret}, "--nats-user and --nats-token and --nats-nkey cannot be used together"},
		{"a file with garbage for credentials", []string{"--nats-creds=" + garbage}, "--nats-creds ($NATS_CREDS) must name a file with a user JWT and its seed: this is another one"},
		{"a file with garbage for an nkey", []string{"--nats-nkey=" + garbage}, "--nats-nkey ($NATS_NKEY) must name a file with the seed of a user's nkey: this is another one"},
		{"a file with garbage for certificates", []string{"--nats-ca=" + garbage}, "--nats-ca ($NATS_CA) must name a PEM file with certificates: this is another one"},
		{"a seed in place of its file", []string{"--nats-nkey=" + secret}, "--nats-nkey ($NATS_NKEY) must name a file with the seed of a user's nkey: no such file or directory"},
		{"another certificate's key", []string{"--nats-cert=" + files.clientCert, "--nats-key=" + files.serverKey}, "--nats-cert ($NATS_CERT) and --nats-key ($NATS_KEY) must name PEM files with a certificate and its key"},
		{"a key that is not there", []string{"--nats-cert=" + files.clientCert, "--nats-key=/no/such/file"}, "must name PEM files with a certificate and its key: no such file or directory"},
		{"a file with garbage for MySQL's authority", []string{"--mysql-ca=" + garbage}, "--mysql-ca ($MYSQL_CA) must name a PEM file with certificates: this is another one"},
		{"another certificate's key for MySQL", []string{"--mysql-cert=" + files.clientCert, "--mysql-key=" + files.serverKey}, "--mysql-cert ($MYSQL_CERT) and --mysql-key ($MYSQL_KEY) must name PEM files with a certificate and its key: this is another one"},
		{"a key for MySQL that is not there", []string{"--mysql-cert=" + files.clientCert, "--mysql-key=/no/such/file"}, "must name PEM files with a certificate and its key: no such file or directory"},
		{"an authority, and a DSN that trusts everybody", []string{"--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth?tls=skip-verify", "--mysql-ca=" + files.ca}, "--mysql-dsn ($MYSQL_DSN): repo: the MySQL DSN: its option tls contradicts the certificates: leave it out"},
		{"an authority, and a DSN that does without TLS where it must", []string{"--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth?allowFallbackToPlaintext=true", "--mysql-ca=" + files.ca}, "--mysql-dsn ($MYSQL_DSN): repo: the MySQL DSN: its option allowFallbackToPlaintext contradicts the certificates: leave it out"},
		{"a longest delay that is not the longest", []string{"--delay-transient=11s"}, "--delay-transient-max ($PREAUTH_DELAY_TRANSIENT_MAX) must not be less than --delay-transient, which is 11s"},
		{"subjects that cover each other", []string{"--subject-failed=preauth.updated.failed"}, `--subject-… and --stream-… do not go together: impossible setting: the updated subject "preauth.updated" covers`},
		{"streams of one name", []string{"--stream-tokens=PREAUTH"}, "the three streams need three names"},
		{"no base URL", []string{"--wechat-url="}, "--wechat-url ($PREAUTH_WECHAT_URL) must be one base URL at least, such as https://api.weixin.qq.com"},
		{"no path", []string{"--wechat-path="}, "--wechat-path ($PREAUTH_WECHAT_PATH) must be a path, such as /cgi-bin/"},
		{"an argument behind a stray space", []string{"--nats-user=", secret}, "look for a stray space"},
		{"an unknown flag", []string{"--nats-pasword=" + secret}, `unknown flag --nats-pasword, did you mean "--nats-password"?`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { refused(t, []string{test.says}, append(possible, test.args...)...) })
	}
	t.Run("all that is out of its range at once", func(t *testing.T) {
		refused(t, []string{
			"preauth: --in-hand ($PREAUTH_IN_HAND) must be 1 to 100000, not 0\n",
			"preauth: --stall ($PREAUTH_STALL) must be 1s to 24h, not -1s\n",
		}, append(possible, "--in-hand=0", "--stall=-1s")...)
	})
}

func TestOtherCommandsRefuseImpossibleValues(t *testing.T) {
	tests := []struct {
		args []string
		says string
	}{
		{nil, `expected one of "serve", "schema", "check", "lookup"`},
		{[]string{"server"}, `did you mean "serve"`},
		{[]string{"run"}, `"run" is no command of this build`},
		{[]string{"schema"}, `expected one of "print", "apply"`},
		{[]string{"schema", "apply"}, "no database: name one with --mysql-dsn"},
		{[]string{"schema", "apply", "--mysql-dsn=" + secret}, "--mysql-dsn ($MYSQL_DSN): repo: the MySQL DSN: it must read "},
		{[]string{"schema", "apply", "--mysql-connections=1"}, "--mysql-connections ($MYSQL_CONNECTIONS) must be 2 to 10000"},
		{[]string{"check", "--admin-listen=here"}, "--admin-listen ($PREAUTH_ADMIN_LISTEN) must be host:port"},
		{[]string{"check", "--admin-listen=127.0.0.1:0"}, "--admin-listen ($PREAUTH_ADMIN_LISTEN) must have the port on which the service listens"},
		{[]string{"check", "--timeout=0s"}, "--timeout must be 1ms to 1m, not 0s"},
		{[]string{"lookup"}, `expected "<component>"`},
		{[]string{"lookup", "a.b"}, "<component>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"lookup", "wx1", "--min-ttl=-1s"}, "--min-ttl must be 0s to 1h, not -1s"},
		{[]string{"lookup", "wx1", "--timeout=2m"}, "--timeout must be 1ms to 1m, not 2m0s"},
		{[]string{"lookup", "wx1", "--subject-lookup=>"}, "--subject-lookup ($PREAUTH_SUBJECT_LOOKUP) must be words"},
		{[]string{"lookup", "wx1", "--nats-url=:" + secret}, "--nats-url ($NATS_URL) must be addresses of NATS servers"},
		{[]string{"lookup", "wx1", "--nats-creds=/no/such/" + secret}, "--nats-creds ($NATS_CREDS) must name a file"},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) { refused(t, []string{test.says}, test.args...) })
	}
}

// parseServe returns what "preauth serve" understands.
func parseServe(t *testing.T, args ...string) map[string]any {
	t.Helper()
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	forgetEmptyVariables(parser.Model)
	ctx, err := parser.Parse(append([]string{"serve"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for _, flag := range ctx.Flags() {
		values[flag.Name] = flag.Target.Interface()
		if list, ok := values[flag.Name].([]string); ok {
			values[flag.Name] = strings.Join(list, ",")
		}
	}
	return values
}

func TestAVariableReplacesTheDefaultAndAFlagReplacesTheVariable(t *testing.T) {
	flags, file := settings(t, "serve"), write(t, "file", "")
	values := func(of func(*kong.Flag) string) (args []string) {
		for _, flag := range flags {
			args = append(args, "--"+flag.Name+"="+of(flag))
		}
		return args
	}
	possible := func(flag *kong.Flag) string { return cmp.Or(samples[flag.Name].possible, file) }
	byDefault, byFlag := parseServe(t), parseServe(t, values(possible)...)
	for _, flag := range flags {
		if byDefault[flag.Name] == byFlag[flag.Name] {
			t.Errorf("--%s=%s gives %v, which is the default", flag.Name, possible(flag), byFlag[flag.Name])
		}
	}

	for _, flag := range flags {
		t.Setenv(flag.Envs[0], possible(flag))
	}
	if got := parseServe(t); !maps.Equal(got, byFlag) {
		t.Errorf("variables give\n%v, want what flags give:\n%v", got, byFlag)
	}
	defaults := values(func(flag *kong.Flag) string {
		if flag.IsBool() {
			return "false"
		}
		return flag.Default
	})
	if got := parseServe(t, defaults...); !maps.Equal(got, byDefault) {
		t.Errorf("flags beside variables give\n%v, want\n%v", got, byDefault)
	}
	for _, flag := range flags {
		t.Setenv(flag.Envs[0], "")
	}
	if got := parseServe(t); !maps.Equal(got, byDefault) {
		t.Errorf("empty variables give\n%v, want the defaults\n%v", got, byDefault)
	}
}

func TestContentOfAFileThatIsNotThereDoesNotNameIt(t *testing.T) {
	_, err := contentOf(filepath.Join(t.TempDir(), secret))
	if err == nil || !os.IsNotExist(err) {
		t.Errorf("the error is %v, want that there is no such file", err)
	}
	hasNoSecret(t, err.Error())
}
