//go:build !race

// With the race detector, a sync.Pool forgets at random some of what encoding/json could use again.

package preauth_test

import "testing"

// A body that is cut wrongly is read all the same, by the decoder: only its allocations tell.
func TestAllocations(t *testing.T) {
	for _, m := range measured() {
		t.Run(m.name, func(t *testing.T) {
			got := testing.AllocsPerRun(1000, func() {
				if err := m.call(); err != nil {
					t.Fatal(err)
				}
			})
			if got != m.allocations {
				t.Errorf("%v allocations, want %v", got, m.allocations)
			}
		})
	}
}
