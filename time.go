package preauth

import (
	"errors"
	"math"
	"time"
)

// instant is a time as it is parsed.
type instant struct{ time.Time }

// UnmarshalJSON parses RFC 3339 in any zone, with any precision.
func (t *instant) UnmarshalJSON(text []byte) error {
	var parsed time.Time
	if err := parsed.UnmarshalJSON(text); err != nil {
		return err
	}
	parsed = microseconds(parsed)
	if !isInstant(parsed) {
		return errors.New("the year is outside 1970 to 9999")
	}
	t.Time = parsed
	return nil
}

// isInstant reports whether the contract allows a time: in UTC its year is 1970 to 9999, or it is
// zero, which is how Go programs write a time that is not set.
func isInstant(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 1970 && year <= 9999 || t.IsZero()
}

// microseconds returns a time as it is on the wire and in the database: in UTC, cut to
// microseconds.
func microseconds(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// roundedUp returns d in seconds, the unit of durations on the wire.
func roundedUp(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

// seconds returns a duration from the wire. The limit is far above the life of any code, and far
// below an overflow of time.Duration.
func seconds(n int64, name string) (time.Duration, error) {
	if n < 0 || n > int64(MaxTokenLife/time.Second) {
		return 0, invalid("%s must be 0 to %d seconds", name, MaxTokenLife/time.Second)
	}
	return time.Duration(n) * time.Second, nil
}
