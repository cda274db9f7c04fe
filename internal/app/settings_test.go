package app

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"preauth/internal/app/apptest"
)

const secret = apptest.Secret

// writeFile creates a file in a directory that is the test's own, and returns its name.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func absolute(file string) string {
	path, err := filepath.Abs(file)
	if err != nil {
		panic(err)
	}
	return path
}

// sample is what the tests need to know about a setting.
type sample struct {
	// possible is a valid value other than the default. Empty: it takes more than one setting.
	possible string
	// impossible are invalid values.
	impossible []string
	// says is what the error for each of them contains besides the name of the flag.
	says string
}

// The kinds of values that many settings share.
var (
	aSubject = sample{"other.subject", []string{" ", "a b", "a..b", "a.*", ".a", "ä"}, "must be words of letters, digits, '_' and '-', joined by dots, such as preauth.updated"}
	aName    = sample{"OTHER", []string{" ", "a.b", "a b", strings.Repeat("x", 65)}, "must be 1 to 64 letters, digits, '_' and '-'"}
	aSwitch  = sample{"true", []string{"perhaps"}, "bool value must be true, 1, yes, false, 0 or no"}
	aDelay   = sample{"123ms", []string{"0s", "-1s", "25h"}, "must be 1ms to 24h"}
	anAddr   = sample{"127.0.0.1:0", []string{" ", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536", "::1:80"}, "must be host:port, such as 127.0.0.1:8180"}
	aContext = sample{absolute("testdata/context.json"), []string{"/no/such/" + secret, "/", "no-such-context", "../" + secret, "settings_test.go"}, "must name a context"}
	aFile    = sample{"", []string{"/no/such/" + secret, "/"}, "must name a "}
)

// samples has every setting of "preauth serve".
var samples = map[string]sample{
	"context":             aContext,
	"nats-url":            {"nats://example.com:4222, tls://example.com", []string{" ", "nats://", "http://example.com", "nats://u:" + secret + "@:x", "nats://example.com,", "nats://example.com:99999"}, "must be addresses of NATS servers"},
	"nats-user":           {"me", nil, ""}, // cmd/preauth tests the settings that exclude each other
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
	"wechat-url":          {"http://127.0.0.1:1", []string{" ", "example.com", "ftp://example.com", "https://u:" + secret + "@example.com", "https://example.com?token=" + secret, "https://a,,https://b"}, "must be an https or http URL"},
	"wechat-path":         {"/other", []string{" ", "other", "//example.com", "/a?b=" + secret}, "Path must begin with one /"},
	"wechat-timeout":      {"1s", []string{"0s", "99ms", "61s"}, "must be 100ms to 1m"},
	"calls-per-second":    {"7", []string{"0", "-1", "100001"}, "must be 1 to 100000"},
	"calls-per-day":       {"700", []string{"0", "99", "100000001"}, "must be 100 to 100000000"},
	"spares":              {"7", []string{"-1", "1001"}, "must be 0 to 1000"},
	"retention":           {"7h", []string{"0s", "59m", "8761h"}, "must be 1h to 8760h"},
	"wechat-calls":        {"7", []string{"0", "-1", "10001"}, "must be 1 to 10000"},
	"subject-prefix":      aSubject,
	"stream-tokens":       aName,
	"stream-updates":      aName,
	"stream-failures":     aName,
	"stream-replicas":     {"3", []string{"0", "2", "-1"}, "must be one of 1, 3, 5, not "},
	"stream-max-bytes":    {"1000000000", []string{"-1", "-9223372036854775808"}, "must be at least 0, not -"},
	"nats-js-domain":      aName,
	"nats-monitor":        {"http://127.0.0.1:8222", []string{" ", "127.0.0.1:8222", "nats://127.0.0.1:8222", "http://:8222", "http://me:" + secret + "@127.0.0.1:8222", "http://127.0.0.1:8222/?a=" + secret, "http://127.0.0.1:99999"}, "must be an http or https address, such as http://127.0.0.1:8222"},
	"durable":             aName,
	"source":              {"https://example.com/preauth", []string{" ", "a b", "%zz"}, "must be a URI reference, such as /preauth"},
	"in-flight":           {"7", []string{"0", "-1", "100001"}, "must be 1 to 100000"},
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

	"stream-authorizations": aName,
	"stream-authorized":     aName,
	"kv-bucket":             aName,
}

// cli is a command line with the service alone.
type cli struct {
	Serve Service `cmd:"" help:"Run the service."`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return Program{Name: "preauth", CLI: new(cli)}.Run(ctx, args, stdout, stderr)
}

// newParser returns the parser that fills in c.
func newParser(t testing.TB, c *cli, options ...kong.Option) *kong.Kong {
	t.Helper()
	parser, err := Program{Name: "preauth", CLI: c}.parser(options...)
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

// settings returns the flags of "preauth serve" that are settings.
func settings(t testing.TB) []*kong.Flag {
	t.Helper()
	serve := newParser(t, new(cli)).Model.Children[0]
	return slices.DeleteFunc(serve.Flags, func(flag *kong.Flag) bool { return len(flag.Envs) == 0 })
}

// refused requires that a command rejects its arguments.
func refused(t *testing.T, says []string, args ...string) {
	t.Helper()
	apptest.Refused(t, run, says, args...)
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
		if _, err := (WeChat{URLs: []string{"https://a.example", " https://b.example"}, Path: "/x"}).client(); err != nil {
			t.Errorf("%q: %v", proxy, err)
		}
	}
}

func TestServeRefusesImpossibleValues(t *testing.T) {
	possible := []string{"serve", "--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth", "--admin-listen=127.0.0.1:0", "--nats-url=nats://me:" + secret + "@127.0.0.1:1"}
	for _, flag := range settings(t) {
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
		case int, int64:
			refused(t, []string{"--" + flag.Name + ": expected a valid 64 bit int"}, append(args, "--"+flag.Name+"=many")...)
		case time.Duration:
			refused(t, []string{"--" + flag.Name + ": must be a duration with its unit, such as 300ms, 5s, 10m or 1h30m"}, append(args, "--"+flag.Name+"=5")...)
		}
	}
}

// parseServe returns the values of the settings of "preauth serve".
func parseServe(t *testing.T, args ...string) map[string]any {
	t.Helper()
	ctx, err := parseArguments(newParser(t, new(cli)), append([]string{"serve"}, args...))
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
	flags, file := settings(t), writeFile(t, "file", "{}")
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
	apptest.HasNoSecret(t, err.Error())
}

func TestAdminEndpointIsForThisMachineUnlessSaidOtherwise(t *testing.T) {
	host, _, err := net.SplitHostPort(parseServe(t)["admin-listen"].(string))
	if err != nil || !net.ParseIP(host).IsLoopback() {
		t.Errorf("it listens on %q, %v; want a loopback address", host, err)
	}
}

func TestVariablesThatNoSettingReadsAreRefused(t *testing.T) {
	serve := []string{"serve", "--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth", "--admin-listen=127.0.0.1:0", "--nats-url=nats://127.0.0.1:1"}
	for name, says := range map[string]string{
		"PREAUTH_SPARE":         "PREAUTH_SPARE: did you mean PREAUTH_SPARES?",
		"PREAUTH_WECHAT_URLS":   "PREAUTH_WECHAT_URLS: did you mean PREAUTH_WECHAT_URL?",
		"PREAUTH_MYSQL_DSN":     "PREAUTH_MYSQL_DSN: did you mean MYSQL_DSN?",
		"PREAUTH_NATS_URL":      "PREAUTH_NATS_URL: did you mean NATS_URL?",
		"PREAUTH_IN_HAND":       "PREAUTH_IN_HAND: did you mean PREAUTH_IN_FLIGHT?",
		"PREAUTH_SUBJECT_TOKEN": "PREAUTH_SUBJECT_TOKEN: use PREAUTH_SUBJECT_PREFIX, which puts a prefix before all subjects",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, secret)
			refused(t, []string{"preauth: no setting reads the variable " + says + "\n"}, serve...)
		})
	}
	known := []string{"PREAUTH_SPARES"}
	for _, variable := range []string{
		"PREAUTH_SPARES=1", "PREAUTH_SPARE=", "PATH=/bin", "PREAUTH_TEST_DSN=x", "PREAUTHOR=x",
		// Kubernetes sets these for services called preauth and preauth-admin.
		"PREAUTH_SERVICE_HOST=10.0.0.1", "PREAUTH_SERVICE_PORT=8180", "PREAUTH_SERVICE_PORT_ADMIN=8180", "PREAUTH_PORT=tcp://10.0.0.1:8180",
		"PREAUTH_PORT_8180_TCP=tcp://10.0.0.1:8180", "PREAUTH_PORT_8180_TCP_PROTO=tcp", "PREAUTH_PORT_8180_TCP_PORT=8180", "PREAUTH_PORT_8180_TCP_ADDR=10.0.0.1",
		"PREAUTH_ADMIN_SERVICE_HOST=10.0.0.1", "PREAUTH_ADMIN_PORT=tcp://10.0.0.1:80", "PREAUTH_ADMIN_PORT_80_TCP=tcp://10.0.0.1:80",
	} {
		if err := checkVariables(known, []string{variable}); err != nil {
			t.Errorf("%s: %v", variable, err)
		}
	}
	if err := checkVariables(nil, []string{"PREAUTH_SPARE=1"}); err != nil {
		t.Errorf("a program without variables: %v", err)
	}
}

