package app

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

func TestTenMinutesWithoutNATSTakeFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(strings.Builder)
		o := &outage{log: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: withoutTime}))}
		nc := new(nats.Conn)
		o.back(nc)
		for range 2 {
			o.away(errors.New("EOF"))
			for began := time.Now(); time.Since(began) < 10*time.Minute; time.Sleep(time.Second) { //nolint:forbidigo // in the bubble
				o.away(errors.New("connection refused"))
			}
			o.back(nc)
		}
		once := `level=WARN msg="NATS away" error=EOF
level=WARN msg="NATS still away" error="connection refused" for=0s
level=WARN msg="NATS still away" error="connection refused" for=1m1s
level=WARN msg="NATS still away" error="connection refused" for=3m2s
level=WARN msg="NATS still away" error="connection refused" for=7m3s
level=INFO msg="NATS back" server="" after=10m0s
`
		if want := "level=INFO msg=\"connected to NATS\" server=\"\"\n" + once + once; out.String() != want {
			t.Errorf("the log is\n%swant\n%s", out, want)
		}
	})
}

func withoutTime(_ []string, attr slog.Attr) slog.Attr {
	if attr.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return attr
}
