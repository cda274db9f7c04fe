package repo

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"preauth"
)

var (
	// ErrNoSpare means that there is no code to give: make one and call [Repo.InsertClaim].
	ErrNoSpare = errors.New("no code is left that was made ahead")
	// ErrReference means that the claim id was used with another reference. It will not pass before
	// that claim is purged.
	ErrReference = errors.New("the claim id was used with another reference")
	// ErrNotClaimed means that no claim was given the code, or that it was purged since.
	ErrNotClaimed = errors.New("no claim was given this code")
)

// ClaimRequest asks for a code that nobody else was or will be given.
type ClaimRequest struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID is 1 to 512 bytes, compared byte for byte. The same id of the same component gets the
	// same code.
	ClaimID string
	// Reference is up to 1024 bytes, the same each time.
	Reference string
	// At is the service's clock.
	At time.Time
	// MinTTL is the life that the code must have left. It has more in any case.
	MinTTL time.Duration
	// SpareTTL is the life that a spare must have left, where that is more than MinTTL: a code that the claim
	// id has already is as good with less.
	SpareTTL time.Duration
}

// Claim is a code that was given to a claim.
type Claim struct {
	AppID, ClaimID, Reference string
	Code
	// ClaimedAt is when the code was given to the claim id first, in UTC.
	ClaimedAt time.Time
}

// NewCode is a code with the fingerprint of the token that it was made with.
type NewCode struct {
	Code
	Fingerprint Fingerprint
}

// Spare is a code made ahead for claims. It must not have been announced or given to anybody.
type Spare struct {
	// AppID is the component_appid.
	AppID string
	Code
	// Fingerprint is that of the token which the code was made with.
	Fingerprint Fingerprint
}

// The causes of the codes that are never announced, as they are stored.
const (
	causeSpare = "spare"
	causeClaim = "claim"
)

const selectClaims = "SELECT id, appid, code, cause, issued_at, expires_at, claim_id, reference, claimed_at, deleted_at FROM pre_auth_code "

type claimRow struct {
	ID        uint64              `db:"id"`
	AppID     string              `db:"appid"`
	Code      []byte              `db:"code"`
	Cause     string              `db:"cause"`
	IssuedAt  time.Time           `db:"issued_at"`
	ExpiresAt time.Time           `db:"expires_at"`
	ClaimID   []byte              `db:"claim_id"`
	Reference []byte              `db:"reference"`
	ClaimedAt sql.Null[time.Time] `db:"claimed_at"`
	DeletedAt sql.Null[time.Time] `db:"deleted_at"`
}

func (row claimRow) code() Code {
	return Code{PreAuthCode: preauth.NewSecret(string(row.Code)), IssuedAt: row.IssuedAt, ExpiresAt: row.ExpiresAt}
}

func (row claimRow) claim() Claim {
	return Claim{
		AppID: row.AppID, ClaimID: string(row.ClaimID), Reference: string(row.Reference), Code: row.code(),
		ClaimedAt: row.ClaimedAt.V,
	}
}

// Claim gives a code to a claim id: the one that it has already, as long as that lives longer than
// MinTTL, otherwise a spare that lives longer than MinTTL and SpareTTL. The error may be [ErrNoSpare] or
// [ErrReference]. After [ErrUnavailable] the same request gets the code that it may have been given before the
// answer was lost.
func (r *Repo) Claim(ctx context.Context, request ClaimRequest) (Claim, error) {
	if err := request.check(); err != nil {
		return Claim{}, err
	}
	request.At = stored(request.At)
	for range maxRaces {
		held, spare, err := r.claimable(ctx, request)
		if err != nil {
			return Claim{}, err
		}
		if claim, done, err := request.answer(held); err != nil || done {
			return claim, err
		}
		if spare == nil {
			return Claim{}, fmt.Errorf("repo: claim: %w", ErrNoSpare)
		}
		if held != nil {
			if err := r.retireClaim(ctx, held.ID, request.At); err != nil {
				return Claim{}, err
			}
		}
		rows, err := r.exec(ctx, "claim", "/* repo.claim */ UPDATE pre_auth_code SET cause = ?, claim_id = ?, reference = ?, claimed_at = ? WHERE id = ? AND cause = ?",
			causeClaim, []byte(request.ClaimID), []byte(request.Reference), request.At, spare.ID, causeSpare)
		switch {
		case rows == 1:
			return request.claim(spare.code()), nil
		case err != nil && !errors.Is(err, errDuplicate):
			return Claim{}, err
		}
		// Another claim took the spare, or the claim id has a code by now: from a request that ran at the same
		// time, or from this one, if the answer to its first try got lost.
	}
	return Claim{}, fmt.Errorf("repo: claim: %w: %w", ErrUnavailable, errRaces)
}

