package allocation_test

import (
	"testing"

	"preauth/internal/allocation"
)

var kept []byte

func TestBytes(t *testing.T) {
	calls := 0
	got := allocation.Bytes(func() {
		calls++
		kept = make([]byte, 1<<20)
		if calls == 1 {
			kept = make([]byte, 4<<20) // what something else allocates meanwhile
		}
	})
	if got < 1<<20 || got > 2<<20 {
		t.Errorf("%d bytes for a call that takes 1 MiB", got)
	}
}
