package consumer

import (
	"time"

	"preauth"
	"preauth/internal/view"
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
