package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newContext writes a context as the nats CLI does, and returns its name.
func newContext(t *testing.T, content string) string {
	t.Helper()
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	dir := filepath.Join(config, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mine.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return "mine"
}

func TestSettingsOfAContext(t *testing.T) {
	for _, name := range []string{"NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "NATS_CREDS", "NATS_NKEY", "NATS_CERT", "NATS_KEY", "NATS_CA"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", "/home/me")
	t.Setenv("KEYS", "/keys")
	const (
		login = `"url":"nats://a.example.com","user":"alice","password":"` + secret + `"`
		files = `"creds":"$KEYS/a.creds","cert":"~/a.pem","key":"/b.pem","ca":"/ca.pem"`
	)
	for name, test := range map[string]struct {
		context string
		args    []string
		want    map[string]any // other settings must be at their defaults
	}{
		"nothing": {`{}`, nil, nil},
		"what preauth has no use for": {
			`{"description":"d","color_scheme":"c","jetstream_event_prefix":"e","url":"","user":null,"socks_proxy":"","some":{"new":"one"}}`, nil, nil,
		},
		"a login": {
			`{` + login + `,"tls_first":true,"inbox_prefix":"_INBOX.me","jetstream_domain":"hub"}`, nil,
			map[string]any{
				"nats-url": "nats://a.example.com", "nats-user": "alice", "nats-password": secret, "nats-tls-first": true,
				"nats-inbox-prefix": "_INBOX.me", "nats-js-domain": "hub",
			},
		},
		"files": {
			`{` + files + `}`, nil,
			map[string]any{"nats-creds": "/keys/a.creds", "nats-cert": "/home/me/a.pem", "nats-key": "/b.pem", "nats-ca": "/ca.pem"},
		},
		"another server, even the default one": {
			`{` + login + `}`,
			[]string{"--nats-url=nats://127.0.0.1:4222"},
			map[string]any{"nats-user": "alice", "nats-password": secret},
		},
		"another login replaces all of the context's": {
			`{` + login + `,"creds":"/a.creds"}`,
			[]string{"--nats-token=t"},
			map[string]any{"nats-url": "nats://a.example.com", "nats-token": "t"},
		},
		"another password keeps the user": {
			`{` + login + `}`,
			[]string{"--nats-password=p"},
			map[string]any{"nats-url": "nats://a.example.com", "nats-user": "alice", "nats-password": "p"},
		},
		"a password that the context lacks": {
			`{"user":"alice"}`,
			[]string{"--nats-password=p"},
			map[string]any{"nats-user": "alice", "nats-password": "p"},
		},
		"another certificate replaces its key": {
			`{` + files + `}`,
			[]string{"--nats-cert=/c.pem"},
			map[string]any{"nats-creds": "/keys/a.creds", "nats-cert": "/c.pem", "nats-ca": "/ca.pem"},
		},
		"a switch that is off": {
			`{"tls_first":true}`, []string{"--nats-tls-first=false"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			byDefault := parseServe(t)
			context := newContext(t, test.context)
			got := parseServe(t, append(test.args, "--context="+context)...)
			for flag, value := range got {
				want, ok := test.want[flag]
				if !ok {
					want = byDefault[flag]
				}
				if flag == "context" {
					want = context
				}
				if value != want {
					t.Errorf("--%s is %v, want %v", flag, value, want)
				}
			}
			// Variables say the same as flags, and a file the same as a name.
			for _, arg := range test.args {
				flag, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
				t.Setenv(strings.ToUpper(strings.ReplaceAll(flag, "-", "_")), value)
			}
			t.Setenv("NATS_CONTEXT", filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context", context+".json"))
			again := parseServe(t)
			delete(got, "context")
			delete(again, "context")
			if fmt.Sprint(got) != fmt.Sprint(again) {
				t.Errorf("variables and the file give\n%v, want\n%v", again, got)
			}
		})
	}
}

func TestContextThatCannotBeUsed(t *testing.T) {
	serve := []string{"serve", "--mysql-dsn=me:" + secret + "@tcp(127.0.0.1:1)/preauth", "--admin-listen=127.0.0.1:0"}
	for name, test := range map[string]struct {
		context string
		args    []string
		says    string
	}{
		"no JSON":                {secret, nil, "--context ($NATS_CONTEXT) must name a context whose file is a JSON object"},
		"no object":              {`["` + secret + `"]`, nil, "must name a context whose file is a JSON object"},
		"a number as a URL":      {`{"url":1}`, nil, "url of the context must be a text"},
		"a text as a switch":     {`{"tls_first":"` + secret + `"}`, nil, "tls_first of the context must be true or false"},
		"an impossible URL":      {`{"url":"http://` + secret + `"}`, nil, "url of the context must be addresses of NATS servers"},
		"an impossible domain":   {`{"jetstream_domain":"a.b"}`, nil, "jetstream_domain of the context must be 1 to 64 letters"},
		"a proxy":                {`{"socks_proxy":"socks5://` + secret + `"}`, nil, "without socks_proxy, which preauth cannot use: connect without a proxy"},
		"a JWT":                  {`{"user_jwt":"` + secret + `"}`, nil, "without user_jwt, which preauth cannot use"},
		"a user alone":           {`{"user":"` + secret + `"}`, nil, "has a password beside the user: add it, give --nats-password ($NATS_PASSWORD)"},
		"two logins":             {`{"token":"` + secret + `","creds":"/no/such"}`, nil, "--nats-token and --nats-creds cannot be used together: keep one of them, here or in the context"},
		"a file that is missing": {`{"nkey":"/no/such/` + secret + `"}`, nil, "--nats-nkey ($NATS_NKEY) or the context must name a file with the seed of a user's nkey"},
		"half a certificate":     {`{"cert":"/no/such"}`, nil, "go together: give both or none, here or in the context"},
		"a password beside a file of its own": {
			`{"creds":"/no/such"}`, []string{"--nats-password=" + secret}, "--nats-password ($NATS_PASSWORD) goes with --nats-user",
		},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, []string{"preauth: ", test.says}, append(append(serve, "--context="+newContext(t, test.context)), test.args...)...)
		})
	}
}

// The context that the nats CLI would choose by itself is for people, not for services.
func TestOnlyTheNamedContextIsUsed(t *testing.T) {
	context := newContext(t, `{"url":"nats://a.example.com"}`)
	selected := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context.txt")
	if err := os.WriteFile(selected, []byte(context), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := parseServe(t)["nats-url"]; got != "nats://127.0.0.1:4222" {
		t.Errorf("without a context, the service connects to %v", got)
	}
}
