//go:build faultclock

package main

import (
	"os"
	"time"
)

// clock is the system's clock moved by the duration, such as -1m30s, that stands in the file which the
// environment names. It is read anew each time, so that a fault test can step the clock of a replica
// that runs.
//
// No file, and one that holds no duration, move nothing.
func clock() time.Time {
	text, _ := os.ReadFile(os.Getenv("PREAUTH_FAULT_CLOCK")) //nolint:gosec // G703: who starts a fault test names the file
	offset, _ := time.ParseDuration(string(text))
	return time.Now().Add(offset)
}
