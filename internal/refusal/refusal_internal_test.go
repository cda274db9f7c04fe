package refusal

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A connection that breaks is no report. The client may call it one while its state is still the old.
func TestBrokenConnectionIsNoReport(t *testing.T) {
	broken := &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	for _, err := range []error{broken, fmt.Errorf("nats: %w", broken), io.EOF} {
		if !isOfConnection(err) {
			t.Errorf("%v is reported", err)
		}
	}
	for _, err := range []error{nats.ErrSlowConsumer, nats.ErrPermissionViolation, errors.New("other")} {
		if isOfConnection(err) {
			t.Errorf("%v is not reported", err)
		}
	}
}

// Each connection that is made to subscribe again disturbs the others' work. So the pauses between
// them grow while that does not help, and are short again once it did.
func TestConnectionsAnewBecomeRarer(t *testing.T) {
	s := standing{stands: time.Minute, pause: time.Minute}
	begin := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	now, last := begin, begin
	var pauses []time.Duration
	s.refuse(now, true)
	for len(pauses) < 7 {
		now = now.Add(time.Second)
		switch s.look(now) {
		case connectAnew:
			pauses = append(pauses, now.Sub(last))
			last = now
			s.refuse(now, true) // the new connection is refused the same
		case over:
			t.Fatal("it counts no longer, and was refused each time")
		case wait:
		}
	}
	want := []time.Duration{
		time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute,
	}
	if !slices.Equal(pauses, want) {
		t.Errorf("connected anew after %v, want %v", pauses, want)
	}

	next := func(want step) (after time.Duration) {
		t.Helper()
		begin := now
		for {
			now = now.Add(time.Second)
			if got := s.look(now); got != wait {
				if got != want {
					t.Fatalf("step %d, want %d", got, want)
				}
				return now.Sub(begin)
			}
		}
	}
	next(connectAnew) // which is not refused any more
	if after := next(over); after != time.Minute {
		t.Errorf("the refusal counted for %v after it was mended, want a minute", after)
	}
	if s.look(now.Add(time.Hour)) != wait {
		t.Error("something counts, and nothing was refused")
	}
	s.refuse(now, true)
	if after := next(connectAnew); after != time.Minute {
		t.Errorf("connected anew after %v, want the short pause", after)
	}
	next(over)
	s.refuse(now, false) // a message, which needs no new connection
	if after := next(over); after != time.Minute {
		t.Errorf("counted for %v", after)
	}
}
