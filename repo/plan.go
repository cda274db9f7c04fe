package repo

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"preauth"
)

// plan is what one transaction reads under its locks, decides and writes.
type plan struct {
	// at is the time of the latest outcome.
	at time.Time
	// components are the rows to lock, and once they are locked what is in them.
	components map[string]*component
	// holders has the component that holds a code, "" for a code to be looked up and for one that was
	// found to be free. A code that is not in it is taken for new; the unique key knows better.
	holders map[string]string

	retire   []uint64   // ids of the codes that are current no more
	codes    []*codeRow // to insert
	failures []outboxRow
}

// component is a locked row, as the transaction will leave it.
type component struct {
	Component
	changed bool
	// updatedAt is the time of the last outcome.
	updatedAt time.Time
	// lease is kept as long as DueAt is: an outcome that sets DueAt anew ends it.
	lease []byte
	// codeID is the row of the current code, where the table has it.
	codeID uint64
	// planned is the current code where this transaction brings it, for the outcome with this result.
	planned *codeRow
	result  *Result
}

type codeRow struct {
	AppID       string              `db:"appid"`
	Revision    uint64              `db:"revision"`
	Code        []byte              `db:"code"`
	Cause       string              `db:"cause"`
	Fingerprint []byte              `db:"token_fingerprint"`
	IssuedAt    time.Time           `db:"issued_at"`
	ExpiresAt   time.Time           `db:"expires_at"`
	DeletedAt   sql.Null[time.Time] `db:"deleted_at"`

	announcement *Announcement
}

type outboxRow struct {
	MessageID string           `db:"message_id"`
	AppID     string           `db:"appid"`
	Revision  sql.Null[uint64] `db:"revision"`
	Failure   sql.Null[string] `db:"failure"`
	CreatedAt time.Time        `db:"created_at"`
}

// lock locks the components' rows, in the order in which all transactions do, and creates those that
// are missing.
func (p *plan) lock(ctx context.Context, tx *sqlx.Tx) error {
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
	type row struct {
		AppID string    `db:"appid"`
		At    time.Time `db:"at"`
	}
	rows := make([]row, len(missing))
	for i, appid := range missing {
		rows[i] = row{appid, p.at}
	}
	// Where another transaction inserts the same row, this waits for it with an exclusive lock. INSERT
	// IGNORE would take a shared one, and two that wait like that are a deadlock.
	_, err := tx.NamedExecContext(ctx, `/* repo.create */ INSERT INTO component (appid, created_at, updated_at)
VALUES (:appid, :at, :at) ON DUPLICATE KEY UPDATE appid = VALUES(appid)`, rows)
	if err != nil {
		return err
	}
	if err := p.lockRows(ctx, tx, missing); err != nil {
		return err
	}
	for _, appid := range missing {
		if p.components[appid] == nil {
			return errors.New("a component's row is not there right after its insertion")
		}
	}
	return nil
}

func (p *plan) lockRows(ctx context.Context, tx *sqlx.Tx, appids []string) error {
	var rows []componentRow
	err := selectIn(ctx, tx, &rows,
		"/* repo.lock */ "+selectComponents+"WHERE c.appid IN (?) ORDER BY c.appid FOR UPDATE", appids)
	if err != nil {
		return err
	}
	for _, row := range rows {
		p.components[row.AppID] = &component{Component: row.component(), updatedAt: row.UpdatedAt, lease: row.Lease, codeID: row.CodeID.V}
	}
	return nil
}

