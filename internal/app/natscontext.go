package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// contextFlag is the flag that names a context of the nats CLI.
const contextFlag = "context"

// contextSettings are the members of a context, with the flags that are the same setting. Settings
// with the same part are replaced together: half a login of each would be none.
var contextSettings = []struct {
	member, flag, part string
	file               bool
}{
	{member: "url", flag: "nats-url"},
	{member: "user", flag: "nats-user", part: "login"},
	{member: "token", flag: "nats-token", part: "login"},
	{member: "creds", flag: "nats-creds", part: "login", file: true},
	{member: "nkey", flag: "nats-nkey", part: "login", file: true},
	{member: "password", flag: "nats-password"},
	{member: "cert", flag: "nats-cert", part: "certificate", file: true},
	{member: "key", flag: "nats-key", part: "certificate", file: true},
	{member: "ca", flag: "nats-ca", file: true},
	{member: "tls_first", flag: "nats-tls-first"},
	{member: "inbox_prefix", flag: "nats-inbox-prefix"},
	{member: "jetstream_domain", flag: "nats-js-domain"},
}

// contextRefused are members without which the nats CLI would connect in another way, and what to do
// instead.
var contextRefused = map[string]string{
	"socks_proxy":          "connect without a proxy",
	"user_jwt":             "put the JWT and its seed into a file for creds",
	"user_seed":            "put the JWT and its seed into a file for creds",
	"nsc":                  "put the file that nsc names into creds",
	"windows_cert_store":   "put the certificate into a file for cert",
	"jetstream_api_prefix": "give jetstream_domain instead",
}

// applyContext fills in what neither flags nor variables say from the context that a command names,
// if it names one.
func applyContext(command *kong.Context) error {
	flags := map[string]*kong.Flag{}
	for _, flag := range command.Flags() {
		flags[flag.Name] = flag
	}
	named := flags[contextFlag]
	if named == nil || named.Target.String() == "" {
		return nil
	}
	members, err := readContext(named.Target.String())
	if err != nil {
		return UsageErrorf("%s %w", label(named), err)
	}
	explicit, replaced := map[string]bool{}, map[string]bool{}
	for _, s := range contextSettings {
		if flag := flags[s.flag]; flag != nil && isExplicit(command, flag) {
			explicit[s.flag] = true
			if s.part != "" {
				replaced[s.part] = true
			}
		}
	}
	for _, s := range contextSettings {
		flag, value := flags[s.flag], members[s.member]
		if flag == nil || value == nil || explicit[s.flag] || replaced[s.part] || s.member == "password" && replaced["login"] {
			continue
		}
		if text, ok := value.(string); ok && s.file {
			value = expanded(text)
		}
		if err := setFlag(flag, value); err != nil {
			return UsageErrorf("%s: %s of the context must be %w", label(named), s.member, err)
		}
	}
	if members["user"] != nil && !replaced["login"] && flags["nats-password"].Target.String() == "" {
		return UsageErrorf("%s must name a context that has a password beside the user: add it, give %s, or have a token instead", label(named), label(flags["nats-password"]))
	}
	return nil
}

// isExplicit reports whether a flag or its variable is given. An empty variable counts as unset.
func isExplicit(command *kong.Context, flag *kong.Flag) bool {
	if slices.ContainsFunc(command.Path, func(p *kong.Path) bool { return p.Flag == flag }) {
		return true
	}
	return slices.ContainsFunc(flag.Envs, func(name string) bool { return os.Getenv(name) != "" })
}

// setFlag sets a flag. Its error says what the value must be.
func setFlag(flag *kong.Flag, value any) error {
	if got := reflect.ValueOf(value); got.Kind() == flag.Target.Kind() {
		form, ok := forms[flag.Tag.Get("form")]
		if ok && !form.matches(got.String()) {
			return errors.New(form.want)
		}
		flag.Target.Set(got)
		return nil
	}
	if flag.Target.Kind() == reflect.Bool {
		return errors.New("true or false")
	}
	return errors.New("a text")
}

// readContext returns the members of a context that are not empty. Its error continues the name of
// the flag and repeats neither a name nor a value.
func readContext(name string) (map[string]any, error) {
	const want = `must name a context that "nats context ls" shows, or be the absolute path of a context's file`
	file, err := contextPath(name)
	if err != nil {
		return nil, fmt.Errorf(want+": %w", err)
	}
	content, err := contentOf(file)
	if err != nil {
		return nil, fmt.Errorf(want+": %w", err)
	}
	members := map[string]any{}
	if json.Unmarshal(content, &members) != nil {
		return nil, errors.New(`must name a context whose file is a JSON object: "nats context edit" shows it`)
	}
	for member, value := range members {
		if value == nil || value == "" {
			delete(members, member)
		} else if instead, refused := contextRefused[member]; refused {
			return nil, fmt.Errorf("must name a context without %s, which preauth cannot use: %s", member, instead)
		}
	}
	return members, nil
}

// contextPath returns the file of a context, where the nats CLI has it.
func contextPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	if filepath.Base(name) != name || strings.Contains(name, "..") {
		return "", errors.New("this is neither")
	}
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "nats", "context", name+".json"), nil
}

// expanded returns a file's name as the nats CLI reads it: with variables, and with ~ for the home
// directory.
func expanded(file string) string {
	file = os.ExpandEnv(file)
	if below, ok := strings.CutPrefix(file, "~"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return home + below
		}
	}
	return file
}
