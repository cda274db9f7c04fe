package repo

import (
	"database/sql"
	"time"

	"preauth"
)

// Each table has a type with the columns of its rows. A query reads those that it needs; the others
// stay zero. NULL stands for the zero value.

// componentRow is a row of component, with its current code.
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
	CreatedAt          time.Time           `db:"created_at"`
	UpdatedAt          time.Time           `db:"updated_at"`

	Current codeRow `db:"current"`
}

// selectComponents reads components with their current codes. The hints keep the plan the same
// however few rows there are: it reads, and with FOR UPDATE locks, the component's row first, and
// touches no row of other components.
const selectComponents = `SELECT c.appid, c.revision, c.token_stream, c.token_stream_created, c.token_sequence, c.token_time,
	c.token_fingerprint, c.token_expires_at, c.attempts, c.due_at, c.lease, c.failure, c.updated_at, ` + currentColumns + `
FROM component AS c FORCE INDEX (PRIMARY)
LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = c.appid AND p.slot = 0
`

func (row componentRow) component() Component {
	return Component{
		AppID: row.AppID, Revision: row.Revision,
		Token: Token{
			Position: Position{
				Stream: row.TokenStream, StreamCreated: row.TokenStreamCreated.V, Sequence: row.TokenSequence, Time: row.TokenTime.V,
			},
			Fingerprint: fingerprint(row.TokenFingerprint), ExpiresAt: row.TokenExpiresAt.V,
		},
		Attempts: row.Attempts, DueAt: row.DueAt.V, Failure: failureFrom(row.AppID, row.Failure.V), Current: row.Current.current(),
	}
}

// row returns the component as it is stored, without its current code. createdAt counts if it is new.
func (c *component) row(createdAt time.Time) componentRow {
	at := c.Token.Position
	return componentRow{
		AppID: c.AppID, Revision: c.Revision,
		TokenStream: at.Stream, TokenStreamCreated: null(at.StreamCreated), TokenSequence: at.Sequence, TokenTime: null(at.Time),
		TokenFingerprint: c.Token.Fingerprint[:], TokenExpiresAt: null(c.Token.ExpiresAt),
		Attempts: c.Attempts, DueAt: null(c.DueAt), Lease: c.lease, Failure: null(textOf(c.Failure)),
		CreatedAt: createdAt, UpdatedAt: c.updatedAt,
	}
}

// codeRow is a row of pre_auth_code.
type codeRow struct {
	ID               uint64              `db:"id"`
	AppID            string              `db:"appid"`
	Revision         sql.Null[uint64]    `db:"revision"`
	Code             []byte              `db:"code"`
	Cause            string              `db:"cause"`
	TokenFingerprint []byte              `db:"token_fingerprint"`
	IssuedAt         sql.Null[time.Time] `db:"issued_at"`
	ExpiresAt        sql.Null[time.Time] `db:"expires_at"`
	DeletedAt        sql.Null[time.Time] `db:"deleted_at"`
	ClaimID          sql.Null[string]    `db:"claim_id"`
	Reference        sql.Null[string]    `db:"reference"`
	ClaimedAt        sql.Null[time.Time] `db:"claimed_at"`
	AuthorizerAppID  sql.Null[string]    `db:"authorizer_appid"`
	AuthorizedAt     sql.Null[time.Time] `db:"authorized_at"`
}

const selectCodes = `SELECT id, appid, revision, code, cause, issued_at, expires_at, deleted_at, claim_id, reference, claimed_at,
	authorizer_appid, authorized_at
FROM pre_auth_code `

// onPrimary ends a query for an answer that has to hold all that any client was told. After a
// failover, connections of the pool may still lead to the old primary, which answers a plain SELECT
// with what it last knew. A server that takes no writes refuses to lock a row, even where there is
// none, and the query is repeated elsewhere. To lock the rows that the answer has would bring
// deadlocks with transactions that find them by other keys.
const onPrimary = " AND NOT EXISTS (SELECT 1 FROM component AS nobody WHERE nobody.appid = '' FOR UPDATE)"

// currentColumns are those of the code p beside another row. They are NULL if there is none.
const currentColumns = `COALESCE(p.id, 0) AS 'current.id', p.revision AS 'current.revision', p.code AS 'current.code',
	COALESCE(p.cause, '') AS 'current.cause', p.token_fingerprint AS 'current.token_fingerprint', p.issued_at AS 'current.issued_at',
	p.expires_at AS 'current.expires_at', p.authorizer_appid AS 'current.authorizer_appid', p.authorized_at AS 'current.authorized_at'`

