package repo

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"preauth"
)

// Component is what MySQL knows of one component. Times are in UTC.
type Component struct {
	AppID string
	// Revision is that of the newest code, 0 before the first.
	Revision uint64
	// Token is the newest token taken.
	Token Token
	// Attempts counts the calls to WeChat in vain since the last code.
	Attempts int
	// DueAt is when the component has to be worked on next, the zero time when not before a newer
	// token comes.
	DueAt time.Time
	// Failure is the last failure, nil after a success.
	Failure *preauth.Failure
	// Current is the current code, nil before the first. It may have expired.
	Current *CurrentCode
}

// CurrentCode is the current code of a component.
type CurrentCode struct {
	Code
	Revision uint64
	Cause    preauth.Cause
	// Fingerprint is that of the token which the code was made with.
	Fingerprint Fingerprint
}

// Code is a pre_auth_code with its life, in UTC.
type Code struct {
	PreAuthCode         preauth.Secret
	IssuedAt, ExpiresAt time.Time
}

func (c Code) stored() Code {
	c.IssuedAt, c.ExpiresAt = stored(c.IssuedAt), stored(c.ExpiresAt)
	return c
}

// selectComponents reads components with their current codes. The hints keep the plan the same
// however few rows there are: the component's row is read, and with FOR UPDATE locked, first, and the
// rows of other components are not touched.
const selectComponents = `SELECT c.appid, c.revision, c.token_stream, c.token_stream_created, c.token_sequence, c.token_time,
	c.token_fingerprint, c.token_expires_at, c.attempts, c.due_at, c.failure,
	p.id AS code_id, p.code, p.revision AS code_revision, p.cause, p.token_fingerprint AS code_fingerprint, p.issued_at, p.expires_at
FROM component AS c FORCE INDEX (PRIMARY)
LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
`

type componentRow struct {
	AppID              string              `db:"appid"`
	Revision           uint64              `db:"revision"`
	TokenStream        string              `db:"token_stream"`
	TokenStreamCreated sql.Null[time.Time] `db:"token_stream_created"`
	TokenSequence      uint64              `db:"token_sequence"`
	TokenTime          sql.Null[time.Time] `db:"token_time"`
	TokenFingerprint   []byte              `db:"token_fingerprint"`
	TokenExpiresAt     sql.Null[time.Time] `db:"token_expires_at"`
	Attempts           int                 `db:"attempts"`
	DueAt              sql.Null[time.Time] `db:"due_at"`
	Failure            sql.Null[string]    `db:"failure"`

	CodeID          sql.Null[uint64]    `db:"code_id"`
	Code            []byte              `db:"code"`
	CodeRevision    sql.Null[uint64]    `db:"code_revision"`
	Cause           sql.Null[string]    `db:"cause"`
	CodeFingerprint []byte              `db:"code_fingerprint"`
	IssuedAt        sql.Null[time.Time] `db:"issued_at"`
	ExpiresAt       sql.Null[time.Time] `db:"expires_at"`
}

func (row componentRow) component() Component {
	c := Component{
		AppID:    row.AppID,
		Revision: row.Revision,
		Token: Token{
			Position: Position{
				Stream: row.TokenStream, StreamCreated: row.TokenStreamCreated.V,
				Sequence: row.TokenSequence, Time: row.TokenTime.V,
			},
			ExpiresAt: row.TokenExpiresAt.V,
		},
		Attempts: row.Attempts,
		DueAt:    row.DueAt.V,
		Failure:  failureFrom(row.AppID, row.Failure),
	}
	copy(c.Token.Fingerprint[:], row.TokenFingerprint)
	if row.CodeID.Valid {
		c.Current = &CurrentCode{
			Code: Code{
				PreAuthCode: preauth.NewSecret(string(row.Code)), IssuedAt: row.IssuedAt.V, ExpiresAt: row.ExpiresAt.V,
			},
			Revision: row.CodeRevision.V,
			Cause:    preauth.Cause(row.Cause.V),
		}
		copy(c.Current.Fingerprint[:], row.CodeFingerprint)
	}
	return c
}

// rowOf returns the row without its current code.
func rowOf(c Component) componentRow {
	return componentRow{
		AppID:              c.AppID,
		Revision:           c.Revision,
		TokenStream:        c.Token.Position.Stream,
		TokenStreamCreated: null(c.Token.Position.StreamCreated),
		TokenSequence:      c.Token.Position.Sequence,
		TokenTime:          null(c.Token.Position.Time),
		TokenFingerprint:   c.Token.Fingerprint[:],
		TokenExpiresAt:     null(c.Token.ExpiresAt),
		Attempts:           c.Attempts,
		DueAt:              null(c.DueAt),
		Failure:            textOf(c.Failure),
	}
}

// null returns the zero time as NULL.
func null(t time.Time) sql.Null[time.Time] { return sql.Null[time.Time]{V: t, Valid: !t.IsZero()} }

