package repo

import (
	"context"
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
	// Attempts counts the failed calls of WeChat since the last code or token event.
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
	// AuthorizerAppID is the account that authorized with the code, and AuthorizedAt is when, in UTC.
	// They are zero if none did.
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

// Components returns the named components. One that no valid token event ever named is not in the
// map. Right after a failover it may return what the old primary last knew.
func (r *Repo) Components(ctx context.Context, appids []string) (map[string]Component, error) {
	return r.components(ctx, "/* repo.components */ "+selectComponents+"WHERE c.appid IN (?)", appids)
}

// PrimaryComponents is [Repo.Components] with the answer of a server that takes writes.
func (r *Repo) PrimaryComponents(ctx context.Context, appids []string) (map[string]Component, error) {
	return r.components(ctx, "/* repo.primary_components */ "+selectComponents+"WHERE c.appid IN (?)"+onPrimary, appids)
}

func (r *Repo) components(ctx context.Context, statement string, appids []string) (map[string]Component, error) {
	components := make(map[string]Component, len(appids))
	for piece := range slices.Chunk(appids, database.MaxIn) {
		rows, err := database.Query[componentRow](ctx, r.db, "repo: components", statement, piece)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			components[row.AppID] = row.component()
		}
	}
	return components, nil
}
