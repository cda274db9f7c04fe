package repo

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"preauth"
)

// Component is what MySQL knows of one component. Times are in UTC.
type Component struct {
	AppID string
	// Revision is that of the newest code, 0 before the first.
	Revision uint64
	// Token is the newest token with a saved outcome.
	Token Token
	// Attempts counts the failed calls of WeChat since the last code.
	Attempts int
	// DueAt is when to work on the component next. The zero time means: not before a newer token
	// comes.
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
	// Fingerprint is that of the token that the code was made with.
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
// however few rows there are: it reads, and with FOR UPDATE locks, the component's row first, and
// touches no row of other components.
const selectComponents = `SELECT c.appid, c.revision, c.token_stream, c.token_stream_created, c.token_sequence, c.token_time,
	c.token_fingerprint, c.token_expires_at, c.attempts, c.due_at, c.lease, c.failure, c.updated_at,
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
	Lease              []byte              `db:"lease"`
	Failure            sql.Null[string]    `db:"failure"`
	UpdatedAt          time.Time           `db:"updated_at"`

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
func rowOf(c Component, lease []byte) componentRow {
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
		Lease:              lease,
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

// failureFrom reads a failure as it is stored, nil for none. A text that is not a failure must not
// block the component.
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

// Components returns the named components. One that no valid token event ever named is not in the
// map.
func (r *Repo) Components(ctx context.Context, appids []string) (map[string]Component, error) {
	components := make(map[string]Component, len(appids))
	for piece := range slices.Chunk(appids, maxIn) {
		rows, err := query[componentRow](ctx, r, "components", "/* repo.components */ "+selectComponents+"WHERE c.appid IN (?)", piece)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			components[row.AppID] = row.component()
		}
	}
	return components, nil
}
