//go:build !faultclock

package app

import "time"

// clock is the service's clock. Nil means the system's.
var clock func() time.Time
