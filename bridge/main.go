// Command preauth-bridge carries tokens and codes between preauth and programs that do not speak
// NATS. Each command is one direction with one login: "tokens" announces the tokens that are in
// Redis, "wxcomponent" the one that Tencent's wxcloudrun-wxcomponent has, and "codes" writes the
// current codes to Redis. Any number of each may run.
//
// Exit status: 0 for success, 1 for a failure, 2 for flags or variables that have to be changed.
package main

import (
	"context"
	"io"

	"github.com/alecthomas/kong"

	"preauth/internal/app"
)

// cli is the command line.
type cli struct {
	Tokens      tokensCommand      `cmd:"" help:"Announce the tokens that are in Redis."`
	Wxcomponent wxcomponentCommand `cmd:"" help:"Announce the token of Tencent's wxcloudrun-wxcomponent."`
	Codes       codesCommand       `cmd:"" help:"Write the current codes to Redis."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

const description = `Carries tokens and codes between preauth and programs that do not speak NATS.

Where a flag's help ends in a $VARIABLE, that environment variable sets it too. The flag wins over the
variable, and an empty variable counts as unset. Exit status: 0 for success, 1 for a failure, 2 for an
invalid setting.`

func main() { app.Main(run) }

// run is the whole program. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return app.Program{Name: "preauth-bridge", Description: description, CLI: new(cli)}.Run(ctx, args, stdout, stderr)
}