func TestAValueThatLooksLikeAFlagIsAValue(t *testing.T) {
	serve := []string{"serve", "--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth", "--admin-listen=127.0.0.1:0", "--nats-url=nats://127.0.0.1:1"}
	for _, test := range []struct{ args, says string }{
		{"--spares -1", "--spares ($PREAUTH_SPARES) must be 0 to 1000, not -1\n"},
		{"--stall -5s --spares=1", "--stall ($PREAUTH_STALL) must be 1s to 24h, not -5s\n"},
		{"--stream-replicas -3", "--stream-replicas ($PREAUTH_STREAM_REPLICAS) must be one of 1, 3, 5, not -3\n"},
		{"--schema-apply -1", "--schema-apply: bool value must be true, 1, yes, false, 0 or no but got \"-1\""},
		{"--log-level -debug", "--log-level must have a value; if the value begins with '-', write --log-level=VALUE"},
		{"--nats-user --nats-password=" + secret, "--nats-user must have a value; if the value begins with '-', write --nats-user=VALUE"},
		{"--spares", "--spares must have a value"},
	} {
		refused(t, []string{"preauth: " + test.says}, append(serve, strings.Fields(test.args)...)...)
	}
	if got := parseServe(t, "--nats-user=me", "--nats-password", "-1"+secret)["nats-password"]; got != "-1"+secret {
		t.Errorf("the password is %q", got)
	}
}

