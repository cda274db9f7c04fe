package app

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// A setting is a field with tags for kong. Three more tags say which values it may have:
//
//	range:"1s..10m"       a number or a duration, its smallest and, if any, its largest value
//	values:"auto,text"    one of a few texts or numbers
//	form:"address"        a text that has one of the forms below

// groups are the sections of the settings in --help and in docs/configuration.md.
var groups = []kong.Group{
	{Key: "nats", Title: "NATS", Description: "The nats CLI has the same variables, except NATS_TLS_FIRST, NATS_INBOX_PREFIX and NATS_JS_DOMAIN, which are only flags there. Instead of all of them, name one of its contexts. Use at most one way to log in: user and password, token, credentials file or nkey. Files are read again for each new connection, but not the context."},
	{Key: "mysql", Title: "MySQL", Description: "MySQL 8, MariaDB 10.6 or newer, or TiDB."},
	{Key: "wechat", Title: "WeChat"},
	{Key: "streams", Title: "Streams and subjects", Description: "These must be the same for all replicas."},
	{Key: "claims", Title: "Claims"},
	{Key: "work", Title: "Work"},
	{Key: "delays", Title: "Delays", Description: "Waits after a failure. Each is jittered by up to a quarter."},
	{Key: "admin", Title: "Admin and log"},
}

