package repo

import (
	"context"
	"database/sql"
	"time"

	"preauth/internal/database"
)

// state is the state of a component c with the current code p, as docs/contract.md defines it. Its
// two arguments are the time.
const state = `CASE
		WHEN c.token_expires_at IS NULL OR c.token_expires_at <= ? THEN 'no_token'
		WHEN c.failure IS NOT NULL THEN 'failing'
		WHEN p.authorized_at IS NULL
			AND 4 * TIMESTAMPDIFF(MICROSECOND, ?, p.expires_at) >= TIMESTAMPDIFF(MICROSECOND, p.issued_at, p.expires_at) THEN 'valid'
		ELSE 'expiring' END`

// Census counts all components and what the service has for them.
type Census struct {
	// Valid, Expiring, Failing and NoToken count the components in each state of docs/contract.md.
	Valid, Expiring, Failing, NoToken int
	// Overdue counts those with a living token whose current code has less than a sixth of its life left,
	// is spent, or does not exist: a third of the time for its renewal is gone.
	Overdue int
	// Spares counts the codes made ahead of claims that have not expired.
	Spares int
	// CodeExpiresAt and TokenExpiresAt are when the first current code that is not spent and the first
	// token expire, of those that have not, in UTC; the zero time if there is none.
	CodeExpiresAt, TokenExpiresAt time.Time
}

// Census returns the counts as of now. It reads all components.
func (r *Repo) Census(ctx context.Context, now time.Time) (Census, error) {
	type row struct {
		Census
		FirstCode  sql.Null[time.Time] `db:"first_code"`
		FirstToken sql.Null[time.Time] `db:"first_token"`
	}
	now = stored(now)
	found, err := database.Query[row](ctx, r.db, "repo: census", `/* repo.census */ SELECT
	COALESCE(SUM(state = 'valid'), 0) AS valid, COALESCE(SUM(state = 'expiring'), 0) AS expiring,
	COALESCE(SUM(state = 'failing'), 0) AS failing, COALESCE(SUM(state = 'no_token'), 0) AS notoken,
	COALESCE(SUM(state <> 'no_token' AND NOT fresh), 0) AS overdue,
	(SELECT COUNT(*) FROM pre_auth_code WHERE cause = ? AND expires_at > ?) AS spares,
	MIN(CASE WHEN code_expires_at > ? THEN code_expires_at END) AS first_code,
	MIN(CASE WHEN token_expires_at > ? THEN token_expires_at END) AS first_token
FROM (SELECT c.token_expires_at, p.expires_at AS code_expires_at, `+state+` AS state,
		COALESCE(6 * TIMESTAMPDIFF(MICROSECOND, ?, p.expires_at) >= TIMESTAMPDIFF(MICROSECOND, p.issued_at, p.expires_at), FALSE) AS fresh
	FROM component AS c LEFT JOIN pre_auth_code AS p ON p.appid = c.appid AND p.slot = 0 AND p.authorized_at IS NULL) AS states`,
		causeSpare, now, now, now, now, now, now)
	if err != nil {
		return Census{}, err
	}
	census := found[0].Census
	census.CodeExpiresAt, census.TokenExpiresAt = found[0].FirstCode.V, found[0].FirstToken.V
	return census, nil
}
