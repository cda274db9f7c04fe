//go:build !faultclock

package app

import "time"

// clockVariable is the variable that clock reads.
const clockVariable = ""

// clock is the service's clock. Nil means the system's.
var clock func() time.Time