// maxRaces bounds the races that a claim loses before it is ErrUnavailable. Each race that it loses is won by
// another claim, so only a bug or a crowd far larger than the spares reaches it.
const maxRaces = 100

var errRaces = errors.New("other claims were quicker again and again")

// oldestSpares is how many of the oldest spares a claim picks from, at random. One is picked at random so that
// claims that run at the same time rarely want the same: of 16, the default number of connections, one in five
// does. Reading 64 entries of the index costs as good as nothing.
const oldestSpares = 64

// claimable returns the code that the claim id has, and one of the oldest spares that live long enough. Each may
// be nil.
func (r *Repo) claimable(ctx context.Context, request ClaimRequest) (held, spare *claimRow, err error) {
	var rows []claimRow
	err = do(ctx, "claim", func() error {
		return selectIn(ctx, r.db, &rows, "/* repo.claimable */ ("+selectClaims+"FORCE INDEX (live_claim) WHERE appid = ? AND live_claim = ?)\n"+
			"UNION ALL ("+selectClaims+`JOIN (SELECT id AS picked FROM (
	SELECT id FROM pre_auth_code FORCE INDEX (spare) WHERE appid = ? AND cause = ? AND expires_at > ? ORDER BY expires_at LIMIT ?
) AS oldest ORDER BY RAND() LIMIT 1) AS choice ON id = picked)`,
			request.AppID, []byte(request.ClaimID),
			request.AppID, causeSpare, request.At.Add(max(request.MinTTL, request.SpareTTL)), oldestSpares)
	})
	for i, row := range rows {
		if row.Cause == causeSpare {
			spare = &rows[i]
		} else {
			held = &rows[i]
		}
	}
	return held, spare, err
}

// answer returns the claim that the code makes which the claim id has, and reports false if there is none, or none
// that lives long enough.
func (r ClaimRequest) answer(held *claimRow) (Claim, bool, error) {
	switch {
	case held == nil:
		return Claim{}, false, nil
	case string(held.Reference) != r.Reference:
		return Claim{}, false, fmt.Errorf("repo: claim: %w", ErrReference)
	case !r.fits(held.ExpiresAt):
		return Claim{}, false, nil
	}
	return held.claim(), true, nil
}

// fits reports whether a code that expires then lives long enough for the request.
func (r ClaimRequest) fits(expiresAt time.Time) bool { return expiresAt.After(r.At.Add(r.MinTTL)) }

// retireClaim takes its code from a claim id, which makes room for another one. Nobody else gets the
// old one.
func (r *Repo) retireClaim(ctx context.Context, id uint64, at time.Time) error {
	_, err := r.exec(ctx, "claim", "/* repo.retire_claim */ UPDATE pre_auth_code SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL", at, id)
	return err
}

// claim returns the claim that the request has made of a code.
func (r ClaimRequest) claim(code Code) Claim {
	return Claim{AppID: r.AppID, ClaimID: r.ClaimID, Reference: r.Reference, Code: code, ClaimedAt: r.At}
}

