package repo

import (
	"cmp"
	"crypto/sha256"
	"time"

	"preauth"
)

// Position places a token event in the order of all token events. Times are in UTC and count to the
// microsecond, which is what the database keeps.
type Position struct {
	// Stream and StreamCreated identify the stream: one that was created anew under its old name is
	// another.
	Stream        string
	StreamCreated time.Time
	// Sequence is the event's in the stream.
	Sequence uint64
	// Time is the stream's time stamp of the event.
	Time time.Time
}

// rolledBack is how much later an event with a smaller sequence has to be to count as the newer one: its
// stream has then lost messages and gives their sequences to others. Less may be two servers' clocks.
const rolledBack = time.Minute

// After reports whether p, an event that is worked on, is newer than q, one that was.
//
// In one stream the sequence decides, unless the stream was rolled back, by a restore or by a power
// failure before it had synced: then the same sequence, or a smaller one, is that of an event with a later
// time. Between two streams it is the time, because a stream that was created anew counts from 1 again.
// The zero Position is before every other.
//
// Of two events of one stream whose sequences and times tell different orders, by more than a minute, each is
// after the other: see disputed.
func (p Position) After(q Position) bool { return p.compare(q) > 0 }

func (p Position) compare(q Position) int {
	p, q = p.stored(), q.stored()
	if p.Stream == q.Stream && p.StreamCreated.Equal(q.StreamCreated) {
		if p.Sequence < q.Sequence && p.Time.Sub(q.Time) > rolledBack {
			return 1
		}
		return cmp.Or(cmp.Compare(p.Sequence, q.Sequence), p.Time.Compare(q.Time))
	}
	return cmp.Or(
		p.Time.Compare(q.Time),
		// Two streams took an event each at the same microsecond: any order will do that is one.
		p.StreamCreated.Compare(q.StreamCreated),
		cmp.Compare(p.Stream, q.Stream),
	)
}

// disputed reports whether p and q are of one stream and their sequences and times tell different orders, by
// more than two servers' clocks. Either the stream was rolled back, and the one with the smaller sequence is
// newer, or the server's clock was put back, and it is older: the positions cannot tell. So whichever was worked
// on later counts as the newer one.
func (p Position) disputed(q Position) bool {
	p, q = p.stored(), q.stored()
	bySequence, byTime := cmp.Compare(p.Sequence, q.Sequence), p.Time.Compare(q.Time)
	return p.Stream == q.Stream && p.StreamCreated.Equal(q.StreamCreated) && bySequence*byTime < 0 && p.Time.Sub(q.Time).Abs() > rolledBack
}

// stored returns p as it comes back from the database.
func (p Position) stored() Position {
	p.StreamCreated, p.Time = stored(p.StreamCreated), stored(p.Time)
	return p
}

// stored returns t as it comes back from the database.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Fingerprint tells tokens apart without being one. The zero Fingerprint is no token's.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the SHA-256 of the token.
func FingerprintOf(token preauth.Secret) Fingerprint { return sha256.Sum256([]byte(token.Reveal())) }

// Token is what is known of a component_access_token: never the token itself.
type Token struct {
	Position    Position
	Fingerprint Fingerprint
	// ExpiresAt is when the token dies, in UTC.
	ExpiresAt time.Time
}

func (t Token) stored() Token {
	t.Position, t.ExpiresAt = t.Position.stored(), stored(t.ExpiresAt)
	return t
}
