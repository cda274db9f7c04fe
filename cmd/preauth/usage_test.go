package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"preauth/internal/app"
	"preauth/internal/app/apptest"
)

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
		{"a file with garbage for a DSN", []string{"--mysql-dsn=", "--mysql-dsn-file=" + garbage}, "--mysql-dsn-file ($MYSQL_DSN_FILE): database: the MySQL DSN: it must read "},
		{"two ways to log in to NATS", []string{"--nats-user=me", "--nats-token=" + secret}, "--nats-user and --nats-token cannot be used together: keep one of them"},
		{"three ways", []string{"--nats-user=me", "--nats-nkey=" + seed, "--nats-token=" + secret}, "--nats-user and --nats-token and --nats-nkey cannot be used together"},
		{"a file with garbage for credentials", []string{"--nats-creds=" + garbage}, "--nats-creds ($NATS_CREDS) must name a file with a user JWT and its seed: this file contains something else"},
		{"a file with garbage for an nkey", []string{"--nats-nkey=" + garbage}, "--nats-nkey ($NATS_NKEY) must name a file with the seed of a user's nkey: this file contains something else"},
		{"a file with garbage for certificates", []string{"--nats-ca=" + garbage}, "--nats-ca ($NATS_CA) must name a PEM file with certificates: this file contains something else"},
		{"a seed in place of its file", []string{"--nats-nkey=" + secret}, "--nats-nkey ($NATS_NKEY) must name a file with the seed of a user's nkey: no such file or directory"},
		{"another certificate's key", []string{"--nats-cert=" + files.clientCert, "--nats-key=" + files.serverKey}, "--nats-cert ($NATS_CERT) and --nats-key ($NATS_KEY) must name PEM files with a certificate and its key"},
		{"a key that is not there", []string{"--nats-cert=" + files.clientCert, "--nats-key=/no/such/file"}, "must name PEM files with a certificate and its key: no such file or directory"},
		{"a file with garbage for MySQL's authority", []string{"--mysql-ca=" + garbage}, "--mysql-ca ($MYSQL_CA) names a file that contains no PEM certificate"},
		{"another certificate's key for MySQL", []string{"--mysql-cert=" + files.clientCert, "--mysql-key=" + files.serverKey}, "--mysql-cert ($MYSQL_CERT) and --mysql-key ($MYSQL_KEY) must name PEM files with a certificate and its key: these files contain something else"},
		{"a key for MySQL that is not there", []string{"--mysql-cert=" + files.clientCert, "--mysql-key=/no/such/file"}, "must name PEM files with a certificate and its key: no such file or directory"},
		{"an authority, and a DSN that trusts everybody", []string{"--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth?tls=skip-verify", "--mysql-ca=" + files.ca}, "--mysql-dsn ($MYSQL_DSN): database: the MySQL DSN: its option tls contradicts the certificates: leave it out"},
		{"an authority, and a DSN that does without TLS where it must", []string{"--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth?allowFallbackToPlaintext=true", "--mysql-ca=" + files.ca}, "--mysql-dsn ($MYSQL_DSN): database: the MySQL DSN: its option allowFallbackToPlaintext contradicts the certificates: leave it out"},
		{"a longest delay that is not the longest", []string{"--delay-transient=11s"}, "--delay-transient-max ($PREAUTH_DELAY_TRANSIENT_MAX) must not be less than --delay-transient, which is 11s"},
		{"streams of one name", []string{"--stream-tokens=PREAUTH"}, "--stream-tokens, --stream-updates, --stream-failures, --stream-authorizations, --stream-authorized and --kv-bucket: invalid setting: each stream needs a name of its own"},
		{"no base URL", []string{"--wechat-url="}, "--wechat-url ($PREAUTH_WECHAT_URL) must be at least one base URL, such as https://api.weixin.qq.com"},
		{"no path", []string{"--wechat-path="}, "--wechat-path ($PREAUTH_WECHAT_PATH) must be a path, such as /cgi-bin/"},
		{"an argument behind a stray space", []string{"--nats-user=", secret}, "look for a stray space"},
		{"an unknown flag", []string{"--nats-pasword=" + secret}, `unknown flag --nats-pasword, did you mean "--nats-password"?`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { apptest.Refused(t, run, []string{test.says}, append(possible, test.args...)...) })
	}
	t.Run("all that is out of its range at once", func(t *testing.T) {
		apptest.Refused(t, run, []string{
			"preauth: --in-flight ($PREAUTH_IN_FLIGHT) must be 1 to 100000, not 0\n",
			"preauth: --stall ($PREAUTH_STALL) must be 1s to 24h, not -1s\n",
		}, append(possible, "--in-flight=0", "--stall=-1s")...)
	})
}

