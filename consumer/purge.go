package consumer

import (
	"context"
	"time"
)

// purgeEvery is how often expired codes are looked for that are to be deleted. Tests look more often.
var purgeEvery = 10 * time.Minute

// purgeBatch bounds the rows that one statement deletes.
const purgeBatch = 500

// purge deletes codes that expired longer ago than they are to be kept, until ctx ends. Any number of
// replicas may do so.
func (s *Service) purge(ctx context.Context) {
	for pause(ctx, jittered(purgeEvery)) {
		for deleted := purgeBatch; deleted == purgeBatch && ctx.Err() == nil; {
			var err error
			deleted, err = s.db.Purge(ctx, s.cfg.Now().Add(-s.cfg.Retention), purgeBatch)
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("expired codes not purged", "error", err)
				}
				break
			}
			s.metrics.purged.Add(float64(deleted))
		}
	}
}
