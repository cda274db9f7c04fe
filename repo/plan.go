package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"preauth"
	"preauth/internal/database"
)

// plan is what one transaction reads under its locks, decides and writes.
type plan struct {
	// at is the time of the last outcome.
	at time.Time
	// components are the rows to lock, nil until they are locked.
	components map[string]*component
	// owners maps a code to who has it: nobody, if the code is still to be looked up. A code that is not
	// in the map counts as new, and the unique key finds out if it is not.
	owners map[string]owner

	raised        []raised        // codes that get a higher revision
	retire        []uint64        // ids of the codes that stop being current
	codes         []*codeRow      // to insert
	announcements []*Announcement // to insert
}

// raised is the row of a code, and its higher revision.
type raised struct{ id, revision uint64 }

// owner is the component that has a code, "" if none has, and since when it is.
type owner struct {
	appid    string
	issuedAt time.Time
}

// component is a locked row, as the transaction will leave it.
type component struct {
	Component
	changed bool
	// updatedAt is the time of the last outcome.
	updatedAt time.Time
	// lease is kept until an outcome sets DueAt anew.
	lease []byte
	// codeID is the row of the current code, 0 if the table has none.
	codeID uint64
	// planned is the current code if this transaction inserts it.
	planned *codeRow
	// announcing are the results that announce the current code.
	announcing []*Result
}

// lock locks the components' rows and creates those that are missing. All transactions lock in the
// same order.
func (p *plan) lock(ctx context.Context, tx *database.Tx) error {
	appids := slices.Sorted(maps.Keys(p.components))
	if len(appids) == 0 {
		return nil
	}
	if err := p.lockRows(ctx, tx, appids); err != nil {
		return err
	}
	missing := slices.DeleteFunc(appids, func(appid string) bool { return p.components[appid] != nil })
	if len(missing) == 0 {
		return nil
	}
	rows := make([]componentRow, len(missing))
	for i, appid := range missing {
		rows[i] = componentRow{AppID: appid, CreatedAt: p.at}
	}
	// If another transaction inserts the same row, this statement waits with an exclusive lock. INSERT
	// IGNORE would wait with a shared lock, and two such waits are a deadlock.
	err := tx.Insert(ctx, `/* repo.create */ INSERT INTO component (appid, created_at, updated_at)
VALUES (:appid, :created_at, :created_at) ON DUPLICATE KEY UPDATE appid = VALUES(appid)`, rows)
	if err != nil {
		return err
	}
	if err := p.lockRows(ctx, tx, missing); err != nil {
		return err
	}
	for _, appid := range missing {
		if p.components[appid] == nil {
			return errors.New("a component's row is missing right after it was inserted")
		}
	}
	return nil
}

func (p *plan) lockRows(ctx context.Context, tx *database.Tx, appids []string) error {
	rows, err := database.Select[componentRow](ctx, tx,
		"/* repo.lock */ "+selectComponents+"WHERE c.appid IN (?) ORDER BY c.appid FOR UPDATE", appids)
	if err != nil {
		return err
	}
	for _, row := range rows {
		p.components[row.AppID] = &component{
			Component: row.component(), updatedAt: row.UpdatedAt, lease: row.Lease, codeID: row.Current.ID,
		}
	}
	return nil
}

// findOwners looks up the codes in owners.
func (p *plan) findOwners(ctx context.Context, tx *database.Tx) error {
	if len(p.owners) == 0 {
		return nil
	}
	var codes [][]byte
	for code := range p.owners {
		codes = append(codes, []byte(code))
	}
	rows, err := database.Select[codeRow](ctx, tx,
		"/* repo.owners */ SELECT code, appid, issued_at FROM pre_auth_code WHERE code IN (?)", codes)
	if err != nil {
		return err
	}
	for _, row := range rows {
		p.owners[string(row.Code)] = owner{row.AppID, row.IssuedAt.V}
	}
	return nil
}