// findHolders looks up who has the codes in holders.
func (p *plan) findHolders(ctx context.Context, tx *sqlx.Tx) error {
	if len(p.holders) == 0 {
		return nil
	}
	codes := make([][]byte, 0, len(p.holders))
	for code := range p.holders {
		codes = append(codes, []byte(code))
	}
	var rows []struct {
		Code  []byte `db:"code"`
		AppID string `db:"appid"`
	}
	err := selectIn(ctx, tx, &rows, "/* repo.holders */ SELECT code, appid FROM pre_auth_code WHERE code IN (?)", codes)
	if err != nil {
		return err
	}
	for _, row := range rows {
		p.holders[string(row.Code)] = row.AppID
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
	// order is above 0 for an event newer than all that were taken, and 0 for the newest taken.
	order := o.Token.Position.compare(c.Token.Position)
	result.Revision = c.Revision
	switch {
	case c.Current != nil && o.Code != nil && c.Current.PreAuthCode.Equal(o.Code.PreAuthCode):
		// The outcome was saved before and the answer got lost, or WeChat gave the same code once more
		// for a newer token.
		if order > 0 {
			c.settle(o, 0)
		}
		result.Status, result.Revision = Saved, c.Current.Revision
		result.Announcement = c.announcement(o.At)
	case order < 0, order == 0 && c.servedAlready(o), c.overtook(o):
		result.Status = Superseded
	case o.Code != nil:
		p.replaceCode(c, o, order, result)
	case o.Failure != nil:
		c.settle(o, o.Failure.Attempt)
		p.announceFailure(o, result)
	case c.Current != nil && c.Current.Fingerprint == o.Token.Fingerprint && c.Current.ExpiresAt.After(o.At):
		c.settle(o, 0)
		result.Status = Saved
	default:
		// Another code took the place of the one that the caller saw: this token needs one of its own.
		o.DueAt = o.At
		c.settle(o, 0)
		result.Status = Saved
	}
}

// servedAlready reports whether another replica got a code for the same event, so that this one's
// code or failure is of no use.
func (c *component) servedAlready(o Outcome) bool {
	return o.Cause == preauth.CauseToken && (o.Code != nil || o.Failure != nil) &&
		c.Current != nil && c.Current.Fingerprint == o.Token.Fingerprint && c.Current.ExpiresAt.After(o.At)
}

// overtook reports whether a disputed outcome comes late: it was worked on before the component's last one was,
// by more than the replicas' clocks differ.
func (c *component) overtook(o Outcome) bool {
	return o.Token.Position.disputed(c.Token.Position) && c.updatedAt.Sub(o.At) > rolledBack/2
}

// settle records what a code or a failure brings besides itself, and ends the lease under which it was
// worked for.
func (c *component) settle(o Outcome, attempts int) {
	c.updatedAt = o.At
	c.Token, c.Attempts, c.Failure, c.DueAt, c.lease, c.changed = o.Token, attempts, o.Failure, o.DueAt, nil, true
}

// replaceCode makes the outcome's code current.
func (p *plan) replaceCode(c *component, o Outcome, order int, result *Result) {
	code := o.Code.PreAuthCode.Reveal()
	switch holder := p.holders[code]; {
	case holder == o.AppID && order == 0:
		// The outcome was saved before, the answer got lost, and a newer code came since.
		result.Status = Superseded
		return
	case holder != "":
		result.Status, result.Err = Refused, errHeld
		return
	}
	p.holders[code] = o.AppID

	switch {
	case c.planned != nil:
		c.planned.DeletedAt = null(p.at)
		c.result.Announcement = nil
	case c.Current != nil:
		p.retire = append(p.retire, c.codeID)
	}
	c.settle(o, 0)
	c.Revision = max(c.Revision, o.MinRevision) + 1
	c.Current = &CurrentCode{Code: *o.Code, Revision: c.Revision, Cause: o.Cause, Fingerprint: o.Token.Fingerprint}
	result.Status, result.Revision = Saved, c.Revision
	result.Announcement = c.announcement(o.At)

	c.planned, c.result = &codeRow{
		AppID: o.AppID, Revision: c.Revision, Code: []byte(code), Cause: string(o.Cause),
		Fingerprint: o.Token.Fingerprint[:], IssuedAt: o.Code.IssuedAt, ExpiresAt: o.Code.ExpiresAt,
		announcement: result.Announcement,
	}, result
	p.codes = append(p.codes, c.planned)
}

var errHeld = errors.New("repo: the code was given before, to this component for an older token or to another one")

// announcement returns the one of the current code.
func (c *component) announcement(at time.Time) *Announcement {
	u := c.update()
	return &Announcement{MessageID: u.MessageID(), AppID: c.AppID, Update: u, CreatedAt: at}
}

// announceFailure puts the failure into the outbox, if it belongs there.
func (p *plan) announceFailure(o Outcome, result *Result) {
	result.Status = Saved
	if o.FailureID == "" {
		return
	}
	p.failures = append(p.failures, outboxRow{
		MessageID: o.FailureID, AppID: o.AppID, Failure: textOf(o.Failure), CreatedAt: o.At,
	})
	result.Announcement = &Announcement{MessageID: o.FailureID, AppID: o.AppID, Failure: o.Failure, CreatedAt: o.At}
}

// write writes what was decided. The statements follow one another so that the unique keys hold after
// each.
func (p *plan) write(ctx context.Context, tx *sqlx.Tx) error {
	type row struct {
		componentRow
		At time.Time `db:"at"`
	}
	var changed []row
	for _, appid := range slices.Sorted(maps.Keys(p.components)) {
		if c := p.components[appid]; c.changed {
			changed = append(changed, row{rowOf(c.Component, c.lease), p.at})
		}
	}
	if len(changed) > 0 {
		_, err := tx.NamedExecContext(ctx, `/* repo.component */ INSERT INTO component
(appid, revision, token_stream, token_stream_created, token_sequence, token_time, token_fingerprint, token_expires_at, attempts, due_at, lease, failure, created_at, updated_at)
VALUES (:appid, :revision, :token_stream, :token_stream_created, :token_sequence, :token_time, :token_fingerprint, :token_expires_at, :attempts, :due_at, :lease, :failure, :at, :at)
ON DUPLICATE KEY UPDATE revision = VALUES(revision), token_stream = VALUES(token_stream), token_stream_created = VALUES(token_stream_created),
	token_sequence = VALUES(token_sequence), token_time = VALUES(token_time), token_fingerprint = VALUES(token_fingerprint),
	token_expires_at = VALUES(token_expires_at), attempts = VALUES(attempts), due_at = VALUES(due_at),
	lease = VALUES(lease), failure = VALUES(failure), updated_at = VALUES(updated_at)`, changed)
		if err != nil {
			return err
		}
	}
	if len(p.retire) > 0 {
		statement, args, err := sqlx.In("/* repo.retire */ UPDATE pre_auth_code FORCE INDEX (PRIMARY) SET deleted_at = ? WHERE id IN (?)", p.at, p.retire)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, statement, args...); err != nil {
			return err
		}
	}
	if len(p.codes) > 0 {
		_, err := tx.NamedExecContext(ctx, `/* repo.code */ INSERT INTO pre_auth_code
(appid, revision, code, cause, token_fingerprint, issued_at, expires_at, deleted_at)
VALUES (:appid, :revision, :code, :cause, :token_fingerprint, :issued_at, :expires_at, :deleted_at)`, p.codes)
		if err != nil {
			return err
		}
	}
	outbox := p.failures
	for _, code := range p.codes {
		if !code.DeletedAt.Valid { // one that a later outcome has replaced already is not announced
			outbox = append(outbox, outboxRow{
				MessageID: code.announcement.MessageID, AppID: code.AppID,
				Revision: sql.Null[uint64]{V: code.Revision, Valid: true}, CreatedAt: code.announcement.CreatedAt,
			})
		}
	}
	if len(outbox) > 0 {
		_, err := tx.NamedExecContext(ctx, `/* repo.announce */ INSERT INTO outbox (message_id, appid, revision, failure, created_at)
VALUES (:message_id, :appid, :revision, :failure, :created_at) ON DUPLICATE KEY UPDATE message_id = VALUES(message_id)`, outbox)
		if err != nil {
			return err
		}
	}
	return nil
}
