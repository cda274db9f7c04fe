// Package allocation measures, for tests, what a call takes of memory.
package allocation

import (
	"math"
	"runtime"
)

// Bytes calls a function a few times and returns how many bytes it allocates. All that the process allocates meanwhile
// is counted too, such as what the fuzzing engine does: the least of the calls is returned, as the nearest.
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