// rowOf returns a code as it is stored.
func rowOf(appid string, code Code, cause string, fingerprint Fingerprint) codeRow {
	return codeRow{
		AppID: appid, Code: []byte(code.PreAuthCode.Reveal()), Cause: cause, TokenFingerprint: fingerprint[:],
		IssuedAt: null(code.IssuedAt), ExpiresAt: null(code.ExpiresAt),
	}
}

func (row codeRow) code() Code {
	return Code{PreAuthCode: preauth.NewSecret(string(row.Code)), IssuedAt: row.IssuedAt.V, ExpiresAt: row.ExpiresAt.V}
}

// current returns the code as a current one, nil if there is none.
func (row codeRow) current() *CurrentCode {
	if row.ID == 0 {
		return nil
	}
	return &CurrentCode{
		Code: row.code(), Revision: row.Revision.V, Cause: preauth.Cause(row.Cause), Fingerprint: fingerprint(row.TokenFingerprint),
		AuthorizerAppID: row.AuthorizerAppID.V, AuthorizedAt: row.AuthorizedAt.V,
	}
}

func (row codeRow) claim() Claim {
	return Claim{AppID: row.AppID, ClaimID: row.ClaimID.V, Reference: row.Reference.V, Code: row.code(), ClaimedAt: row.ClaimedAt.V}
}

// outboxRow is a row of outbox, with the code that an update announces, while that is current.
type outboxRow struct {
	MessageID   string           `db:"message_id"`
	AppID       string           `db:"appid"`
	Revision    sql.Null[uint64] `db:"revision"`
	Failure     sql.Null[string] `db:"failure"`
	Authorized  sql.Null[string] `db:"authorized"`
	TraceParent sql.Null[string] `db:"traceparent"`
	CreatedAt   time.Time        `db:"created_at"`

	Current codeRow `db:"current"`
}

const selectOutbox = `SELECT o.message_id, o.appid, o.revision, o.failure, o.authorized, o.traceparent, o.created_at, ` + currentColumns + `
FROM outbox AS o LEFT JOIN pre_auth_code AS p FORCE INDEX (current_code) ON p.appid = o.appid AND p.slot = 0 AND p.revision = o.revision
`

func (row outboxRow) announcement() Announcement {
	a := Announcement{
		MessageID: row.MessageID, AppID: row.AppID, Failure: failureFrom(row.AppID, row.Failure.V),
		TraceParent: row.TraceParent.V, CreatedAt: row.CreatedAt,
	}
	if current := row.Current.current(); current != nil {
		update := current.Update(row.AppID)
		a.Update = &update
	}
	if authorized, err := preauth.ParseAuthorized([]byte(row.Authorized.V)); err == nil {
		a.Authorized = &authorized
	}
	return a
}

// row returns the announcement as it is stored.
func (a *Announcement) row() outboxRow {
	row := outboxRow{
		MessageID: a.MessageID, AppID: a.AppID, Failure: null(textOf(a.Failure)),
		TraceParent: null(a.TraceParent), CreatedAt: a.CreatedAt,
	}
	if a.Update != nil {
		row.Revision = null(a.Update.Revision)
	}
	if a.Authorized != nil {
		row.Authorized = null(string(a.Authorized.Encode()))
	}
	return row
}

// null returns the zero value as NULL.
func null[T comparable](value T) sql.Null[T] {
	var zero T
	return sql.Null[T]{V: value, Valid: value != zero}
}

func fingerprint(sum []byte) (f Fingerprint) {
	copy(f[:], sum)
	return f
}

// textOf returns a failure as it is stored, "" for nil.
func textOf(f *preauth.Failure) string {
	if f == nil {
		return ""
	}
	return string(f.Encode())
}

// failureFrom reads a failure as it is stored, nil for none. A text that is not a failure must not
// block the component.
func failureFrom(appid, body string) *preauth.Failure {
	if body == "" {
		return nil
	}
	f, err := preauth.ParseFailure([]byte(body))
	if err != nil {
		f = preauth.Failure{AppID: appid, Class: preauth.ClassUnknown, ErrMsg: "the failure stored in the database is unreadable"}
	}
	return &f
}
