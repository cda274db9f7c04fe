// Command preauth turns the component_access_tokens of WeChat third-party platforms into
// pre_auth_codes, announces them on NATS and answers look-ups. "preauth serve" is the service,
// "preauth dev" the whole of it on one machine with nothing prepared.
//
// Exit status: 0 for success, 1 for a failure, 2 for flags or variables that have to be changed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line.
type cli struct {
	Serve  serveCommand  `cmd:"" help:"Run the service."`
	Schema schemaCommand `cmd:"" help:"Print or apply the database schema."`
	Check  checkCommand  `cmd:"" help:"Ask a running service whether it is ready."`
	Lookup lookupCommand `cmd:"" help:"Look up the current code of a component."`
	devCommands

	Version kong.VersionFlag `help:"Print the version and exit."`
}

const description = `Turns component_access_tokens of WeChat third-party platforms into pre_auth_codes.

A setting with a $VARIABLE behind it can be given in that environment variable; its flag wins, and an
empty variable counts as not set. Exit status: 0 for success, 1 for a failure, 2 for settings that have
to be changed.`

func main() {
	if os.Getenv("GOGC") == "" {
		// The heap has a few megabytes, and would be collected hundreds of times a second under look-ups.
		debug.SetGCPercent(400)
	}
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// streams are where a command writes.
type streams struct{ out, err io.Writer }

// run is the whole program, which ends in good order when ctx does. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	exited := -1
	parser, err := newParser(new(cli), kong.Writers(stdout, stderr), kong.Exit(func(status int) { exited = status }))
	if err != nil {
		return fail(stderr, err)
	}
	forgetEmptyVariables(parser.Model)
	command, err := parser.Parse(args)
	if exited >= 0 { // help or the version was printed
		return exited
	}
	if err != nil {
		status := fail(stderr, refuse("%s", misread(err, args)))
		fmt.Fprintln(stderr, `Try "preauth --help".`)
		return status
	}
	if err := checkValues(command.Flags()); err != nil {
		return fail(stderr, err)
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(streams{stdout, stderr}); err != nil {
		return fail(stderr, err)
	}
	return 0
}

// newParser returns the parser of the command line.
func newParser(c *cli, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append([]kong.Option{
		kong.Name("preauth"), kong.Description(description),
		kong.Vars{"version": version()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}), kong.ValueFormatter(describe),
		kong.ExplicitGroups(groups), durations,
	}, options...)...)
}

// fail says what is wrong, a line for each thing, and returns the exit status.
func fail(stderr io.Writer, err error) int {
	for line := range strings.Lines(err.Error()) {
		// The client's errors begin with the name already.
		fmt.Fprintln(stderr, "preauth:", strings.TrimPrefix(strings.TrimRight(line, "\n"), "preauth: "))
	}
	if _, ok := errors.AsType[settingError](err); ok {
		return 2
	}
	return 1
}

// release is the version that a build is given with -ldflags "-X main.release=1.2.3": one without the version
// control's files, such as the image's, knows of none.
var release string

// semantic is what a version looks like; NATS micro takes no other.
var semantic = regexp.MustCompile(`^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// version returns the version of the build, a semantic version.
func version() string {
	candidates := []string{release}
	if info, ok := debug.ReadBuildInfo(); ok {
		candidates = append(candidates, info.Main.Version)
	}
	for _, version := range candidates {
		if semantic.MatchString(version) {
			return strings.TrimPrefix(version, "v")
		}
	}
	return "0.0.0-dev"
}