// usageError is an error about flags or environment variables. It makes the program exit with
// status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// UsageErrorf returns an error that makes the program exit with status 2. The text must name the
// flag and say what to change. It must not repeat a value that may be a secret, nor the name of a
// file: people give the secret itself where a file name belongs.
func UsageErrorf(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// forms are the forms that texts must have.
var forms = map[string]struct {
	matches func(string) bool
	want    string
}{
	"subject": {matches(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`), "words of letters, digits, '_' and '-', joined by dots, such as preauth.updated"},
	"name":    {matches(`^[A-Za-z0-9_-]{1,64}$`), "1 to 64 letters, digits, '_' and '-'"},
	"address": {isAddress, "host:port, such as 127.0.0.1:8180, with a port from 0 (any free one) to 65535"},
	"servers": {isServers, "addresses of NATS servers separated by commas, such as nats://127.0.0.1:4222 or tls://nats.example.com"},
	"monitor": {isMonitor, "an http or https address, such as http://127.0.0.1:8222"},
	"uri":     {isURIReference, "a URI reference, such as /preauth"},
}

func matches(pattern string) func(string) bool { return regexp.MustCompile(pattern).MatchString }

func isAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	return err == nil && port != "" && isPort(port)
}

// isPort accepts the empty text, which means the default port.
func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil
}

func isURIReference(text string) bool {
	_, err := url.Parse(text)
	return err == nil && text != "" && !strings.ContainsAny(text, " \t")
}

func isMonitor(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && isPort(u.Port()) && u.User == nil &&
		!strings.ContainsAny(text, "?# ")
}

func isServers(text string) bool {
	for server := range strings.SplitSeq(text, ",") {
		u, err := parseServer(server)
		if err != nil || u.Hostname() == "" || !isPort(u.Port()) || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return false
		}
	}
	return true
}

// parseServer parses the address of a NATS server, which may lack the scheme.
func parseServer(text string) (*url.URL, error) {
	text = strings.TrimSpace(text)
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	return url.Parse(text)
}

// changed returns the settings that differ from their defaults, for the log. It shows a text only
// if the text has a form that no secret has, and otherwise that the setting is set.
func changed(flags []*kong.Flag) []slog.Attr {
	var attrs []slog.Attr
	for _, flag := range flags {
		value, differs := flag.Target.Interface(), false
		switch v := value.(type) {
		case bool:
			differs = v
		case int, int64, time.Duration:
			differs = flag.Target.Int() != parse(flag.Default)
		case string:
			differs = v != flag.Default
			if form := flag.Tag.Get("form"); (form == "" || form == "servers" || form == "monitor") && flag.Tag.Get("values") == "" {
				value = "set"
			}
		case []string:
			differs, value = strings.Join(v, ",") != flag.Default, "set"
		}
		if differs && len(flag.Envs) > 0 {
			attrs = append(attrs, slog.Any(flag.Name, value))
		}
	}
	return attrs
}

// checkValues returns an error for each flag whose value its tags do not allow.
func checkValues(flags []*kong.Flag) error {
	var errs []error
	for _, flag := range flags {
		value := flag.Target
		if form, ok := forms[flag.Tag.Get("form")]; ok {
			if given := value.String() != "" || flag.HasDefault; given && !form.matches(value.String()) {
				errs = append(errs, UsageErrorf("%s must be %s", label(flag), form.want))
			}
		}
		low, high, bounded := bounds(flag)
		among := flag.Tag.Get("values")
		if bounded && (value.Int() < low || value.Int() > high) ||
			among != "" && !slices.Contains(strings.Split(among, ","), fmt.Sprint(value)) {
			errs = append(errs, UsageErrorf("%s must be %s, not %s", label(flag), valuesOf(flag), quoted(value)))
		}
	}
	return errors.Join(errs...)
}

// quoted formats a value for an error message. It escapes control characters.
func quoted(value reflect.Value) string {
	if value.Kind() == reflect.String {
		return strconv.Quote(value.String())
	}
	return fmt.Sprint(value)
}

// label names a setting in error messages.
func label(flag *kong.Flag) string {
	if len(flag.Envs) == 0 {
		return "--" + flag.Name
	}
	return "--" + flag.Name + " ($" + flag.Envs[0] + ")"
}

// bounds returns the smallest and the largest value of a flag that has a range.
func bounds(flag *kong.Flag) (low, high int64, ok bool) {
	from, to, ok := strings.Cut(flag.Tag.Get("range"), "..")
	switch {
	case !ok:
		return 0, 0, false
	case to == "":
		return parse(from), math.MaxInt64, true
	}
	return parse(from), parse(to), true
}

// parse returns one end of a range, which is a duration or a number.
func parse(text string) int64 {
	if d, err := time.ParseDuration(text); err == nil {
		return int64(d)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic("range: " + err.Error()) // a wrong tag, which every test of this package finds
	}
	return n
}

// valuesOf describes the values that a setting may have. It returns "" where name and default are
// enough.
func valuesOf(flag *kong.Flag) string {
	if from, to, ok := strings.Cut(flag.Tag.Get("range"), ".."); ok {
		if to == "" {
			return "at least " + from
		}
		return from + " to " + to
	}
	if values := flag.Tag.Get("values"); values != "" {
		return "one of " + strings.ReplaceAll(values, ",", ", ")
	}
	return ""
}

// Describe returns the help text of a setting: with the values that it may have, and its variable.
func Describe(value *kong.Value) string {
	text := value.Help
	if value.Flag == nil {
		return text
	}
	if values := valuesOf(value.Flag); values != "" {
		text += " " + capitalized(values) + "."
	}
	if len(value.Tag.Envs) > 0 {
		text += " $" + value.Tag.Envs[0]
	}
	return text
}

func capitalized(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// helpAll is the flag that shows the hidden settings.
type helpAll bool

// BeforeReset is called by kong, as for its own flag --help.
func (helpAll) BeforeReset(ctx *kong.Context) error {
	for _, flag := range ctx.Flags() {
		flag.Hidden = false
	}
	err := ctx.PrintUsage(false)
	ctx.Exit(0)
	return err
}

// durations parses durations. Its error says how to write one.
var durations = kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(
	func(ctx *kong.DecodeContext, target reflect.Value) error {
		var text string
		if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
			return err
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("must be a duration with its unit, such as 300ms, 5s, 10m or 1h30m, not %q", text)
		}
		target.SetInt(int64(d))
		return nil
	}))

// parseArguments parses the command line, adds what a context of the nats CLI says, and checks the
// values of all settings.
func parseArguments(parser *kong.Kong, args []string) (*kong.Context, error) {
	known := variables(parser.Model)
	unsetEmpty(known)
	command, err := parser.Parse(joinNumbers(args))
	if err != nil {
		return nil, UsageErrorf("%s; try \"%s --help\"", parseErrorText(err, args), parser.Model.Name)
	}
	for _, part := range command.Path {
		// In a script, it comes from a variable that is not set, and must not count as left out.
		if at := part.Positional; at != nil && at.Target.IsZero() {
			return nil, UsageErrorf("%s is empty", at.Summary())
		}
	}
	return command, errors.Join(checkVariables(known, os.Environ()), applyContext(command), checkValues(command.Flags()))
}

var (
	longFlag = regexp.MustCompile(`^--[a-z-]+$`)
	negative = regexp.MustCompile(`^-\.?[0-9]`)
)

// joinNumbers joins flags with the negative numbers behind them, which kong would take for flags.
func joinNumbers(args []string) []string {
	var joined []string
	for _, arg := range args {
		if last := len(joined) - 1; last >= 0 && negative.MatchString(arg) && longFlag.MatchString(joined[last]) {
			joined[last] += "=" + arg
			continue
		}
		joined = append(joined, arg)
	}
	return joined
}

// noValue matches kong's error about a flag without a value. Its end repeats the argument behind
// the flag.
var noValue = regexp.MustCompile(`(?s)^(--[a-z-]+): expected \S+ value but got .*`)

// parseErrorText returns what is wrong with the command line. It does not repeat an argument that
// may be a password, such as the one behind a stray space, unless the argument stands where a
// command belongs.
func parseErrorText(err error, args []string) string {
	text := err.Error()
	if found := noValue.FindStringSubmatch(text); found != nil {
		return fmt.Sprintf("%s must have a value; if the value begins with '-', write %[1]s=VALUE", found[1])
	}
	switch {
	case !strings.HasPrefix(text, "unexpected argument ") || strings.Contains(text, ", did you mean "):
		return text
	case text == "unexpected argument "+args[0]:
		return fmt.Sprintf("%q is not a command", args[0])
	}
	return "an argument is neither a command nor a flag nor the value of a flag: look for a stray space"
}
