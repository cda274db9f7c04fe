// Command preauth turns the component_access_tokens of WeChat third-party platforms into
// pre_auth_codes, announces them on NATS and answers look-ups. "preauth serve" is the service,
// "preauth dev" the whole of it on one machine with nothing prepared.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line.
type cli struct {
	Serve  serveCommand  `cmd:"" help:"Run the service."`
	Schema schemaCommand `cmd:"" help:"Print or apply the database schema."`
	Check  checkCommand  `cmd:"" help:"Ask a running service whether it is ready; exit status 0 if it is."`
	Lookup lookupCommand `cmd:"" help:"Look up the current code of a component."`
	devCommands

	Version kong.VersionFlag `help:"Print the version and exit."`
}

const description = `Turns component_access_tokens of WeChat third-party platforms into pre_auth_codes.

Every flag can be given as the environment variable named behind it; a flag wins over its variable.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	status := -1
	parser, err := kong.New(&c,
		kong.Name("preauth"), kong.Description(description), kong.UsageOnError(),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { status = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Vars{"version": version()},
	)
	if err != nil {
		fmt.Fprintln(stderr, "preauth:", err)
		return 1
	}
	command, err := parser.Parse(args)
	if status >= 0 { // help or the version was printed
		return status
	}
	if err != nil {
		fmt.Fprintf(stderr, "preauth: %v\nTry \"preauth --help\".\n", err)
		return 2
	}
	command.BindTo(ctx, (*context.Context)(nil))
	err = command.Run(streams{stdout, stderr})
	switch {
	case errors.Is(err, errSettings):
		fmt.Fprintln(stderr, "preauth:", err)
		return 2
	case err != nil:
		fmt.Fprintln(stderr, "preauth:", err)
		return 1
	}
	return 0
}

// errSettings is wrapped by errors about flags and environment variables.
var errSettings = errors.New("settings")

// streams are where a command writes.
type streams struct{ out, err io.Writer }

// version returns the version of the build, a semantic version.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "0.0.0-dev"
	}
	return info.Main.Version[1:] // without the "v", as NATS micro wants it
}
