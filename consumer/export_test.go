package consumer

import (
	"context"
	"time"

	"preauth"
	"preauth/internal/view"
	"preauth/repo"
)

// ShortenIntervals sets how often a service looks for due components, extends leases, purges codes
// and counts the components.
func ShortenIntervals(cfg *Config, due, extend, purge, census time.Duration) {
	cfg.intervals.due, cfg.intervals.extend, cfg.intervals.purge, cfg.intervals.census = due, extend, purge, census
}

// ShortenRefusals sets how long NATS's refusal of a message or subscription counts.
func ShortenRefusals(cfg *Config, refusal time.Duration) { cfg.intervals.refusal = refusal }

// KnowsToken reports whether token is the newest one of the component in the service's memory.
func KnowsToken(s *Service, appid string, token preauth.Secret) bool {
	known, ok := s.tokens.tokens.Newest(appid, s.cfg.Now())
	return ok && known.Token.Equal(token)
}

// DelayTokensOfSpares keeps the spares of a service that does not run yet from knowing any token,
// until read is called for a component.
func DelayTokensOfSpares(s *Service) (read func(appid string)) {
	tokens, late := s.spares.tokens, view.NewTokens()
	late.MarkCaughtUp()
	s.spares.tokens = late
	return func(appid string) {
		token, _ := tokens.Newest(appid, s.cfg.Now())
		late.Add(token.TokenEvent, token.Position, s.cfg.Now())
	}
}

// SparesStop reports whether the service begins no more spares because it is shutting down.
func SparesStop(s *Service) bool { return s.spares.stopping() }

// KnowsRevision reports whether the component's code in the service's memory has the revision.
func KnowsRevision(s *Service, appid string, revision uint64) bool {
	known := s.updates.codes.Current(appid)
	return known != nil && known.Revision == revision
}

// LeaseDue has a service begin to renew due components, once, and reports whether there may be more.
func LeaseDue(ctx context.Context, s *Service) bool { return s.renewer.leaseDue(ctx, ctx) }

// Renewable returns how many more due components the service could begin to renew.
func Renewable(s *Service) int { return len(s.renewer.slots) }

// AwaitRenewals waits for the renewals of due components that were begun.
func AwaitRenewals(s *Service) { s.renewer.renewing.Wait() }

// RenewNow has a service make the code that follows a revision. The channel is closed at the end.
func RenewNow(ctx context.Context, s *Service, appid string, revision uint64) <-chan struct{} {
	return s.renewer.renewNow(ctx, appid, revision)
}

// HoldLease has a service renew the lease of a component until release is called.
func HoldLease(ctx context.Context, s *Service, component repo.Component) (lost func() bool, release func()) {
	return s.renewer.holdLease(ctx, component)
}

// LookAtOwner has a service that does not run ask the database whom it belongs to, once.
func LookAtOwner(ctx context.Context, s *Service) { s.owner.look(ctx) }

// Owner returns nil if the database is the service's, and what is closed when that changes.
func Owner(s *Service) (changed <-chan struct{}, err error) { return s.owner.state() }

// WhileOwned has work done while the database is the service's, until ctx ends.
func WhileOwned(ctx context.Context, s *Service, work func(context.Context)) { s.owner.hold(ctx, work) }

// LookAtMySQL has a service that does not run look at MySQL, once.
func LookAtMySQL(ctx context.Context, s *Service) { s.watches[1](ctx) }
