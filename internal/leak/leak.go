// Package leak finds goroutines that the tests of a package have left behind. It gives those that are about to end
// more time than package goleak does by itself, which on a loaded machine is not enough.
package leak

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines may take to end.
var patience = 30 * time.Second

// Find returns an error that names the goroutines which have not ended half a minute after the call.
func Find(options ...goleak.Option) error {
	err := goleak.Find(options...)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		err = goleak.Find(options...) // which waits between its attempts
	}
	return err
}

// VerifyTestMain runs the tests and exits, with a status other than 0 if they fail or leave goroutines behind.
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
