package preauth

import (
	"encoding/json"
	"time"
)

// instant is a time on the wire: RFC 3339 in UTC, with up to microseconds, which is what the
// database keeps. The zero time is left out.
type instant struct{ time.Time }

// MarshalText implements [encoding.TextMarshaler].
func (t instant) MarshalText() ([]byte, error) {
	return t.UTC().Truncate(time.Microsecond).AppendFormat(nil, time.RFC3339Nano), nil
}

// MarshalJSON hides the one of the embedded time.
func (t instant) MarshalJSON() ([]byte, error) {
	text, err := t.MarshalText()
	if err != nil {
		return nil, err
	}
	return json.Marshal(string(text))
}

// wholeSeconds returns a duration on the wire: whole seconds, rounded down, never negative.
func wholeSeconds(d time.Duration) int64 { return int64(max(d, 0) / time.Second) }
