// Package app turns settings into a running service. The commands preauth and preauth-dev share it:
// the settings of the service and their checks, the connections to NATS and MySQL, the admin server
// and the log.
//
// It is part of the production binary and imports none of the servers that the sandbox and the
// tests start.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// Program is a command line.
type Program struct {
	Name, Description string
	// CLI is a pointer to the struct that kong fills in. Its commands have a method Run, which may
	// take a context.Context and a [Stdio]; a program without commands has one itself.
	CLI any
}

// Stdio is where a command writes.
type Stdio struct{ Out, Err io.Writer }

// Main is the body of a main function: it calls run and exits with the status that run returns. The
// first SIGINT, SIGTERM or SIGHUP ends the context, the second one the process.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	if os.Getenv("GOGC") == "" {
		// The heap is a few megabytes. Look-ups would trigger hundreds of collections a second.
		debug.SetGCPercent(400)
	}
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // restores the default action
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Run parses the arguments, runs the command they name and returns the exit status: 0 for success,
// 1 for a failure, 2 for flags or variables that have to be changed. A command that runs on ends in
// good order when ctx does.
func (p Program) Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	exited := -1
	parser, err := p.parser(kong.Writers(stdout, stderr), kong.Exit(func(status int) { exited = status }))
	if err != nil {
		return p.fail(stderr, err)
	}
	command, err := parseArguments(parser, args)
	if exited >= 0 { // help or the version was printed
		return exited
	}
	if err != nil {
		return p.fail(stderr, err)
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(Stdio{stdout, stderr}); err != nil {
		return p.fail(stderr, err)
	}
	return 0
}

// parser returns the parser of the command line.
func (p Program) parser(options ...kong.Option) (*kong.Kong, error) {
	return kong.New(p.CLI, append([]kong.Option{
		kong.Name(p.Name), kong.Description(p.Description),
		kong.Vars{"version": Version()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}), kong.ValueFormatter(Describe),
		kong.ExplicitGroups(groups), durations,
	}, options...)...)
}

// fail prints what is wrong, one line for each error, and returns the exit status.
func (p Program) fail(stderr io.Writer, err error) int {
	for line := range strings.Lines(err.Error()) {
		// Errors of package preauth begin with the name already.
		fmt.Fprintf(stderr, "%s: %s\n", p.Name, strings.TrimPrefix(strings.TrimRight(line, "\n"), "preauth: "))
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}
