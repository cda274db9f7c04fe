// Package stream creates JetStream streams where they are missing, watches them, reads them in order
// and takes events from them. It knows nothing of what the messages say.
//
// A stream is identified by its name and its creation time ([Identity]), since sequences begin again
// in one that was deleted and created anew. A stream that exists is used as it is or refused, and
// never altered.
package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Identity tells a stream from another one of the same name.
type Identity struct {
	Name    string
	Created time.Time // UTC, in microseconds
}

// IdentityOf returns the identity of the stream that the server describes.
func IdentityOf(info *jetstream.StreamInfo) Identity {
	return Identity{info.Config.Name, info.Created.UTC().Truncate(time.Microsecond)}
}

// Durable names the consumer of this very stream. No pull request and no acknowledgement meant for
// it reaches the consumer of a stream that was created anew under the same name, where the sequences
// would be another event's.
func (id Identity) Durable(prefix string) string {
	return fmt.Sprintf("%s-%d", prefix, id.Created.UnixMicro())
}

// Codes of JetStream's errors for which the client has no name.
const (
	codeInvalidJSON = 10025 // with strict servers, also for a field that they do not know
	codeAckPending  = 10121
)

// ErrorCode returns the code of an error of JetStream, 0 for other errors.
func ErrorCode(err error) jetstream.ErrorCode {
	if known, ok := errors.AsType[jetstream.JetStreamError](err); ok && known.APIError() != nil {
		return known.APIError().ErrorCode
	}
	return 0
}

// requestTimeout bounds a request to the JetStream API.
const requestTimeout = 5 * time.Second

// Follower does something with a stream for as long as it is there.
type Follower struct {
	// Follow works with the stream until ctx ends, or it fails.
	Follow func(ctx context.Context, stream jetstream.Stream, id Identity) error
	// Subjects returns how many subjects the stream has to hold at least; nil where that is not known.
	Subjects func() int
}
