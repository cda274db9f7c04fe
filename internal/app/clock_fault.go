//go:build faultclock

package app

import (
	"os"
	"time"
)

// clockVariable is the variable that clock reads.
const clockVariable = "PREAUTH_FAULT_CLOCK"

// clock is the system's clock plus an offset, such as -1m30s, that it reads from the file which
// PREAUTH_FAULT_CLOCK names. It reads the file at every call, so that a fault test can step the
// clock of a running replica. If there is no such file, or no duration in it, the offset is 0.
func clock() time.Time {
	text, _ := os.ReadFile(os.Getenv(clockVariable)) //nolint:gosec // G703: the fault test names the file
	offset, _ := time.ParseDuration(string(text))
	return time.Now().Add(offset)
}
