package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"preauth"
	"preauth/internal/database"
)

var (
	// ErrNoSpare means that no spare lives long enough: get a code and call [Repo.InsertClaim].
	ErrNoSpare = errors.New("no spare code is left")
	// ErrReference means that the claim id was used with another reference. It stays so until that
	// claim is purged.
	ErrReference = errors.New("the claim id was used with another reference")
	// ErrNotClaimed means that the code was neither given to a claim nor announced, or that it was
	// purged.
	ErrNotClaimed = errors.New("no claim was given this code, and it was not announced")
	// ErrKnownCode means that WeChat's reply has a code that it gave before and that is in use: as a
	// current or former code, by a claim, or by another component. The reply is no good: ask for
	// another code.
	ErrKnownCode = errors.New("WeChat gave a code that it gave before")
)

// ClaimRequest asks for a code that nobody else ever gets.
type ClaimRequest struct {
	// AppID is the component_appid.
	AppID string
	// ClaimID is 1 to 512 bytes, compared byte for byte. A component gives the same code to the same
	// claim id.
	ClaimID string
	// Reference is up to 1024 bytes. It has to be the same each time.
	Reference string
	// At is the service's clock.
	At time.Time
	// MinTTL is the life that the code has to exceed, from At.
	MinTTL time.Duration
	// SpareTTL is the life that a spare has to exceed, if it is more than MinTTL. It does not apply to
	// the code that the claim id already has.
	SpareTTL time.Duration
}

// Claim is a code that was given to a claim.
type Claim struct {
	AppID, ClaimID, Reference string
	Code
	// ClaimedAt is when the claim id first got the code, in UTC.
	ClaimedAt time.Time
}

// NewCode is a code with the fingerprint of the token that it was made with.
type NewCode struct {
	Code
	Fingerprint Fingerprint
}

// Spare is a code made ahead of claims. It must not have been announced or given to anybody.
type Spare struct {
	// AppID is the component_appid.
	AppID string
	Code
	// Fingerprint is that of the token that the code was made with.
	Fingerprint Fingerprint
}

// The causes of codes that are never announced, as they are stored.
const (
	causeSpare = "spare"
	causeClaim = "claim"
	// causeUsed is that of a spare that somebody authorized with, although no claim was given it as far
	// as the database knows: it may have been restored from a backup.
	causeUsed = "used"
)

// Claim returns the code of a claim id: the one that it has, if that is not spent and outlives
// MinTTL, otherwise the oldest spare that outlives MinTTL and SpareTTL, which becomes its own. The
// error may be [ErrNoSpare] or [ErrReference]. After [ErrUnavailable] repeat the same request: it
// returns the code that the claim id may have got before the answer was lost.
func (r *Repo) Claim(ctx context.Context, request ClaimRequest) (Claim, error) {
	if err := request.check(); err != nil {
		return Claim{}, err
	}
	request.At = stored(request.At)
	for range maxRaces {
		takeErr := r.takeSpare(ctx, request)
		if takeErr != nil && !errors.Is(takeErr, database.ErrDuplicate) && !errors.Is(takeErr, ErrNoSpare) {
			return Claim{}, takeErr
		}
		live, err := r.liveClaim(ctx, request)
		if err != nil {
			return Claim{}, err
		}
		if claim, ok, err := request.serve(live); err != nil || ok {
			return claim, err
		}
		if errors.Is(takeErr, ErrNoSpare) {
			return Claim{}, takeErr
		}
		// The code is spent or too old, and the spare has to wait for its place.
		if live != nil {
			if err := r.retireClaim(ctx, live.ID, request.At); err != nil {
				return Claim{}, err
			}
		}
	}
	return Claim{}, fmt.Errorf("repo: claim: %w: %w", ErrUnavailable, errRaces)
}

// maxRaces bounds the races that a claim loses before it is ErrUnavailable. Another claim wins each
// race that is lost, so a claim loses more than a few only in a huge crowd, or through a bug.
const maxRaces = 100

var errRaces = errors.New("other claims were quicker again and again")

// takeSpare gives the oldest spare to the claim id. The error may be [ErrNoSpare], or
// [database.ErrDuplicate] if the claim id has a code, perhaps from a try whose answer was lost.
func (r *Repo) takeSpare(ctx context.Context, request ClaimRequest) error {
	rows, err := r.db.Exec(ctx, "repo: claim", `/* repo.claim */ UPDATE pre_auth_code FORCE INDEX (spare) SET cause = ?, claim_id = ?, reference = ?, claimed_at = ?
WHERE appid = ? AND cause = ? AND expires_at > ? ORDER BY expires_at LIMIT 1`,
		causeClaim, []byte(request.ClaimID), []byte(request.Reference), request.At,
		request.AppID, causeSpare, request.At.Add(max(request.MinTTL, request.SpareTTL)))
	if err == nil && rows == 0 {
		return fmt.Errorf("repo: claim: %w", ErrNoSpare)
	}
	return err
}

