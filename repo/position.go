package repo

import (
	"cmp"
	"crypto/sha256"
	"time"

	"preauth"
)

// Position is the place of a token event in the order of all token events. Times are in UTC, and
// compared to the microsecond, which is what the database keeps.
type Position struct {
	// Stream and StreamCreated identify the stream. A stream that was deleted and created again under
	// its old name is another stream.
	Stream        string
	StreamCreated time.Time
	// Sequence is the event's sequence in the stream.
	Sequence uint64
	// Time is the stream's time stamp of the event.
	Time time.Time
}

// rolledBack is how much later an event with a smaller sequence must be to count as newer: its
// stream then lost messages and gave their sequences to others. Smaller differences may come from
// the servers' clocks.
const rolledBack = time.Minute

// After reports whether p, an event in progress, is newer than q, a recorded one.
//
// Within a stream the sequence decides, unless the stream was rolled back, by a restore or by a
// power failure before it had synced: then an event with a later time has the same or a smaller
// sequence. Between two streams the time decides, because a new stream counts from 1 again. The
// zero Position is before every other.
//
// If sequences and times of one stream contradict each other by more than a minute, each event is
// after the other. Either the stream was rolled back and the smaller sequence is newer, or the
// server's clock was set back and it is older: the positions cannot tell. The outcome that was
// produced later then counts as the newer one.
func (p Position) After(q Position) bool { return p.compare(q) > 0 }

func (p Position) compare(q Position) int {
	p, q = p.stored(), q.stored()
	if p.Stream == q.Stream && p.StreamCreated.Equal(q.StreamCreated) && p.Time.Sub(q.Time) <= rolledBack {
		return cmp.Or(cmp.Compare(p.Sequence, q.Sequence), p.Time.Compare(q.Time))
	}
	return cmp.Or(
		p.Time.Compare(q.Time),
		// Two streams took events in the same microsecond: any total order will do.
		p.StreamCreated.Compare(q.StreamCreated),
		cmp.Compare(p.Stream, q.Stream),
	)
}

// stored returns p as the database returns it.
func (p Position) stored() Position {
	p.StreamCreated, p.Time = stored(p.StreamCreated), stored(p.Time)
	return p
}

// stored returns t as the database returns it.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Fingerprint identifies a token without revealing it. No token has the zero Fingerprint.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the SHA-256 of the token.
func FingerprintOf(token preauth.Secret) Fingerprint { return sha256.Sum256([]byte(token.Reveal())) }

// Token describes a component_access_token. It never holds the token itself.
type Token struct {
	Position    Position
	Fingerprint Fingerprint
	// ExpiresAt is when the token expires, in UTC.
	ExpiresAt time.Time
}

func (t Token) stored() Token {
	t.Position, t.ExpiresAt = t.Position.stored(), stored(t.ExpiresAt)
	return t
}
