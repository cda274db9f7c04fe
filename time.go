package preauth

import (
	"errors"
	"time"
)

// instant is a time on the wire: RFC 3339 in UTC, with up to microseconds, which is what the
// database keeps. The zero time is left out.
type instant struct{ time.Time }

// MarshalJSON hides the one of the embedded time, which keeps zone and nanoseconds.
func (t instant) MarshalJSON() ([]byte, error) {
	return microseconds(t.Time).AppendFormat(nil, `"`+time.RFC3339Nano+`"`), nil
}

// UnmarshalJSON takes any zone and precision.
func (t *instant) UnmarshalJSON(text []byte) error {
	var read time.Time
	if err := read.UnmarshalJSON(text); err != nil {
		return err
	}
	read = microseconds(read)
	if year := read.Year(); year < 0 || year > 9999 { // a zone can carry a time over the edge of RFC 3339
		return errors.New("year outside of 0 to 9999")
	}
	t.Time = read
	return nil
}

// microseconds returns a time as the contract has it: in UTC, with microseconds.
func microseconds(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// wholeSeconds returns a duration on the wire: whole seconds, rounded down, never negative.
func wholeSeconds(d time.Duration) int64 { return int64(max(d, 0) / time.Second) }

// seconds reads a duration on the wire. The bound is far above any life of a code, and far below
// where the number of nanoseconds wraps round.
func seconds(n int64, name string) (time.Duration, error) {
	if n < 0 || n > int64(MaxTokenLife/time.Second) {
		return 0, invalid("%s must be 0 to %d seconds", name, MaxTokenLife/time.Second)
	}
	return time.Duration(n) * time.Second, nil
}