// apply decides on one outcome.
func (p *plan) apply(o Outcome, result *Result) {
	if o.isBadEvent() {
		p.announceFailure(o, result)
		return
	}
	c := p.components[o.AppID]
	if c.lease != nil && o.Token.Fingerprint == c.Token.Fingerprint && c.Token.Position.After(o.Token.Position) {
		o.Token = c.Token // announced again while it was renewed
	}
	// order is above 0 if the event is newer than all before, and 0 if it is the newest one itself.
	order := o.Token.Position.compare(c.Token.Position)
	result.Revision = c.Revision
	isCurrent := o.Code != nil && c.Current != nil && c.Current.PreAuthCode.Equal(o.Code.PreAuthCode)
	switch {
	case isCurrent && c.Current.IsSpent() && !c.Current.IssuedAt.Equal(o.Code.IssuedAt):
		// This is another answer of WeChat, with a code that is of no use any more.
		result.Status, result.Err = Refused, fmt.Errorf("repo: save: %w", ErrKnownCode)
	case isCurrent:
		// The outcome was saved before and the answer was lost, or WeChat gave the same code again for a
		// newer token.
		if order > 0 {
			c.record(o, 0)
		}
		if o.MinRevision >= c.Revision {
			result.Announcement = p.raise(c, o.MinRevision, o.At, o.TraceParent)
		} else {
			result.Announcement = c.announcement(o.At, o.TraceParent)
		}
		result.Status, result.Revision = Saved, c.Revision
		c.announcing = append(c.announcing, result)
	case order < 0, order == 0 && c.isServed(o), c.isStale(o):
		result.Status = Superseded
	case o.Code != nil:
		p.replaceCode(c, o, order, result)
	case o.Failure != nil:
		c.record(o, o.Failure.Attempt)
		p.announceFailure(o, result)
	case c.Current.Usable(o.At) && c.Current.Fingerprint == o.Token.Fingerprint:
		dueAt, lease := c.DueAt, c.lease
		c.record(o, 0)
		if lease != nil { // a renewal is under way, whose outcome ends its lease
			c.DueAt, c.lease = dueAt, lease
		}
		result.Status = Saved
	default:
		// The code that the caller saw was replaced: this token needs one of its own.
		o.DueAt = o.At
		c.record(o, 0)
		result.Status = Saved
	}
}

// isServed reports whether another replica got a code for the same event, so that this replica's
// code or failure is useless.
func (c *component) isServed(o Outcome) bool {
	return o.Cause == preauth.CauseToken && (o.Code != nil || o.Failure != nil) &&
		c.Current.Usable(o.At) && c.Current.Fingerprint == o.Token.Fingerprint
}

// isStale decides on an outcome whose event is after the component's, which may be after the
// outcome's too: it is stale if it is older than the last outcome by more than the replicas' clocks
// may differ.
func (c *component) isStale(o Outcome) bool {
	return c.Token.Position.After(o.Token.Position) && c.updatedAt.Sub(o.At) > rolledBack/2
}

// record takes over all of an outcome but its code, and ends the lease.
func (c *component) record(o Outcome, attempts int) {
	c.updatedAt = o.At
	c.Token, c.Attempts, c.Failure, c.DueAt, c.lease, c.changed = o.Token, attempts, o.Failure, o.DueAt, nil, true
}

// raise gives the current code a revision above all that are known to have been announced, and
// announces it.
func (p *plan) raise(c *component, minRevision uint64, at time.Time, traceParent string) *Announcement {
	p.withdraw(c)
	c.Revision = max(c.Revision, minRevision) + 1
	c.Current.Revision, c.changed = c.Revision, true
	if c.planned != nil {
		c.planned.Revision = null(c.Revision)
	} else {
		p.raised = append(p.raised, raised{c.codeID, c.Revision})
	}
	announcement := c.announcement(at, traceParent)
	p.announcements = append(p.announcements, announcement)
	return announcement
}

// withdraw takes back what this transaction announces of the current code: a higher revision follows.
func (p *plan) withdraw(c *component) {
	for _, result := range c.announcing {
		p.announcements = slices.DeleteFunc(p.announcements, func(a *Announcement) bool { return a == result.Announcement })
		result.Announcement = nil
	}
}

