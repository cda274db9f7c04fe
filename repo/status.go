package repo

import (
	"context"
	"database/sql"
	"time"

	"preauth"
	"preauth/internal/database"
)

// Status returns how a component fares at the given time. It returns false if no valid token event
// ever named the component. The caller knows Advice and Quota.
func (r *Repo) Status(ctx context.Context, appid string, now time.Time) (preauth.Status, bool, error) {
	found, err := r.statuses(ctx, now, "WHERE c.appid = ?", appid)
	if len(found) == 0 {
		return preauth.Status{}, false, err
	}
	return found[0], true, nil
}

// Statuses returns how at most limit of the components fare that a request without an AppID matches,
// sorted by AppID.
func (r *Repo) Statuses(ctx context.Context, request preauth.StatusRequest, now time.Time, limit int) ([]preauth.Status, error) {
	// "~" sorts behind all that an appid may have.
	where, args := "WHERE c.appid > ? AND c.appid >= ? AND c.appid < ? ", []any{request.After, request.Prefix, request.Prefix + "~"}
	if request.State != "" {
		at := stored(now)
		where, args = where+"AND "+state+" = ? ", append(args, at, at, string(request.State))
	}
	return r.statuses(ctx, now, where+"ORDER BY c.appid LIMIT ?", append(args, limit)...)
}

// statuses reads the components that match. The hints keep the plan the same however few rows there
// are.
func (r *Repo) statuses(ctx context.Context, now time.Time, matching string, args ...any) ([]preauth.Status, error) {
	type row struct {
		AppID          string                  `db:"appid"`
		State          preauth.State           `db:"state"`
		Revision       uint64                  `db:"revision"`
		Cause          sql.Null[preauth.Cause] `db:"cause"`
		IssuedAt       sql.Null[time.Time]     `db:"issued_at"`
		ExpiresAt      sql.Null[time.Time]     `db:"expires_at"`
		Spent          bool                    `db:"spent"`
		DueAt          sql.Null[time.Time]     `db:"due_at"`
		TokenExpiresAt sql.Null[time.Time]     `db:"token_expires_at"`
		Spares         int                     `db:"spares"`
		Attempts       int                     `db:"attempts"`
		Failure        sql.Null[string]        `db:"failure"`
	}
	now = stored(now)
	rows, err := database.Query[row](ctx, r.db, "repo: status", `/* repo.status */ SELECT
	c.appid, `+state+` AS state, c.revision, p.cause, p.issued_at, p.expires_at, p.authorized_at IS NOT NULL AS spent,
	c.due_at, c.token_expires_at,
	(SELECT COUNT(*) FROM pre_auth_code AS s FORCE INDEX (spare) WHERE s.appid = c.appid AND s.cause = ? AND s.expires_at > ?) AS spares,
	c.attempts, c.failure
FROM component AS c FORCE INDEX (PRIMARY)
LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
`+matching, append([]any{now, now, causeSpare, now}, args...)...)
	if err != nil {
		return nil, err
	}
	statuses := make([]preauth.Status, len(rows))
	for i, row := range rows {
		statuses[i] = preauth.Status{
			AppID: row.AppID, State: row.State, Revision: row.Revision, Cause: row.Cause.V, IssuedAt: row.IssuedAt.V, ExpiresAt: row.ExpiresAt.V,
			Spent: row.Spent, DueAt: row.DueAt.V, TokenExpiresAt: row.TokenExpiresAt.V, Spares: row.Spares, Attempts: row.Attempts,
			Failure: failureFrom(row.AppID, row.Failure.V),
		}
	}
	return statuses, nil
}
