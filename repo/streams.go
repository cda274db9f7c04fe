package repo

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/jmoiron/sqlx"
)

// StreamSet names the streams of a service. Their creation is no part of it: a stream that is
// deleted and created again belongs to the same set.
type StreamSet struct {
	// Tokens, Updates and Failures are the names of the streams, up to 255 characters.
	Tokens   string `db:"token_stream"`
	Updates  string `db:"update_stream"`
	Failures string `db:"failure_stream"`
	// Account is the NATS account that the streams are in, up to 255 characters in any form that is
	// the same on all replicas. It is "" where it cannot be told, and then counts as the same as
	// any.
	Account string `db:"account"`
}

// String names the streams, and the account if it is known.
func (s StreamSet) String() string {
	text := fmt.Sprintf("%s, %s and %s", s.Tokens, s.Updates, s.Failures)
	if s.Account != "" {
		text += " of the NATS account " + s.Account
	}
	return text
}

// same reports whether two sets are one, as far as their accounts are known.
func (s StreamSet) same(other StreamSet) bool {
	if s.Account == "" || other.Account == "" {
		s.Account, other.Account = "", ""
	}
	return s == other
}

func (s StreamSet) check() error {
	for _, name := range []string{s.Tokens, s.Updates, s.Failures} {
		if name == "" || !isName(name) {
			return fmt.Errorf("the name of a stream must have 1 to %d characters of UTF-8", maxStream)
		}
	}
	if !isName(s.Account) {
		return fmt.Errorf("the NATS account must have at most %d characters of UTF-8", maxStream)
	}
	return nil
}

func isName(text string) bool {
	return utf8.RuneCountInString(text) <= maxStream && utf8.ValidString(text)
}

// ErrOtherStreams means that the database belongs to another set of streams.
var ErrOtherStreams = errors.New("the database belongs to other streams")

// Own records that the database belongs to the streams, if it belongs to none yet, and otherwise
// checks that it belongs to them. The error is [ErrOtherStreams] if it does not; it names both sets
// and the way out. Call Own before the first write, and again from time to time, as [Repo.Adopt]
// may give the database to others. Any number of replicas may call it at once. now is the service's
// clock.
func (r *Repo) Own(ctx context.Context, streams StreamSet, now time.Time) error {
	// Mostly it is ours already, which needs no lock.
	found, err := query[StreamSet](ctx, r, "own", "/* repo.owned */ "+selectStreamSet)
	if err != nil || len(found) > 0 && found[0] == streams {
		return err
	}
	owner, owned, err := r.own(ctx, "own", streams, now, false)
	if err != nil || !owned || owner.same(streams) {
		return err
	}
	return fmt.Errorf("repo: own: %w: it is used with the streams %s, and this service has %s: give each service a database of its own, "+
		"or run `preauth schema adopt` to move this one", ErrOtherStreams, owner, streams)
}

// Adopt gives the database to the streams, whichever it belonged to, and returns those: the zero
// StreamSet if it belonged to none. Services with other streams fail at their next [Repo.Own], so
// stop them before.
func (r *Repo) Adopt(ctx context.Context, streams StreamSet, now time.Time) (before StreamSet, err error) {
	before, _, err = r.own(ctx, "adopt", streams, now, true)
	return before, err
}

// own returns the set that the database belongs to, and false if it belongs to none. It records the
// streams then, or if it is to replace others, or if their account was not known.
func (r *Repo) own(ctx context.Context, operation string, streams StreamSet, now time.Time, replace bool) (owner StreamSet, owned bool, err error) {
	if err := streams.check(); err != nil {
		return StreamSet{}, false, fmt.Errorf("repo: %s: %w", operation, err)
	}
	record := func(tx *sqlx.Tx, onDuplicate string) error {
		_, err := execIn(ctx, tx, `/* repo.own */ INSERT INTO stream_set (id, token_stream, update_stream, failure_stream, account, since)
VALUES (1, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE `+onDuplicate, streams.Tokens, streams.Updates, streams.Failures, streams.Account, stored(now))
		return err
	}
	err = r.do(ctx, operation, func(conn *sqlx.Conn) error {
		return transaction(ctx, conn, func(tx *sqlx.Tx) error {
			owner, owned, err = lockOwner(ctx, tx)
			if err == nil && !owned {
				// This waits for a replica that inserts the row at the same time.
				if err = record(tx, "id = VALUES(id)"); err == nil {
					owner, owned, err = lockOwner(ctx, tx)
				}
				if owned = owned && owner != streams; !owned {
					owner = StreamSet{}
					return err
				}
			}
			if err != nil || !replace && (!owner.same(streams) || owner.Account != "" || streams.Account == "") {
				return err
			}
			return record(tx, "token_stream = VALUES(token_stream), update_stream = VALUES(update_stream), "+
				"failure_stream = VALUES(failure_stream), account = VALUES(account), since = VALUES(since)")
		})
	})
	return owner, owned, err
}

const selectStreamSet = "SELECT token_stream, update_stream, failure_stream, account FROM stream_set WHERE id = 1"

// lockOwner locks the row of the set that the database belongs to, and returns false if there is
// none.
func lockOwner(ctx context.Context, tx *sqlx.Tx) (owner StreamSet, owned bool, err error) {
	var rows []StreamSet
	err = selectIn(ctx, tx, &rows, "/* repo.owner */ "+selectStreamSet+" FOR UPDATE")
	if err != nil || len(rows) == 0 {
		return StreamSet{}, false, err
	}
	return rows[0], true, nil
}
