// Command preauth turns the component_access_tokens of WeChat third-party platforms into
// pre_auth_codes, announces them on NATS and answers look-ups and claims. "preauth serve" is the
// service; the other commands set it up or talk to it.
//
// Exit status: 0 for success, 1 for a failure, 2 for flags or variables that have to be changed.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/alecthomas/kong"

	"preauth/internal/app"
)

// cli is the command line.
type cli struct {
	Serve  app.Service   `cmd:"" help:"Run the service."`
	Schema schemaCommand `cmd:"" help:"Print, examine or apply the database schema."`
	Check  checkCommand  `cmd:"" help:"Ask a running service whether it is ready."`
	Doctor doctorCommand `cmd:"" help:"Find what is wrong with all that the service needs, and what to change."`

	Status   statusCommand   `cmd:"" help:"Show how components and replicas fare."`
	Renew    renewCommand    `cmd:"" help:"Have the service work on a component now."`
	Watch    watchCommand    `cmd:"" help:"Show updates, failures and authorizations as they are announced."`
	Failures failuresCommand `cmd:"" help:"Show failures of the past."`
	Quota    quotaCommand    `cmd:"" help:"Show what WeChat says is left of the calls of today."`
	Replay   replayCommand   `cmd:"" help:"Have the service work again on the newest stored token of each component."`

	Lookup     lookupCommand     `cmd:"" help:"Look up the current code of a component."`
	Claim      claimCommand      `cmd:"" help:"Claim a code that nobody else gets."`
	Resolve    resolveCommand    `cmd:"" help:"Ask what a code was used for."`
	Announce   announceCommand   `cmd:"" help:"Announce a token, as a token service does."`
	Authorized authorizedCommand `cmd:"" help:"Report that an account authorized with a code."`

	Gateway gatewayCommand `cmd:"" help:"Put HTTP in front of the service, for programs that do not speak NATS."`

	Completion completionCommand `cmd:"" help:"Print a script that completes commands, flags and components in a shell."`
	Complete   completeCommand   `cmd:"" hidden:"" help:"Print what the last word of a command line may become."`
	AppIDs     appidsCommand     `cmd:"" hidden:"" name:"appids" help:"Print the components that begin so, for completion."`
	Man        manCommand        `cmd:"" help:"Print the man page."`
	Version    versionCommand    `cmd:"" help:"Print the version, and the commit that it was built from."`

	VersionFlag kong.VersionFlag `name:"version" help:"Print the version and exit."`
}

const description = `Turns component_access_tokens of WeChat third-party platforms into pre_auth_codes.

Where a flag's help ends in a $VARIABLE, that environment variable sets it too. The flag wins over the
variable, and an empty variable counts as unset. Exit status: 0 for success, 1 for a failure, 2 for an
invalid setting.`

func main() { app.Main(run) }

// run is the whole program. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	program := app.Program{Name: "preauth", Description: description, CLI: new(cli)}
	if app.IsTerminal(stdout) {
		return program.Run(ctx, args, stdout, stderr)
	}
	out := &output{Writer: stdout}
	status := program.Run(ctx, args, out, stderr)
	if status == 0 && out.err != nil {
		fmt.Fprintf(stderr, "preauth: writing the output: %v\n", out.err)
		return 1
	}
	return status
}

// output is a file or pipe that remembers whether something was not written, such as on a full disk.
type output struct {
	io.Writer

	err error
}

// Write writes, and keeps the first error.
func (o *output) Write(text []byte) (int, error) {
	n, err := o.Writer.Write(text)
	o.err = cmp.Or(o.err, err)
	return n, err
}
