package preauth

import (
	"errors"
	"math"
	"time"
)

// instant is a time that is read from the wire.
type instant struct{ time.Time }

// UnmarshalJSON takes any zone and precision.
func (t *instant) UnmarshalJSON(text []byte) error {
	var read time.Time
	if err := read.UnmarshalJSON(text); err != nil {
		return err
	}
	read = microseconds(read)
	if !isInstant(read) {
		return errors.New("year outside of 1970 to 9999")
	}
	t.Time = read
	return nil
}

// isInstant reports whether a time can be on the wire. The zero time is how Go writes one that is not set. A zone can carry
// a time over the edge of RFC 3339.
func isInstant(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 1970 && year <= 9999 || t.IsZero()
}

// microseconds returns a time as the contract has it: in UTC, with microseconds.
func microseconds(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// roundedUp returns whole seconds, as durations are on the wire.
func roundedUp(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

// seconds reads a duration on the wire. The bound is far above any life of a code, and far below
// where the number of nanoseconds wraps round.
func seconds(n int64, name string) (time.Duration, error) {
	if n < 0 || n > int64(MaxTokenLife/time.Second) {
		return 0, invalid("%s must be 0 to %d seconds", name, MaxTokenLife/time.Second)
	}
	return time.Duration(n) * time.Second, nil
}
