// Package allocation measures for tests how much memory a call allocates.
package allocation

import (
	"math"
	"runtime"
)

// Bytes calls a function three times and returns the least number of bytes that a call allocated.
// The number includes what other goroutines allocate meanwhile, such as the fuzzing engine, hence
// the least.
func Bytes(call func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		call()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}
