package preauth

import (
	"bytes"
	"time"
)

// LookupAnswer is the answer to a look-up of one code, encoded ahead: it lacks only the life that the
// code has left when it is sent. It has no links.
type LookupAnswer struct{ text []byte }

// Answer encodes the answer to look-ups that ask for no links.
func (l Lookup) Answer() LookupAnswer {
	l.Links = Links{}
	return LookupAnswer{bytes.Clone(l.fixed(make([]byte, 0, 320)))} // no larger than needed: a replica keeps them all
}

// Append appends the body to b and returns the extended slice. expiresIn is as in [Lookup].
func (a LookupAnswer) Append(b []byte, expiresIn time.Duration) []byte {
	return object(append(b, a.text...)).expiresIn(expiresIn).end()
}

// UnknownCode returns the answer to a [ResolveRequest] about a code that is not known. Who must not
// learn that it is known gets the same one.
func UnknownCode() *Error {
	return &Error{Code: StatusNotFound, Message: "this code was neither announced nor given to a claim, or that is too long ago"}
}
