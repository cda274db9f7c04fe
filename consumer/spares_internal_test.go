package consumer

import (
	"testing"
	"time"

	"preauth/internal/view"
)

// Claims during an outage of WeChat don't pile up timers: an earlier pending timer wins.
func TestTimersForSparesDoNotPileUp(t *testing.T) {
	for name, test := range map[string]struct {
		waits []time.Duration
		set   int
	}{
		"later ones are dropped": {[]time.Duration{time.Hour, time.Hour, 2 * time.Hour}, 1},
		"an earlier one is set":  {[]time.Duration{2 * time.Hour, time.Hour}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpares(Config{}.withDefaults(), nil, view.NewTokens(), view.NewCodes(), nil, nil, nil, nil)
			s.stop(true) // a timer that fires does nothing
			now, set := time.Now(), 0
			for _, wait := range test.waits {
				if s.topUpAt("wx1", now.Add(wait)) {
					set++
				}
			}
			if set != test.set {
				t.Errorf("%d timers set, want %d", set, test.set)
			}
		})
	}
}
