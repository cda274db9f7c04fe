package repo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"preauth"
	"preauth/internal/database"
)

var (
	// ErrUnknownCode means that the component was never given the code, or that it was purged.
	ErrUnknownCode = errors.New("the component has no such code")
	// ErrSecondAuthorizer means that another account authorized with the code before.
	ErrSecondAuthorizer = errors.New("another account authorized with the code before")
)

// Authorization says that an account authorized with a code.
type Authorization struct {
	preauth.AuthorizationEvent
	// At is the service's clock.
	At time.Time
	// MinRevision is the highest revision known to be announced, as in an [Outcome].
	MinRevision uint64
}

// Spent is the answer to an [Authorization].
type Spent struct {
	// Status is Saved, or Superseded if the authorization was saved before.
	Status Status
	// Announcements are to be published now, and then deleted from the outbox.
	Announcements []Announcement
	// WasCurrent means that the code is the component's current one.
	WasCurrent bool
	// IsDue means that another code is to be made in its place: the component is due, or leased. It is
	// neither before a newer token comes if the last one was given up.
	IsDue bool
	// Revision is that of the component's newest code.
	Revision uint64
}

// Spend records that a code served its authorization: nobody gets it any more. A current code is
// announced once more, under a new revision, and its component becomes due at once. A lease stays:
// its holder is about to replace the code. The error may be [ErrUnknownCode] or
// [ErrSecondAuthorizer]; nothing has changed then. After [ErrUnavailable] spend the same code again.
func (r *Repo) Spend(ctx context.Context, a Authorization) (Spent, error) {
	if err := a.check(); err != nil {
		return Spent{}, err
	}
	a.At, a.AuthorizedAt = stored(a.At), stored(a.AuthorizedAt)
	if a.AuthorizedAt.After(a.At) {
		a.AuthorizedAt = a.At // of a clock that is ahead
	}
	var spent Spent
	var refused error
	err := r.db.Transaction(ctx, "repo: spend", func(tx *database.Tx) (err error) {
		spent, refused, err = spendCode(ctx, tx, a)
		return err
	})
	if err == nil && refused != nil {
		err = fmt.Errorf("repo: spend: %w", refused)
	}
	return spent, err
}

// spendCode decides on an authorization, and saves it unless it is refused.
func spendCode(ctx context.Context, tx *database.Tx, a Authorization) (spent Spent, refused, err error) {
	// Like any transaction about a component, this one locks its row first.
	p := plan{at: a.At, components: map[string]*component{}}
	if err := p.lockRows(ctx, tx, []string{a.AppID}); err != nil {
		return Spent{}, nil, err
	}
	row, err := first(database.Select[codeRow](ctx, tx, "/* repo.lock_code */ "+selectCodes+"FORCE INDEX (code) WHERE code = ? FOR UPDATE",
		[]byte(a.PreAuthCode.Reveal())))
	if err != nil {
		return Spent{}, nil, err
	}
	c := p.components[a.AppID]
	isCurrent := row != nil && c != nil && c.codeID == row.ID
	switch {
	case row == nil || row.AppID != a.AppID:
		refused = ErrUnknownCode
	case !row.AuthorizedAt.Valid:
		spent, err = p.spend(ctx, tx, a, *row, isCurrent)
	case row.AuthorizerAppID.V != a.AuthorizerAppID:
		refused = ErrSecondAuthorizer
	default:
		spent, err = p.spendAgain(ctx, tx, *row, isCurrent)
	}
	if c != nil {
		spent.Revision = c.Revision
	}
	return spent, refused, err
}

// spend records an authorization, and announces it.
func (p *plan) spend(ctx context.Context, tx *database.Tx, a Authorization, row codeRow, isCurrent bool) (Spent, error) {
	if row.Cause == causeSpare {
		row.Cause = causeUsed
	}
	err := tx.Exec(ctx, "/* repo.spend */ UPDATE pre_auth_code FORCE INDEX (PRIMARY) SET cause = ?, authorizer_appid = ?, authorized_at = ? WHERE id = ?",
		row.Cause, a.AuthorizerAppID, a.AuthorizedAt, row.ID)
	if err != nil {
		return Spent{}, err
	}
	spent := Spent{Status: Saved, WasCurrent: isCurrent}
	if isCurrent {
		c := p.components[a.AppID]
		c.Current.AuthorizerAppID, c.Current.AuthorizedAt = a.AuthorizerAppID, a.AuthorizedAt
		spent.IsDue = !c.DueAt.IsZero()
		if isLeased := c.lease != nil && c.DueAt.After(a.At); spent.IsDue && !isLeased {
			c.DueAt, c.lease = a.At, nil
		}
		spent.Announcements = append(spent.Announcements, *p.raise(c, a.MinRevision, a.At, a.TraceParent))
		row.Revision.V = c.Revision
	}
	authorized := &preauth.Authorized{
		AppID: a.AppID, ClaimID: row.ClaimID.V, Reference: row.Reference.V, ClaimedAt: row.ClaimedAt.V, Revision: row.Revision.V,
		AuthorizerAppID: a.AuthorizerAppID, InfoType: a.InfoType, AuthorizedAt: a.AuthorizedAt,
		IssuedAt: row.IssuedAt.V, ExpiresAt: row.ExpiresAt.V,
	}
	announcement := Announcement{
		MessageID: authorizedID(row), AppID: a.AppID, Authorized: authorized, TraceParent: a.TraceParent, CreatedAt: a.At,
	}
	p.announcements = append(p.announcements, &announcement)
	spent.Announcements = append(spent.Announcements, announcement)
	return spent, p.write(ctx, tx)
}

// spendAgain returns the announcements of an authorization that are not known to be published: its
// answer may have been lost.
func (p *plan) spendAgain(ctx context.Context, tx *database.Tx, row codeRow, isCurrent bool) (spent Spent, err error) {
	ids := []string{authorizedID(row)}
	spent = Spent{Status: Superseded, WasCurrent: isCurrent}
	if isCurrent {
		c := p.components[row.AppID]
		update := c.Current.Update(row.AppID)
		ids, spent.IsDue = append(ids, update.MessageID()), !c.DueAt.IsZero()
	}
	rows, err := database.Select[outboxRow](ctx, tx, "/* repo.waiting */ "+selectOutbox+"WHERE o.message_id IN (?) ORDER BY o.message_id", ids)
	for _, row := range rows {
		spent.Announcements = append(spent.Announcements, row.announcement())
	}
	return spent, err
}

// authorizedID returns the message id of a [preauth.Authorized]: there is one for each code. The
// row's id alone could come again, for another code, after the database was restored from a backup.
func authorizedID(row codeRow) string {
	return fmt.Sprintf("authorized.%s.%d.%d", row.AppID, row.ID, row.IssuedAt.V.UnixMicro())
}

// check returns why the authorization cannot be saved.
func (a Authorization) check() error {
	if err := a.AuthorizationEvent.Check(); err != nil {
		return fmt.Errorf("repo: impossible authorization: %w", err)
	}
	var problem string
	switch {
	case !isStorable(a.At) || !isStorable(a.AuthorizedAt):
		problem = "At or AuthorizedAt is missing or beyond the years 1000 to 9999"
	case a.MinRevision >= math.MaxInt64:
		problem = "MinRevision leaves no room for another revision"
	case len(a.TraceParent) > maxTraceParent:
		problem = fmt.Sprintf("TraceParent must have at most %d bytes", maxTraceParent)
	default:
		return nil
	}
	return errors.New("repo: impossible authorization: " + problem)
}