func TestTheLogShowsChangedSettingsWithoutSecrets(t *testing.T) {
	attrs := func(args ...string) map[string]string {
		t.Helper()
		ctx, err := parseArguments(newParser(t, new(cli)), append([]string{"serve"}, args...))
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string]string{}
		for _, attr := range changed(ctx.Flags()) {
			shown[attr.Key] = attr.Value.String()
		}
		return shown
	}
	if shown := attrs(); len(shown) > 0 {
		t.Errorf("without arguments, %v differ from their defaults", shown)
	}
	var args, defaults []string
	for _, flag := range settings(t) {
		args = append(args, "--"+flag.Name+"="+cmp.Or(samples[flag.Name].possible, secret))
		if flag.Default != "" {
			defaults = append(defaults, "--"+flag.Name+"="+flag.Default)
		}
	}
	if shown := attrs(defaults...); len(shown) > 0 {
		t.Errorf("with their defaults given, %v differ from them", shown)
	}
	shown := attrs(args...)
	for _, flag := range settings(t) {
		want := samples[flag.Name].possible
		form := flag.Tag.Get("form")
		if mayHoldSecret(flag.Name) && form != "name" && form != "subject" || flag.Name == "mysql-ca" || flag.Name == "mysql-cert" || flag.Name == "mysql-key" {
			want = "set"
		}
		if d, err := time.ParseDuration(want); err == nil {
			want = d.String() // 7h0m0s for 7h
		}
		if shown[flag.Name] != want {
			t.Errorf("--%s is shown as %q, want %q", flag.Name, shown[flag.Name], want)
		}
	}
}

func TestTheLogSaysWhereThePartsAreWithoutSecrets(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://me:"+secret+"@proxy.example.com:3128")
	file := writeFile(t, "dsn", "me:"+secret+"@tcp(db.example.com:3306)/other?timeout=1s\n")
	s := Service{
		NATS:   NATS{URL: "nats://me:" + secret + "@a.example.com:4222, tls://" + secret + "@b.example.com,c.example.com"},
		MySQL:  MySQL{DSNFile: file},
		WeChat: WeChat{URLs: []string{"https://api.weixin.qq.com", "https://api2.weixin.qq.com"}},
	}
	out := new(strings.Builder)
	Log{Level: "info", Format: "text"}.Logger(out).LogAttrs(t.Context(), slog.LevelInfo, "starting", s.parts()...)
	for _, want := range []string{
		" nats=nats://a.example.com:4222,tls://b.example.com,nats://c.example.com ", " mysql=db.example.com:3306/other ",
		" wechat=https://api.weixin.qq.com,https://api2.weixin.qq.com ", " https_proxy=proxy.example.com:3128\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the line is %q, want %q in it", out, want)
		}
	}
	apptest.HasNoSecret(t, out.String())
}

func TestEverySettingOfTheServiceReachesIt(t *testing.T) {
	config := func(args ...string) reflect.Value {
		t.Helper()
		var c cli
		if _, err := parseArguments(newParser(t, &c), append([]string{"serve"}, args...)); err != nil {
			t.Fatal(err)
		}
		cfg, err := c.Serve.config()
		if err != nil {
			t.Fatal(err)
		}
		return reflect.ValueOf(cfg)
	}
	var args []string
	for _, flag := range settings(t) {
		value := samples[flag.Name].possible
		if strings.HasPrefix(flag.Name, "stream-") && flag.Tag.Get("form") == "name" {
			value = flag.Name // all of them differ
		}
		args = append(args, "--"+flag.Name+"="+value)
	}
	byDefault, changed := config(), config(args...)
	for _, field := range reflect.VisibleFields(byDefault.Type()) {
		if !field.IsExported() || slices.Contains([]string{"Version", "Now", "Trace", "Spans"}, field.Name) {
			continue
		}
		if reflect.DeepEqual(byDefault.FieldByIndex(field.Index).Interface(), changed.FieldByIndex(field.Index).Interface()) {
			t.Errorf("no setting changes %s", field.Name)
		}
	}
}
