// Command prepare starts and stops the database server that the tests of this module will use, and says
// which one it is. Where that is TiDB, this is what builds it: a first build takes minutes, which the
// time limit of `go test` does not allow for on a slow machine.
//
// It obeys the environment variables of [mysqlserver.TestOptions].
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"preauth/internal/mysqlserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	server, err := mysqlserver.Start(ctx, mysqlserver.TestOptions())
	if err == nil {
		err = server.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}