// liveClaim returns the code that the claim id has, nil if it has none.
func (r *Repo) liveClaim(ctx context.Context, request ClaimRequest) (*codeRow, error) {
	return first(database.Query[codeRow](ctx, r.db, "repo: claim",
		"/* repo.live_claim */ "+selectCodes+"FORCE INDEX (live_claim) WHERE appid = ? AND live_claim = ?"+onPrimary, request.AppID, []byte(request.ClaimID)))
}

func first[Row any](rows []Row, err error) (*Row, error) {
	if len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// serve returns the claim of the live code, and false if there is none that lives long enough.
func (r ClaimRequest) serve(live *codeRow) (Claim, bool, error) {
	switch {
	case live == nil:
		return Claim{}, false, nil
	case live.Reference.V != r.Reference:
		return Claim{}, false, fmt.Errorf("repo: claim: %w", ErrReference)
	case !r.accepts(live):
		return Claim{}, false, nil
	}
	return live.claim(), true, nil
}

// accepts reports whether the code of the claim id still serves the request.
func (r ClaimRequest) accepts(live *codeRow) bool {
	return !live.AuthorizedAt.Valid && r.outlives(live.ExpiresAt.V)
}

// outlives reports whether a code that expires then lives long enough for the request.
func (r ClaimRequest) outlives(expiresAt time.Time) bool { return expiresAt.After(r.At.Add(r.MinTTL)) }

// retireClaim takes its code from a claim id, to make room for another one. Nobody else gets the
// old one.
func (r *Repo) retireClaim(ctx context.Context, id uint64, at time.Time) error {
	_, err := r.db.Exec(ctx, "repo: claim", "/* repo.retire_claim */ UPDATE pre_auth_code SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL", at, id)
	return err
}

// claim returns the claim that the request makes of a code.
func (r ClaimRequest) claim(code Code) Claim {
	return Claim{AppID: r.AppID, ClaimID: r.ClaimID, Reference: r.Reference, Code: code, ClaimedAt: r.At}
}

// InsertClaim gives a new code to a request for which [Repo.Claim] had none. If the claim id has
// got another code meanwhile, that one is returned and the new code becomes a spare; it does so too
// if the error is [ErrReference]. The error is [ErrKnownCode] if the code was saved before and is
// not free.
func (r *Repo) InsertClaim(ctx context.Context, request ClaimRequest, code NewCode) (Claim, error) {
	if err := request.check(); err != nil {
		return Claim{}, err
	}
	if problem := code.problem(); problem != "" {
		return Claim{}, errors.New("repo: impossible claim: " + problem)
	}
	request.At, code.Code = stored(request.At), code.Code.stored()
	for range maxRaces {
		_, err := r.db.Exec(ctx, "repo: insert claim", `/* repo.claim_new */ INSERT INTO pre_auth_code
(appid, code, cause, token_fingerprint, issued_at, expires_at, claim_id, reference, claimed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			request.AppID, []byte(code.PreAuthCode.Reveal()), causeClaim, code.Fingerprint[:], code.IssuedAt, code.ExpiresAt,
			[]byte(request.ClaimID), []byte(request.Reference), request.At)
		if err == nil {
			return request.claim(code.Code), nil
		}
		if !errors.Is(err, database.ErrDuplicate) {
			return Claim{}, err
		}
		live, saved, err := r.conflicts(ctx, request, code)
		keep := func() error {
			return r.AddSpares(ctx, []Spare{{AppID: request.AppID, Code: code.Code, Fingerprint: code.Fingerprint}})
		}
		switch {
		case err != nil:
			return Claim{}, err
		case live != nil && live.Reference.V != request.Reference:
			return Claim{}, cmp.Or(keep(), fmt.Errorf("repo: insert claim: %w", ErrReference))
		case live != nil && saved != nil && live.ID == saved.ID && !live.AuthorizedAt.Valid:
			return live.claim(), nil // an earlier try saved it, and its answer was lost
		case live != nil && request.accepts(live):
			if err := keep(); err != nil {
				return Claim{}, err
			}
			return live.claim(), nil
		case saved != nil && (saved.AppID != request.AppID || saved.Cause != causeSpare && saved.Cause != causeClaim):
			return Claim{}, fmt.Errorf("repo: insert claim: %w", ErrKnownCode)
		case saved != nil: // perhaps an earlier call saved it as a spare: that one, or any other, will do
			claim, err := r.Claim(ctx, request)
			if errors.Is(err, ErrNoSpare) {
				err = fmt.Errorf("repo: insert claim: %w", ErrKnownCode)
			}
			return claim, err
		case live != nil:
			if err := r.retireClaim(ctx, live.ID, request.At); err != nil {
				return Claim{}, err
			}
		}
	}
	return Claim{}, fmt.Errorf("repo: insert claim: %w: %w", ErrUnavailable, errRaces)
}

// conflicts returns what keeps a new code from being inserted: the live code of the claim id, and
// the row that already has the new code. Each may be nil.
func (r *Repo) conflicts(ctx context.Context, request ClaimRequest, code NewCode) (live, saved *codeRow, err error) {
	if live, err = r.liveClaim(ctx, request); err != nil {
		return nil, nil, err
	}
	saved, err = first(database.Query[codeRow](ctx, r.db, "repo: insert claim",
		"/* repo.saved_code */ "+selectCodes+"FORCE INDEX (code) WHERE code = ?"+onPrimary, []byte(code.PreAuthCode.Reveal())))
	return live, saved, err
}

// AddSpares saves codes for claims. A code that is in the table already stays as it is, whatever it
// is used for, so the same spares may be added again.
func (r *Repo) AddSpares(ctx context.Context, spares []Spare) error {
	rows := make([]codeRow, len(spares))
	for i, s := range spares {
		if err := s.check(); err != nil {
			return err
		}
		rows[i] = rowOf(s.AppID, s.Code.stored(), causeSpare, s.Fingerprint)
	}
	for batch := range slices.Chunk(rows, MaxBatch) {
		err := database.Split(batch, func(piece []codeRow) error {
			return r.db.Insert(ctx, "repo: add spares", `/* repo.add_spares */ INSERT INTO pre_auth_code
(appid, code, cause, token_fingerprint, issued_at, expires_at)
VALUES (:appid, :code, :cause, :token_fingerprint, :issued_at, :expires_at) ON DUPLICATE KEY UPDATE code = VALUES(code)`, piece)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// CountSpares returns how many spares each of the components has that expire after aliveAt. A
// component without any is not in the map.
func (r *Repo) CountSpares(ctx context.Context, appids []string, aliveAt time.Time) (map[string]int, error) {
	spares := make(map[string]int, len(appids))
	for piece := range slices.Chunk(appids, database.MaxIn) {
		type row struct {
			AppID  string `db:"appid"`
			Spares int    `db:"spares"`
		}
		rows, err := database.Query[row](ctx, r.db, "repo: count spares", "/* repo.spares */ SELECT appid, COUNT(*) AS spares FROM pre_auth_code FORCE INDEX (spare) "+
			"WHERE appid IN (?) AND cause = ? AND expires_at > ? GROUP BY appid", piece, causeSpare, stored(aliveAt))
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			spares[row.AppID] = row.Spares
		}
	}
	return spares, nil
}

// Resolve returns what a code was used for: the claim that it was given to, or its announcements. It
// does so after the code expired or was replaced too, until it is purged. The error may be
// [ErrNotClaimed].
func (r *Repo) Resolve(ctx context.Context, code preauth.Secret) (preauth.Resolved, error) {
	row, err := first(database.Query[codeRow](ctx, r.db, "repo: resolve", "/* repo.resolve */ "+selectCodes+
		"FORCE INDEX (code) WHERE code = ? AND (cause = ? OR revision IS NOT NULL)"+onPrimary, []byte(code.Reveal()), causeClaim))
	switch {
	case err != nil:
		return preauth.Resolved{}, err
	case row == nil:
		return preauth.Resolved{}, fmt.Errorf("repo: resolve: %w", ErrNotClaimed)
	}
	return preauth.Resolved{
		AppID: row.AppID, ClaimID: row.ClaimID.V, Reference: row.Reference.V, ClaimedAt: row.ClaimedAt.V, Revision: row.Revision.V,
		IssuedAt: row.IssuedAt.V, ExpiresAt: row.ExpiresAt.V, AuthorizerAppID: row.AuthorizerAppID.V, AuthorizedAt: row.AuthorizedAt.V,
	}, nil
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
