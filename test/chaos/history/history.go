// Package history records what clients did and saw, and the faults, for the checker to decide on
// afterwards.
//
// A history holds no secret: tokens and codes are replaced by the beginning of their SHA-256.
package history

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"preauth"
)

// Hash stands for a token or a code: 32 hexadecimal digits of its SHA-256, "" for none.
type Hash string

// HashOf returns the hash of a secret.
func HashOf(s preauth.Secret) Hash {
	if s.IsZero() {
		return ""
	}
	sum := sha256.Sum256([]byte(s.Reveal()))
	return HashOfSum(sum[:])
}

// HashOfSum returns the hash of a secret by its whole SHA-256, which the database has of tokens.
func HashOfSum(sum []byte) Hash {
	if len(sum) < 16 {
		return ""
	}
	return Hash(hex.EncodeToString(sum[:16]))
}

// Op is what an [Event] is about.
type Op string

// The operations.
const (
	// Publish is a token event that a client published, Authorize an authorization.
	Publish   Op = "publish"
	Authorize Op = "authorize"
	// Lookup, Claim and Resolve are requests with their replies.
	Lookup  Op = "lookup"
	Claim   Op = "claim"
	Resolve Op = "resolve"
	// Update is the announcement of a code, Failure that of a failure, and Authorized that of an
	// authorization, as a subscriber got it.
	Update     Op = "update"
	Failure    Op = "failure"
	Authorized Op = "authorized"
	// Row is a component's row as read from the database.
	Row Op = "row"
	// Fault is something done to the system: begun at Begin, undone at End.
	Fault Op = "fault"
)

// The statuses of an [Event] besides the error codes of the contract.
const (
	// NoAnswer means that the outcome is unknown.
	NoAnswer = 0
	// Unreadable means a reply or a message that breaks the contract.
	Unreadable = 1
	// OK means success. JetStream acknowledged a Publish with it.
	OK = 200
)

// Event is one action with its reply, or one observation. Times count from the start of the run.
// Which fields are set depends on Op.
type Event struct {
	N     int           `json:"n"`
	Op    Op            `json:"op"`
	Begin time.Duration `json:"begin_ns"`
	End   time.Duration `json:"end_ns"`
	// Wall is Begin as wall-clock time.
	Wall   time.Time `json:"wall"`
	Client string    `json:"client,omitempty"`
	AppID  string    `json:"component,omitempty"`
	// Status is NoAnswer, Unreadable, OK or an error code of the contract.
	Status int           `json:"status,omitempty"`
	Class  preauth.Class `json:"class,omitempty"`

	// ID is the header [IDHeader] of a published message.
	ID string `json:"id,omitempty"`
	// Bad means that the event breaks the contract.
	Bad   bool `json:"bad,omitempty"`
	Token Hash `json:"token,omitempty"`
	// Refused means that WeChat does not know the token.
	Refused bool `json:"refused,omitempty"`
	// Life is the life of the token that the event states, from its arrival in the stream.
	Life time.Duration `json:"life_ns,omitempty"`
	// Sequence is that of the message in its stream; for a Row, that of the newest token event taken.
	Sequence uint64 `json:"sequence,omitempty"`

	Code      Hash          `json:"code,omitempty"`
	Revision  uint64        `json:"revision,omitempty"`
	ExpiresAt time.Duration `json:"expires_ns,omitempty"`
	MessageID string        `json:"message_id,omitempty"`
	// Spent means that the update says that its code is spent.
	Spent bool `json:"spent,omitempty"`
	// Authorizer is the account that authorized with the code.
	Authorizer string `json:"authorizer,omitempty"`

	MinTTL      time.Duration `json:"min_ttl_ns,omitempty"`
	MinRevision uint64        `json:"min_revision,omitempty"`
	ClaimID     string        `json:"claim_id,omitempty"`
	Reference   string        `json:"reference,omitempty"`

	// Fault is the kind of the fault, and Target what it happens to. Offset is the error of a clock.
	Fault  string        `json:"fault,omitempty"`
	Target string        `json:"target,omitempty"`
	Detail string        `json:"detail,omitempty"`
	Offset time.Duration `json:"offset_ns,omitempty"`
}

// IDHeader is the header that identifies a published message. The service ignores it.
const IDHeader = "Chaos-Id"

// Recorder keeps events in memory and writes them to a file, as JSON lines. It is safe for
// concurrent use.
type Recorder struct {
	start time.Time

	mu     sync.Mutex
	events []Event
	file   *os.File
	buffer *bufio.Writer
	failed error
}

// NewRecorder returns a recorder that writes to a new file. Its time starts now.
func NewRecorder(name string) (*Recorder, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Recorder{start: time.Now(), file: file, buffer: bufio.NewWriter(file)}, nil
}

// Now returns the time since the start.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

// At returns a wall-clock time as a time since the start.
func (r *Recorder) At(t time.Time) time.Duration { return t.Round(0).Sub(r.start.Round(0)) }

// Add records an event, and returns it complete. An event without an End ends now; one without a
// Begin begins when it ends.
func (r *Recorder) Add(e Event) Event {
	e.End = cmp.Or(e.End, r.Now())
	e.Begin = cmp.Or(e.Begin, e.End)
	e.Wall = r.start.Add(e.Begin).UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	e.N = len(r.events) + 1
	r.events = append(r.events, e)
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.buffer.Write(append(line, '\n'))
	}
	r.failed = cmp.Or(r.failed, err)
	return e
}

// Events returns the events in the order in which they began.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	events := slices.Clone(r.events)
	r.mu.Unlock()
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.Begin, b.Begin) })
	return events
}

// Seen reports whether an operation succeeded that began after a time.
func (r *Recorder) Seen(op Op, after time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range slices.Backward(r.events) { // by their ends
		if e.End < after {
			return false
		}
		if e.Op == op && e.Status == OK && e.Begin > after {
			return true
		}
	}
	return false
}

// Close writes what is buffered and closes the file.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.failed, r.buffer.Flush(), r.file.Close())
}
