package database

import (
	"testing"
	"time"
)

func TestTimeouts(t *testing.T) {
	type timeouts struct{ dial, read, write time.Duration }
	for parameters, want := range map[string]timeouts{
		"": {5 * time.Second, 15 * time.Second, 10 * time.Second},
		"?timeout=1s&readTimeout=2s&writeTimeout=3s": {time.Second, 2 * time.Second, 3 * time.Second},
		"?readTimeout=2m": {5 * time.Second, 2 * time.Minute, 10 * time.Second},
	} {
		cfg, err := parseDSN("user@tcp(host)/db" + parameters)
		if err != nil {
			t.Fatal(err)
		}
		if got := (timeouts{cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout}); got != want {
			t.Errorf("%q: %+v, wanted %+v", parameters, got, want)
		}
	}
}
