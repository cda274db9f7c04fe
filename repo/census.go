package repo

import (
	"context"
	"time"

	"preauth/internal/database"
)

// Census counts all components and what the service has for them.
type Census struct {
	// Valid, Expiring, Failing and NoToken count the components in each state of docs/contract.md.
	Valid, Expiring, Failing, NoToken int
	// Spares counts the codes made ahead of claims that have not expired.
	Spares int
	// CodeExpiresAt and TokenExpiresAt are when the first current code that is not spent and the first
	// token expire, of those that have not, in UTC; the zero time if there is none.
	CodeExpiresAt, TokenExpiresAt time.Time
}

// Census returns the counts as of now. It reads all components.
func (r *Repo) Census(ctx context.Context, now time.Time) (Census, error) {
	fields := func(c *Census) []any {
		return []any{&c.Valid, &c.Expiring, &c.Failing, &c.NoToken, &c.Spares, database.OrZero(&c.CodeExpiresAt), database.OrZero(&c.TokenExpiresAt)}
	}
	now = stored(now)
	found, err := database.Query(ctx, r.db, "repo: census", fields, `/* repo.census */ SELECT
	COALESCE(SUM(state = 'valid'), 0), COALESCE(SUM(state = 'expiring'), 0),
	COALESCE(SUM(state = 'failing'), 0), COALESCE(SUM(state = 'no token'), 0),
	(SELECT COUNT(*) FROM pre_auth_code WHERE cause = ? AND expires_at > ?),
	MIN(CASE WHEN code_expires_at > ? THEN code_expires_at END),
	MIN(CASE WHEN token_expires_at > ? THEN token_expires_at END)
FROM (SELECT c.token_expires_at, p.expires_at AS code_expires_at, CASE
		WHEN c.token_expires_at IS NULL OR c.token_expires_at <= ? THEN 'no token'
		WHEN c.failure IS NOT NULL THEN 'failing'
		WHEN 4 * TIMESTAMPDIFF(MICROSECOND, ?, p.expires_at) >= TIMESTAMPDIFF(MICROSECOND, p.issued_at, p.expires_at) THEN 'valid'
		ELSE 'expiring' END AS state
	FROM component AS c LEFT JOIN pre_auth_code AS p ON p.appid = c.appid AND p.slot = 0 AND p.authorized_at IS NULL) AS states`,
		causeSpare, now, now, now, now, now)
	if err != nil {
		return Census{}, err
	}
	return found[0], nil
}
