package repo

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"preauth"
	"preauth/internal/database"
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
	// AuthorizerAppID is the account that authorized with the code, and AuthorizedAt is when, in UTC. They
	// are zero if none did.
	AuthorizerAppID string
	AuthorizedAt    time.Time
}

// IsSpent reports whether an account authorized with the code, so that no other can. It is false for
// nil.
func (c *CurrentCode) IsSpent() bool { return c != nil && c.AuthorizerAppID != "" }

// Usable reports whether the code can serve an authorization at the given time. It is false for nil.
func (c *CurrentCode) Usable(now time.Time) bool {
	return c != nil && !c.IsSpent() && c.ExpiresAt.After(now)
}

// Update returns what announces the code. If it is spent, it ends with its authorization.
func (c *CurrentCode) Update(appid string) preauth.Update {
	u := preauth.Update{
		AppID: appid, PreAuthCode: c.PreAuthCode, IssuedAt: c.IssuedAt, ExpiresAt: c.ExpiresAt,
		Revision: c.Revision, Cause: c.Cause, Spent: c.IsSpent(),
	}
	if at := c.AuthorizedAt; u.Spent && at.Before(u.ExpiresAt) {
		u.ExpiresAt = at
		if at.Before(u.IssuedAt) {
			u.ExpiresAt = u.IssuedAt
		}
	}
	return u
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
	p.id, p.code, p.revision, p.cause, p.token_fingerprint, p.issued_at, p.expires_at, p.authorizer_appid, p.authorized_at
FROM component AS c FORCE INDEX (PRIMARY)
LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
`

// componentRow is a row of selectComponents.
type componentRow struct {
	Component // without Current
	current   CurrentCode
	codeID    uint64 // of the current code, 0 if there is none
	updatedAt time.Time
	lease     []byte
}

func (row *componentRow) fields() []any {
	position, current := &row.Token.Position, &row.current
	return []any{
		&row.AppID, &row.Revision, &position.Stream, database.OrZero(&position.StreamCreated), &position.Sequence, database.OrZero(&position.Time),
		fingerprint(&row.Token.Fingerprint), database.OrZero(&row.Token.ExpiresAt), &row.Attempts, database.OrZero(&row.DueAt), &row.lease,
		failure(&row.AppID, &row.Failure), &row.updatedAt,
		database.OrZero(&row.codeID), secret(&current.PreAuthCode), database.OrZero(&current.Revision), database.OrZero(&current.Cause),
		fingerprint(&current.Fingerprint), database.OrZero(&current.IssuedAt), database.OrZero(&current.ExpiresAt),
		database.OrZero(&current.AuthorizerAppID), database.OrZero(&current.AuthorizedAt),
	}
}

func (row *componentRow) component() Component {
	if row.codeID != 0 {
		row.Current = &row.current
	}
	return row.Component
}

// secret reads a code.
func secret(field *preauth.Secret) sql.Scanner {
	return database.Set(func(code string) { *field = preauth.NewSecret(code) })
}

func fingerprint(field *Fingerprint) sql.Scanner {
	return database.Set(func(sum []byte) { copy(field[:], sum) })
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

// failure reads a failure as it is stored, nil for none. A text that is not a failure must not block
// the component.
func failure(appid *string, field **preauth.Failure) sql.Scanner {
	return database.Set(func(body string) {
		if body == "" {
			return
		}
		f, err := preauth.ParseFailure([]byte(body))
		if err != nil {
			f = preauth.Failure{AppID: *appid, Class: preauth.ClassUnknown, ErrMsg: "the failure stored in the database is unreadable"}
		}
		*field = &f
	})
}

// Components returns the named components. One that no valid token event ever named is not in the
// map.
func (r *Repo) Components(ctx context.Context, appids []string) (map[string]Component, error) {
	components := make(map[string]Component, len(appids))
	for piece := range slices.Chunk(appids, database.MaxIn) {
		rows, err := database.Query(ctx, r.db, "repo: components", (*componentRow).fields, "/* repo.components */ "+selectComponents+"WHERE c.appid IN (?)", piece)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			components[row.AppID] = row.component()
		}
	}
	return components, nil
}
