package repo

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"preauth/internal/database"
)

// StreamSet names the streams of a service. Their creation is no part of it: a stream that is
// deleted and created again belongs to the same set.
type StreamSet struct {
	// Tokens, Updates and Failures are the names of the streams, up to 255 characters.
	Tokens   string `db:"token_stream"`
	Updates  string `db:"update_stream"`
	Failures string `db:"failure_stream"`
	// Account is the NATS account that the streams are in, up to 255 characters in any form that is the
	// same on all replicas. It is "" where it cannot be told, and then counts as the same as any.
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
	if err := streams.check(); err != nil {
		return fmt.Errorf("repo: own: %w", err)
	}
	owner, err := r.owner(ctx)
	if err == nil && owner == (StreamSet{}) {
		// Of replicas that do so at the same time the first one wins.
		if err = r.record(ctx, streams, now, "id = VALUES(id)"); err == nil {
			owner, err = r.owner(ctx)
		}
	}
	if err == nil && owner.Account == "" && streams.Account != "" {
		_, err = r.db.Exec(ctx, "repo: own", "/* repo.own_account */ UPDATE stream_set SET account = ? "+
			"WHERE id = 1 AND token_stream = ? AND update_stream = ? AND failure_stream = ? AND account = ''",
			streams.Account, streams.Tokens, streams.Updates, streams.Failures)
		if err == nil {
			owner, err = r.owner(ctx)
		}
	}
	if err != nil {
		return err
	}
	return owner.admits(streams)
}

// CheckOwner is [Repo.Own] without a record: it returns nil too if the database belongs to no streams
// yet.
func (r *Repo) CheckOwner(ctx context.Context, streams StreamSet) error {
	owner, err := r.owner(ctx)
	if owner == (StreamSet{}) {
		return err
	}
	return owner.admits(streams)
}

// admits returns [ErrOtherStreams] unless the owner of a database is the service with the streams.
func (s StreamSet) admits(streams StreamSet) error {
	if s.same(streams) {
		return nil
	}
	return fmt.Errorf("repo: own: %w: it is used with the streams %s, and this service has %s: give each service a database of its own, "+
		"or run `preauth schema adopt` to move this one", ErrOtherStreams, s, streams)
}

// Adopt gives the database to the streams, whichever it belonged to, and returns those: the zero
// StreamSet if it belonged to none. Services with other streams fail at their next [Repo.Own], so
// stop them before.
func (r *Repo) Adopt(ctx context.Context, streams StreamSet, now time.Time) (before StreamSet, err error) {
	if err := streams.check(); err != nil {
		return StreamSet{}, fmt.Errorf("repo: adopt: %w", err)
	}
	if before, err = r.owner(ctx); err != nil {
		return StreamSet{}, err
	}
	return before, r.record(ctx, streams, now, "token_stream = VALUES(token_stream), update_stream = VALUES(update_stream), "+
		"failure_stream = VALUES(failure_stream), account = VALUES(account), since = VALUES(since)")
}

// owner returns the set that the database belongs to, the zero StreamSet if it belongs to none. The
// error is [ErrNewerSchema] if this program cannot work with its tables.
func (r *Repo) owner(ctx context.Context) (StreamSet, error) {
	rows, err := database.Query[struct {
		StreamSet

		Version int `db:"version"`
		Oldest  int `db:"oldest_program"`
	}](ctx, r.db, "repo: own", `/* repo.owner */ SELECT COALESCE(token_stream, '') AS token_stream, COALESCE(update_stream, '') AS update_stream,
COALESCE(failure_stream, '') AS failure_stream, COALESCE(account, '') AS account, version, oldest_program
FROM (SELECT COALESCE(MAX(version), 0) AS version, COALESCE(MAX(oldest_program), 0) AS oldest_program FROM schema_version) AS recorded
LEFT JOIN stream_set ON id = 1`)
	if err != nil {
		return StreamSet{}, err
	}
	if err := (Schema{Version: rows[0].Version, Oldest: rows[0].Oldest}).Check(); err != nil {
		return StreamSet{}, fmt.Errorf("repo: own: %w", err)
	}
	return rows[0].StreamSet, nil
}

// record inserts the row of a set, or does what onDuplicate says if there is one.
func (r *Repo) record(ctx context.Context, streams StreamSet, now time.Time, onDuplicate string) error {
	_, err := r.db.Exec(ctx, "repo: own", `/* repo.own */ INSERT INTO stream_set (id, token_stream, update_stream, failure_stream, account, since)
VALUES (1, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE `+onDuplicate, streams.Tokens, streams.Updates, streams.Failures, streams.Account, stored(now))
	return err
}
