package app

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// FuzzSettings gives each setting of "preauth serve" any value, as a flag or as a variable, beside
// any other argument. Either the service could start, or the error names the flag and says what to
// change.
//
//	go test -run '^$' -fuzz '^FuzzSettings$' -fuzztime 5m ./internal/app
func FuzzSettings(f *testing.F) {
	flags := settings(f)
	values := []string{
		"", " ", "0", "-1", "1", "00", "1e3", "1e400", "NaN", "Inf", "0x10", "1_000", "0.5", "9223372036854775808", "-9223372036854775809",
		"5s", "-5s", "0s", "1e3s", "NaNs", "9223372036854775807ns", "9223372036854775808ns", "1h1h", "5", "5 s", "∞",
		"true", "yes", "TRUE", "\x00", "a\x00b", "\xff", "預", "a.b", "a..b", ".a", "a.", "*", ">", "a.>", "$JS", "a b", "a\tb", "a\r\nb", "-", "--", "-x", "--help", "=",
		"127.0.0.1:0", ":0", ":-1", "[::1]:80", "::1:80", "127.0.0.1:65536", "[", "nats://", "nats://u:" + secret + "@h:x", "nats://h,,", "http://h", "nats://[::1",
		"https://u:" + secret + "@h", "https://h?" + secret, "https://h,", "%zz", "/a?b", "//h", "/", "u:" + secret + "@tcp(h)/d", "u:" + secret + "@tcp(h/d", secret,
		"/no/such/" + secret, strings.Repeat("x", 65), strings.Repeat("x", 100_000), strings.Repeat(",", 1000), "component.token.updated", "preauth.updated.x", "PREAUTH",
	}
	for i := range flags {
		for j, value := range values {
			if (i+j)%6 == 0 { // all of them take a minute
				f.Add(uint8(i), value, (i+j)%4 == 0, "")
			}
		}
	}
	for _, args := range []string{"serve", "--", "--\x00", "-\xff", "--no-such=" + secret, "schema\napply", "lookup\na.b", "check", "--help", "--version", "=", "--nats-user", "\n\n"} {
		f.Add(uint8(0), "", false, args)
	}
	f.Fuzz(func(t *testing.T, which uint8, value string, variable bool, more string) {
		flag := flags[int(which)%len(flags)]
		if _, err := os.Stat(value); err == nil || strings.ContainsRune(value, 0) && variable || len(more) > 10_000 {
			t.Skip("a file that is there may be a device without an end, and no variable can hold a NUL")
		}
		args := []string{"serve"}
		if flag.Name != "mysql-dsn-file" {
			args = append(args, "--mysql-dsn=u:p@tcp(127.0.0.1:1)/d")
		}
		if variable {
			t.Setenv(flag.Envs[0], value)
		} else {
			args = append(args, "--"+flag.Name+"="+value)
		}
		if more != "" {
			args = append(args, strings.Split(more, "\n")...)
		}
		err := settle(t, args)
		if err == nil {
			return
		}
		text := err.Error()
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%q: %v is no usageError", args, err)
		}
		if more == "" && !strings.Contains(text, flag.Name) && flag.Group.Key != "streams" {
			t.Errorf("%q: the refusal %q does not name the flag", args, text)
		}
		if len(text) > 1000+8*(len(value)+len(more)) || strings.ContainsRune(text, 0) && !strings.Contains(more, "\x00") {
			t.Errorf("%q: the refusal is out of bounds: %q", args, text)
		}
		// The error must not repeat what may be a secret.
		if strings.Contains(value, secret) && more == "" && mayHoldSecret(flag.Name) && strings.Contains(text, secret) {
			t.Errorf("%q: the refusal %q repeats the value", args, text)
		}
	})
}

// mayHoldSecret reports whether people may put a password, a token or a seed into a setting, even
// by mistake.
func mayHoldSecret(flag string) bool {
	return strings.HasPrefix(flag, "mysql-dsn") || strings.HasPrefix(flag, "nats-") && flag != "nats-tls-first" ||
		flag == "context" || flag == "wechat-url" || flag == "wechat-path"
}

// settle checks the settings as "preauth serve" does before it starts.
func settle(t *testing.T, args []string) error {
	t.Helper()
	var c cli
	exited := false
	parser := newParser(t, &c, kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) { exited = true }))
	command, err := parseArguments(parser, args)
	if exited {
		return nil
	}
	if err != nil {
		return err
	}
	if command.Command() != "serve" {
		return nil
	}
	cfg, err := c.Serve.config()
	if err != nil {
		return err
	}
	db, err := c.Serve.MySQL.Open()
	if err != nil {
		return err
	}
	defer db.Close()
	api, err := c.Serve.WeChat.client()
	if err != nil {
		return err
	}
	api.Close()
	if _, err := c.Serve.NATS.Options(); err != nil {
		return err
	}
	_ = c.Serve.Log.Logger(io.Discard)
	return cfg.Check() // must find nothing new
}