func TestOtherCommandsRefuseImpossibleValues(t *testing.T) {
	tests := []struct {
		args []string
		says string
	}{
		{nil, `expected one of "serve", "schema", "check", "doctor", `},
		{[]string{"server"}, `did you mean "serve"`},
		{[]string{"launch"}, `"launch" is not a command`},
		{[]string{"schema"}, `expected one of "print", "status", "apply"`},
		{[]string{"schema", "apply"}, "no database: name one with --mysql-dsn"},
		{[]string{"schema", "apply", "--mysql-dsn=" + secret}, "--mysql-dsn ($MYSQL_DSN): database: the MySQL DSN: it must read "},
		{[]string{"schema", "apply", "--mysql-connections=1"}, "--mysql-connections ($MYSQL_CONNECTIONS) must be 2 to 10000"},
		{[]string{"check", "--admin-listen=here"}, "--admin-listen ($PREAUTH_ADMIN_LISTEN) must be host:port"},
		{[]string{"check", "--admin-listen=127.0.0.1:0"}, "--admin-listen ($PREAUTH_ADMIN_LISTEN) must have the port on which the service listens"},
		{[]string{"check", "--timeout=0s"}, "--timeout must be 1ms to 1m, not 0s"},
		{[]string{"status", "a.b"}, "<component>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"status", "--state=broken"}, "--state must be"},
		{[]string{"status", "wx1", "--state=valid"}, "--state and --prefix are about all components"},
		{[]string{"status", "--every=1ms"}, "--every must be 100ms to 1h, not 1ms"},
		{[]string{"renew"}, `expected "<component>"`},
		{[]string{"renew", "a.b"}, "<component>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"watch", "a.b"}, "<component>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"failures", "a.b"}, "<component>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"failures", "--since=0s"}, "--since must be 1s to 8760h, not 0s"},
		{[]string{"claim", "a.b"}, "<component>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"announce", "wx1", secret}, "look for a stray space"},
		{[]string{"announce", "wx1", "--token-file=/no/such/" + secret}, "--token-file must name a file, or be - for standard input: no such file or directory"},
		{[]string{"announce", "wx1", "--expires-in=25h"}, "--expires-in must be 1s to 24h, not 25h"},
		{[]string{"resolve", "--code-file=/no/such/" + secret}, "--code-file must name a file, or be - for standard input: no such file or directory"},
		{[]string{"authorized", "wx1", "a.b"}, "<authorizer>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"lookup"}, `expected "<component>"`},
		{[]string{"lookup", "a.b"}, "<component>: invalid: component_appid must be 1 to 64 letters"},
		{[]string{"lookup", "wx1", "--min-ttl=-1s"}, "--min-ttl must be 0s to 1h, not -1s"},
		{[]string{"lookup", "wx1", "--timeout=2m"}, "--timeout must be 1ms to 1m, not 2m0s"},
		{[]string{"lookup", "wx1", "--subject-prefix=>"}, "--subject-prefix ($PREAUTH_SUBJECT_PREFIX) must be words"},
		{[]string{"lookup", "wx1", "--nats-url=:" + secret}, "--nats-url ($NATS_URL) must be addresses of NATS servers"},
		{[]string{"lookup", "wx1", "--nats-creds=/no/such/" + secret}, "--nats-creds ($NATS_CREDS) must name a file"},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) { apptest.Refused(t, run, []string{test.says}, test.args...) })
	}
}

func TestHelpListsEveryCommandAndFlag(t *testing.T) {
	model := kong.Must(new(cli), kong.Vars{"version": ""}).Model
	for _, command := range append(model.Leaves(false), model.Node) {
		path := strings.Fields(command.Path())
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			status, help, stderr := do(t, append(path, "--help")...)
			if status != 0 || stderr != "" {
				t.Errorf("status %d, %q; want 0 and nothing", status, stderr)
			}
			words := strings.Join(strings.Fields(help), " ")
			for _, flag := range command.Flags {
				if strings.Contains(words, "--"+flag.Name+"=") == flag.Hidden && !flag.IsBool() {
					t.Errorf("--%s is hidden: %v; the help is\n%s", flag.Name, flag.Hidden, help)
				}
				if !flag.Hidden && !strings.Contains(words, flag.Help) {
					t.Errorf("--help does not say %q", flag.Help)
				}
			}
			for _, child := range command.Children {
				if strings.Contains(words, child.Name+" "+child.Help) == child.Hidden {
					t.Errorf("--help has the command %q, or should: it is hidden: %v", child.Name, child.Hidden)
				}
			}
		})
	}
}

// docs/operation.md names every command.
func TestCommandsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range kong.Must(new(cli), kong.Vars{"version": ""}).Model.Leaves(true) {
		if words := "preauth " + strings.Fields(command.Path())[0]; !regexp.MustCompile("`" + words + "[` ]").Match(page) {
			t.Errorf("docs/operation.md does not name %q", words)
		}
	}
}

func TestVersionIsPrinted(t *testing.T) {
	status, out, stderr := do(t, "--version")
	if status != 0 || out != app.Version()+"\n" || stderr != "" {
		t.Errorf("status %d, %q, %q; want the version %s", status, out, stderr, app.Version())
	}
	if status, out, stderr := do(t, "version"); status != 0 || !strings.HasPrefix(out, "preauth  "+app.Version()+"\ncommit   ") || stderr != "" {
		t.Errorf("status %d, %q, %q; want the version %s and the commit", status, out, stderr, app.Version())
	}
	status, out, stderr = do(t, "version", "--json")
	var build app.Build
	if err := json.Unmarshal([]byte(out), &build); err != nil || status != 0 || stderr != "" || build != app.ReadBuild() {
		t.Errorf("status %d, %q, %q, %v; want %+v", status, out, stderr, err, app.ReadBuild())
	}
}

// An argument that is empty, as from a variable that is not set, does not count as left out.
func TestEmptyArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"replay", "--dry-run", ""}, {"status", ""}, {"failures", ""}, {"quota", ""}, {"renew", ""}} {
		if status, _, stderr := do(t, args...); status != 2 || !strings.Contains(stderr, "is empty") {
			t.Errorf("%q: status %d, %q", args, status, stderr)
		}
	}
}
