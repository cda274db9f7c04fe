package consumer

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"preauth"
	"preauth/internal/pause"
	"preauth/repo"
	"preauth/wechat"
)

// claims answers with a code of the requester's own, and with the claim that a code was given to.
type claims struct {
	subject    string
	components components
	db         *repo.Repo
	spares     *spares
	now        func() time.Time
}

// handler returns what handles claims.
func (c *claims) handler() handler {
	return func(subject string, data []byte) ([]byte, work, error) {
		request, err := preauth.ParseClaimRequest(preauth.AppIDFromSubject(c.subject, subject), data)
		if err != nil {
			return nil, nil, err
		}
		if request.ClaimID == "" {
			request.ClaimID = rand.Text()
		}
		return nil, func(ctx, _ context.Context) (int, []byte, error) { return c.claim(ctx, request) }, nil
	}
}

// claim gives a code: the one that the claim id has, a spare (200), or a new one (201).
func (c *claims) claim(ctx context.Context, request preauth.ClaimRequest) (code int, body []byte, err error) {
	code = 200
	claimed, err := c.db.Claim(ctx, c.claimOf(request))
	for err == nil && claimed.ExpiresAt.Sub(c.now()) <= request.MinTTL {
		claimed, err = c.db.Claim(ctx, c.claimOf(request)) // it died while MySQL took its time
	}
	if errors.Is(err, repo.ErrNoSpare) {
		code = 201
		claimed, err = c.claimNew(ctx, request)
		if err == nil && !claimed.ExpiresAt.After(c.now()) {
			err = errDied // not another call at once: WeChat may give nothing but such codes now
		}
	}
	if err != nil {
		return 0, nil, err
	}
	c.spares.topUp(request.AppID)
	return code, preauth.Claim{
		AppID: claimed.AppID, PreAuthCode: claimed.PreAuthCode, IssuedAt: claimed.IssuedAt, ExpiresAt: claimed.ExpiresAt,
		ExpiresIn: claimed.ExpiresAt.Sub(c.now()), ClaimID: claimed.ClaimID, Reference: claimed.Reference,
		ClaimedAt: claimed.ClaimedAt, Links: wechat.AuthorizationLinks(claimed.AppID, claimed.PreAuthCode, request.LinkOptions),
	}.Encode(), nil
}

func (c *claims) claimOf(request preauth.ClaimRequest) repo.ClaimRequest {
	return repo.ClaimRequest{
		AppID: request.AppID, ClaimID: request.ClaimID, Reference: request.Reference, At: c.now(),
		MinTTL: request.MinTTL, SpareTTL: c.spares.minTTL(request.AppID),
	}
}

// claimNew makes a code for a claim that found no spare.
func (c *claims) claimNew(ctx context.Context, request preauth.ClaimRequest) (repo.Claim, error) {
	component, err := c.components.get(ctx, request.AppID)
	if err != nil {
		return repo.Claim{}, err
	}
	if current := component.Current; current != nil {
		if err := checkMinTTL(request.MinTTL, current); err != nil {
			return repo.Claim{}, err
		}
	}
	if f := component.Failure; f != nil && !retriesWithin(ctx, f, c.now()) {
		return repo.Claim{}, unavailable{*f}
	}
	issued, err := c.spares.issueUnannounced(ctx, request.AppID, priorityClaim)
	for errors.Is(err, errUnread) && pause.For(ctx, lookAgain) {
		issued, err = c.spares.issueUnannounced(ctx, request.AppID, priorityClaim)
	}
	if err != nil {
		return repo.Claim{}, claimError(err)
	}
	return c.db.InsertClaim(ctx, c.claimOf(request), repo.NewCode{Code: *issued.Code, Fingerprint: issued.Token.Fingerprint})
}

// claimError returns the reason why no code was issued, errWeChatSlow where the time was over.
func claimError(err error) error {
	_, failed := errors.AsType[*issueError](err)
	if failed || isOfQuota(err) || errors.Is(err, errNoToken) || errors.Is(err, errUnread) {
		return err
	}
	return errWeChatSlow
}

// resolveHandler returns what handles requests for what a code was used for.
func (c *claims) resolveHandler() handler {
	return func(_ string, data []byte) ([]byte, work, error) {
		request, err := preauth.ParseResolveRequest(data)
		if err != nil {
			return nil, nil, err
		}
		return nil, func(ctx, _ context.Context) (int, []byte, error) {
			resolved, err := c.db.Resolve(ctx, request.PreAuthCode)
			if err != nil {
				return 0, nil, err
			}
			return 200, resolved.Encode(), nil
		}, nil
	}
}