// textOf returns a failure as it is stored.
func textOf(f *preauth.Failure) sql.Null[string] {
	if f == nil {
		return sql.Null[string]{}
	}
	return sql.Null[string]{V: string(f.Encode()), Valid: true}
}

// failureFrom reads a failure as it is stored, nil for none. What somebody else has put there must
// not keep the component from being worked on.
func failureFrom(appid string, body sql.Null[string]) *preauth.Failure {
	if !body.Valid {
		return nil
	}
	f, err := preauth.ParseFailure([]byte(body.V))
	if err != nil {
		f = preauth.Failure{AppID: appid, Class: preauth.ClassUnknown, ErrMsg: "the failure stored in the database is unreadable"}
	}
	return &f
}

// update returns the announcement of the component's current code, which it must have.
func (c Component) update() *preauth.Update {
	return &preauth.Update{
		AppID: c.AppID, PreAuthCode: c.Current.PreAuthCode,
		IssuedAt: c.Current.IssuedAt, ExpiresAt: c.Current.ExpiresAt,
		Revision: c.Current.Revision, Cause: c.Current.Cause,
	}
}

// maxIn bounds the values in one IN list. A longer list is asked for in pieces.
const maxIn = 500

// Components returns what is known of the named components. One that no valid token event ever named
// is not in the map.
func (r *Repo) Components(ctx context.Context, appids []string) (map[string]Component, error) {
	components := make(map[string]Component, len(appids))
	for piece := range slices.Chunk(appids, maxIn) {
		var rows []componentRow
		err := do(ctx, "components", func() error {
			return selectIn(ctx, r.db, &rows, "/* repo.components */ "+selectComponents+"WHERE c.appid IN (?)", piece)
		})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			components[row.AppID] = row.component()
		}
	}
	return components, nil
}

// TakeDue leases components that are due at now, at most limit: it moves their DueAt to until, before
// which no other call gets them, from whatever replica. They come in the order in which they were
// due. Whoever has one saves an [Outcome] before until, which sets DueAt anew; a replica that dies
// leaves it to the others at until. After an error some may have been leased until then and worked on
// by nobody.
func (r *Repo) TakeDue(ctx context.Context, now, until time.Time, limit int) ([]Component, error) {
	now, until = stored(now), stored(until)
	if !until.After(now) {
		return nil, errors.New("repo: take due: until has to be after now, or two would get the same component")
	}
	lease := make([]byte, 16)
	_, _ = rand.Read(lease) // never fails
	for {
		var due []string
		err := do(ctx, "take due", func() error {
			due = nil
			return r.db.SelectContext(ctx, &due,
				"/* repo.due */ SELECT appid FROM component WHERE due_at <= ? ORDER BY due_at LIMIT ?", now, max(limit, 0))
		})
		if err != nil || len(due) == 0 {
			return nil, err
		}
		taken, err := r.take(ctx, due, lease, now, until)
		if err != nil || len(taken) > 0 {
			return taken, err
		}
		// Others were quicker with every one of them. There may be more.
	}
}

// take leases those of the components that are still due. The lease names them, so that both
// statements can be repeated.
func (r *Repo) take(ctx context.Context, due []string, lease []byte, now, until time.Time) ([]Component, error) {
	// All calls take the rows in the same order, in which a saving transaction locks them too.
	sorted := slices.Sorted(slices.Values(due))
	var taken []Component
	for piece := range slices.Chunk(sorted, maxIn) {
		err := do(ctx, "take due", func() error {
			statement, args, err := sqlx.In("/* repo.lease */ UPDATE component FORCE INDEX (PRIMARY) SET due_at = ?, lease = ? "+
				"WHERE appid IN (?) AND due_at <= ?", until, lease, piece, now)
			if err != nil {
				return err
			}
			_, err = r.db.ExecContext(ctx, statement, args...)
			return err
		})
		if err != nil {
			return nil, err
		}
		var rows []componentRow
		err = do(ctx, "take due", func() error {
			return selectIn(ctx, r.db, &rows, "/* repo.leased */ "+selectComponents+
				"WHERE c.appid IN (?) AND c.lease = ? AND c.due_at = ?", piece, lease, until)
		})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			taken = append(taken, row.component())
		}
	}
	slices.SortFunc(taken, func(a, b Component) int { return slices.Index(due, a.AppID) - slices.Index(due, b.AppID) })
	return taken, nil
}

// selectIn reads rows into the slice that into points to, in place of what it holds. The slices among
// the arguments are expanded.
func selectIn[Row any](ctx context.Context, db sqlx.QueryerContext, into *[]Row, statement string, args ...any) error {
	statement, args, err := sqlx.In(statement, args...)
	if err != nil {
		return err
	}
	*into = nil
	return sqlx.SelectContext(ctx, db, into, statement, args...)
}