// InsertClaim gives a code that was made for the request because [Repo.Claim] had none. Where the claim
// id has got another code meanwhile, that one is returned, and the new code is kept as a spare, also
// when the error is [ErrReference]. The error is [ErrNoSpare] in the rare case that the new code was
// saved by an earlier call and has been used up since: make another.
func (r *Repo) InsertClaim(ctx context.Context, request ClaimRequest, code NewCode) (Claim, error) {
	if err := request.check(); err != nil {
		return Claim{}, err
	}
	if problem := code.problem(); problem != "" {
		return Claim{}, errors.New("repo: impossible claim: " + problem)
	}
	request.At, code.Code = stored(request.At), code.Code.stored()
	for range maxRaces {
		_, err := r.exec(ctx, "claim new", `/* repo.claim_new */ INSERT INTO pre_auth_code
(appid, code, cause, token_fingerprint, issued_at, expires_at, claim_id, reference, claimed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			request.AppID, []byte(code.PreAuthCode.Reveal()), causeClaim, code.Fingerprint[:], code.IssuedAt, code.ExpiresAt,
			[]byte(request.ClaimID), []byte(request.Reference), request.At)
		if err == nil {
			return request.claim(code.Code), nil
		}
		if !errors.Is(err, errDuplicate) {
			return Claim{}, err
		}
		held, saved, err := r.conflicts(ctx, request, code)
		keep := func() error {
			return r.AddSpares(ctx, []Spare{{AppID: request.AppID, Code: code.Code, Fingerprint: code.Fingerprint}})
		}
		switch {
		case err != nil:
			return Claim{}, err
		case held != nil && string(held.Reference) != request.Reference:
			return Claim{}, cmp.Or(keep(), fmt.Errorf("repo: claim new: %w", ErrReference))
		case held != nil && saved != nil && held.ID == saved.ID:
			return held.claim(), nil // saved before, and the answer got lost
		case held != nil && request.fits(held.ExpiresAt):
			if err := keep(); err != nil {
				return Claim{}, err
			}
			return held.claim(), nil
		case saved != nil && (saved.AppID != request.AppID || saved.Cause != causeSpare && saved.Cause != causeClaim):
			return Claim{}, fmt.Errorf("repo: claim new: %w", errGivenBefore)
		case saved != nil:
			return r.Claim(ctx, request)
		case held != nil:
			if err := r.retireClaim(ctx, held.ID, request.At); err != nil {
				return Claim{}, err
			}
		}
	}
	return Claim{}, fmt.Errorf("repo: claim new: %w: %w", ErrUnavailable, errRaces)
}

var errGivenBefore = errors.New("the code was given before, as a current code or to another component")

// conflicts returns what keeps a new code from being saved for a claim id: the code that the claim id
// has, and the row that has the new code already. Each may be nil.
func (r *Repo) conflicts(ctx context.Context, request ClaimRequest, code NewCode) (held, saved *claimRow, err error) {
	var rows []claimRow
	err = do(ctx, "claim new", func() error {
		return selectIn(ctx, r.db, &rows, "/* repo.conflicts */ ("+selectClaims+"FORCE INDEX (live_claim) WHERE appid = ? AND live_claim = ?) "+
			"UNION ("+selectClaims+"FORCE INDEX (code) WHERE code = ?)",
			request.AppID, []byte(request.ClaimID), []byte(code.PreAuthCode.Reveal()))
	})
	if err != nil {
		return nil, nil, err
	}
	for i, row := range rows {
		if row.AppID == request.AppID && string(row.ClaimID) == request.ClaimID && !row.DeletedAt.Valid {
			held = &rows[i]
		}
		if string(row.Code) == code.PreAuthCode.Reveal() {
			saved = &rows[i]
		}
	}
	return held, saved, nil
}

// AddSpares saves codes for claims. A code that is in the table already stays as it is, whatever it is
// used for, so the same spares may be added again.
func (r *Repo) AddSpares(ctx context.Context, spares []Spare) error {
	rows := make([]spareRow, len(spares))
	for i, s := range spares {
		if err := s.check(); err != nil {
			return err
		}
		code := s.Code.stored()
		rows[i] = spareRow{
			AppID: s.AppID, Code: []byte(code.PreAuthCode.Reveal()), Cause: causeSpare, Fingerprint: s.Fingerprint[:],
			IssuedAt: code.IssuedAt, ExpiresAt: code.ExpiresAt,
		}
	}
	for piece := range slices.Chunk(rows, MaxBatch) {
		err := do(ctx, "add spares", func() error {
			_, err := r.db.NamedExecContext(ctx, `/* repo.add_spares */ INSERT INTO pre_auth_code (appid, code, cause, token_fingerprint, issued_at, expires_at)
VALUES (:appid, :code, :cause, :token_fingerprint, :issued_at, :expires_at) ON DUPLICATE KEY UPDATE code = VALUES(code)`, piece)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

type spareRow struct {
	AppID       string    `db:"appid"`
	Code        []byte    `db:"code"`
	Cause       string    `db:"cause"`
	Fingerprint []byte    `db:"token_fingerprint"`
	IssuedAt    time.Time `db:"issued_at"`
	ExpiresAt   time.Time `db:"expires_at"`
}

// CountSpares returns how many spares of the named components live longer than until the given time. A
// component without any is not in the map.
func (r *Repo) CountSpares(ctx context.Context, appids []string, aliveAt time.Time) (map[string]int, error) {
	spares := make(map[string]int, len(appids))
	for piece := range slices.Chunk(appids, maxIn) {
		var rows []struct {
			AppID  string `db:"appid"`
			Spares int    `db:"spares"`
		}
		err := do(ctx, "spares", func() error {
			return selectIn(ctx, r.db, &rows, "/* repo.spares */ SELECT appid, COUNT(*) AS spares FROM pre_auth_code FORCE INDEX (spare) "+
				"WHERE appid IN (?) AND cause = ? AND expires_at > ? GROUP BY appid", piece, causeSpare, stored(aliveAt))
		})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			spares[row.AppID] = row.Spares
		}
	}
	return spares, nil
}

// Resolve returns the claim that a code was given to, also after the code expired or was replaced, and
// until it is purged. The error may be [ErrNotClaimed].
func (r *Repo) Resolve(ctx context.Context, code preauth.Secret) (Claim, error) {
	var rows []claimRow
	err := do(ctx, "resolve", func() error {
		return selectIn(ctx, r.db, &rows, "/* repo.resolve */ "+selectClaims+"WHERE code = ? AND cause = ?", []byte(code.Reveal()), causeClaim)
	})
	switch {
	case err != nil:
		return Claim{}, err
	case len(rows) == 0:
		return Claim{}, fmt.Errorf("repo: resolve: %w", ErrNotClaimed)
	}
	return rows[0].claim(), nil
}

// errDuplicate means that a unique key has the value already.
var errDuplicate = errors.New("a unique key has it already")

// exec runs a statement that is its own transaction, and returns how many rows it inserted or matched.
func (r *Repo) exec(ctx context.Context, operation, statement string, args ...any) (rows int64, err error) {
	err = do(ctx, operation, func() error {
		result, err := r.db.ExecContext(ctx, statement, args...)
		if isServerError(err, duplicateEntry) {
			return errDuplicate
		}
		if err != nil {
			return err
		}
		rows, err = result.RowsAffected()
		return err
	})
	return rows, err
}

// The room that the schema has, in bytes.
const (
	maxClaimID   = 512
	maxReference = 1024
)

// check returns what makes the request impossible.
func (r ClaimRequest) check() error {
	var problem string
	switch {
	case preauth.CheckAppID(r.AppID) != nil:
		problem = "AppID cannot be a component_appid"
	case r.ClaimID == "" || len(r.ClaimID) > maxClaimID:
		problem = fmt.Sprintf("ClaimID must have 1 to %d bytes", maxClaimID)
	case len(r.Reference) > maxReference:
		problem = fmt.Sprintf("Reference must have at most %d bytes", maxReference)
	case r.MinTTL < 0 || r.SpareTTL < 0:
		problem = "MinTTL or SpareTTL is negative"
	case !isStorable(r.At) || !isStorable(r.At.Add(max(r.MinTTL, r.SpareTTL))):
		problem = "At is missing or beyond the years 1000 to 9999, or MinTTL or SpareTTL leads there"
	default:
		return nil
	}
	return errors.New("repo: impossible claim: " + problem)
}

// check returns what makes the spare impossible.
func (s Spare) check() error {
	problem := s.Code.problem()
	if preauth.CheckAppID(s.AppID) != nil {
		problem = "AppID cannot be a component_appid"
	}
	if problem != "" {
		return errors.New("repo: impossible spare: " + problem)
	}
	return nil
}