// replaceCode makes the outcome's code current.
func (p *plan) replaceCode(c *component, o Outcome, order int, result *Result) {
	code := o.Code.PreAuthCode.Reveal()
	switch known := p.owners[code]; {
	case known.appid == o.AppID && known.issuedAt.Equal(o.Code.IssuedAt) && order == 0:
		// The outcome was saved before, the answer was lost, and a newer code came since.
		result.Status = Superseded
		return
	case known.appid != "":
		result.Status, result.Err = Refused, fmt.Errorf("repo: save: %w", ErrKnownCode)
		return
	}
	p.owners[code] = owner{o.AppID, o.Code.IssuedAt}

	p.withdraw(c)
	switch {
	case c.planned != nil:
		c.planned.DeletedAt = null(p.at)
	case c.Current != nil:
		p.retire = append(p.retire, c.codeID)
	}
	c.record(o, 0)
	c.Revision = max(c.Revision, o.MinRevision) + 1
	c.Current = &CurrentCode{Code: *o.Code, Revision: c.Revision, Cause: o.Cause, Fingerprint: o.Token.Fingerprint}
	result.Status, result.Revision = Saved, c.Revision
	result.Announcement = c.announcement(o.At, o.TraceParent)
	p.announcements = append(p.announcements, result.Announcement)

	row := rowOf(c.AppID, c.Current.Code, string(c.Current.Cause), c.Current.Fingerprint)
	row.Revision = null(c.Revision)
	c.planned, c.announcing = &row, []*Result{result}
	p.codes = append(p.codes, c.planned)
}

// announcement announces the current code.
func (c *component) announcement(at time.Time, traceParent string) *Announcement {
	u := c.Current.Update(c.AppID)
	return &Announcement{MessageID: u.MessageID(), AppID: c.AppID, Update: &u, TraceParent: traceParent, CreatedAt: at}
}

// announceFailure puts the failure into the outbox, unless the outcome says not to.
func (p *plan) announceFailure(o Outcome, result *Result) {
	result.Status = Saved
	if o.FailureID == "" {
		return
	}
	result.Announcement = &Announcement{
		MessageID: o.FailureID, AppID: o.AppID, Failure: o.Failure, TraceParent: o.TraceParent, CreatedAt: o.At,
	}
	p.announcements = append(p.announcements, result.Announcement)
}

// write writes what was decided. After each statement the unique keys hold.
func (p *plan) write(ctx context.Context, tx *database.Tx) error {
	var components []componentRow
	for _, appid := range slices.Sorted(maps.Keys(p.components)) {
		if c := p.components[appid]; c.changed {
			components = append(components, c.row(p.at))
		}
	}
	var outbox []outboxRow
	for _, a := range p.announcements {
		outbox = append(outbox, a.row())
	}

	err := tx.Insert(ctx, `/* repo.component */ INSERT INTO component
(appid, revision, token_stream, token_stream_created, token_sequence, token_time, token_fingerprint, token_expires_at,
	attempts, due_at, lease, failure, created_at, updated_at)
VALUES (:appid, :revision, :token_stream, :token_stream_created, :token_sequence, :token_time, :token_fingerprint, :token_expires_at,
	:attempts, :due_at, :lease, :failure, :created_at, :updated_at)
ON DUPLICATE KEY UPDATE revision = VALUES(revision), token_stream = VALUES(token_stream), token_stream_created = VALUES(token_stream_created),
	token_sequence = VALUES(token_sequence), token_time = VALUES(token_time), token_fingerprint = VALUES(token_fingerprint),
	token_expires_at = VALUES(token_expires_at), attempts = VALUES(attempts), due_at = VALUES(due_at),
	lease = VALUES(lease), failure = VALUES(failure), updated_at = VALUES(updated_at)`, components)
	if err != nil {
		return err
	}
	for _, code := range p.raised {
		err := tx.Exec(ctx, "/* repo.raise */ UPDATE pre_auth_code FORCE INDEX (PRIMARY) SET revision = ? WHERE id = ?", code.revision, code.id)
		if err != nil {
			return err
		}
	}
	if len(p.retire) > 0 {
		err := tx.Exec(ctx, "/* repo.retire */ UPDATE pre_auth_code FORCE INDEX (PRIMARY) SET deleted_at = ? WHERE id IN (?)", p.at, p.retire)
		if err != nil {
			return err
		}
	}
	err = tx.Insert(ctx, `/* repo.code */ INSERT INTO pre_auth_code
(appid, revision, code, cause, token_fingerprint, issued_at, expires_at, deleted_at)
VALUES (:appid, :revision, :code, :cause, :token_fingerprint, :issued_at, :expires_at, :deleted_at)`, p.codes)
	if err != nil {
		return err
	}
	return tx.Insert(ctx, `/* repo.announce */ INSERT INTO outbox (message_id, appid, revision, failure, authorized, traceparent, created_at)
VALUES (:message_id, :appid, :revision, :failure, :authorized, :traceparent, :created_at)
ON DUPLICATE KEY UPDATE message_id = VALUES(message_id)`, outbox)
}
