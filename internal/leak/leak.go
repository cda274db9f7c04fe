// Package leak finds goroutines that the tests of a package leave behind. It waits longer than
// package goleak for goroutines that are about to end, because a loaded machine needs the time.
package leak

import (
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines may take to end.
var patience = 30 * time.Second

// abandoned are the goroutines of a stream's store that nats-server never stops: it stops the streams
// that it lists, and lists a stream only once it has created it. A server that runs has many others.
var abandoned = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
}

// Find returns an error that names the goroutines that are still there after half a minute.
func Find(options ...goleak.Option) error {
	options = slices.Concat(options, abandoned)
	err := goleak.Find(options...)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		err = goleak.Find(options...) // which waits between its attempts
	}
	return err
}

// VerifyTestMain runs the tests and exits. The status is not 0 if they fail or leave goroutines
// behind.
func VerifyTestMain(m goleak.TestingM) {
	status := m.Run()
	if status == 0 {
		if err := Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}
