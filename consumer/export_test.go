package consumer

import (
	"time"

	"preauth"
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

// SparesStop reports whether the service begins no more spares because it is shutting down.
func SparesStop(s *Service) bool { return s.spares.stopping() }
