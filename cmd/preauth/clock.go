//go:build !faultclock

package main

import "time"

// clock is the service's clock: nil for the system's.
var clock func() time.Time
