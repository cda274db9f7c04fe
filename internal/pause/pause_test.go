package pause_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"preauth/internal/pause"
)

func TestPauseEndsWithItsTimeOrItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !pause.For(t.Context(), time.Hour) || time.Since(begin) != time.Hour {
			t.Errorf("waited for %v", time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin = time.Now()
		if pause.For(ctx, time.Hour) || time.Since(begin) != time.Minute {
			t.Errorf("waited for %v although the context had ended", time.Since(begin))
		}
	})
}

func TestJitterIsAQuarterAtMost(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := pause.Jittered(time.Second)
		least, most = min(least, d), max(most, d)
	}
	if least < time.Second || most > 1250*time.Millisecond || most-least < 100*time.Millisecond {
		t.Errorf("between %v and %v", least, most)
	}
	if d := pause.Jittered(0); d != 0 {
		t.Errorf("no pause became %v", d)
	}
}
