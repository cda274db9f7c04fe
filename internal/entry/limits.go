package entry

import (
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// limits bound what visitors cost the service. Only links with a good signature are counted.
type limits struct {
	visits, questions *rate.Limiter // of all visitors together
	// links limit single links. A hash of the link selects the limiter, so that more links take no more
	// room. Few of the links that are open at once share one.
	links [1024]*rate.Limiter
	seed  maphash.Seed
}

// newLimits returns the limits: so many requests a second for all visitors together, and a tenth of
// that for a single link. One visitor needs much less, even with a computer and a phone.
func newLimits(perSecond int) *limits {
	l := &limits{
		visits: rate.NewLimiter(rate.Limit(perSecond), perSecond), questions: rate.NewLimiter(rate.Limit(perSecond), perSecond), seed: maphash.MakeSeed(),
	}
	for i := range l.links {
		l.links[i] = rate.NewLimiter(rate.Limit(max(perSecond/10, 1)), max(perSecond/10, 10))
	}
	return l
}

// allow counts a request for the page of a link. Open pages that ask do not keep out those who come.
func (l *limits) allow(method, path string) bool {
	all := l.visits
	if method == http.MethodPost {
		all = l.questions
	}
	// In this order, one link that is opened again and again leaves the rest to the others.
	return l.links[maphash.String(l.seed, path)%uint64(len(l.links))].Allow() && all.Allow()
}

// busy is what the page says beyond the limits. Not all that wait come back at once.
func busy() answer {
	return answer{status: http.StatusTooManyRequests, Kind: "busy", Left: soon + rand.N(soon).Truncate(time.Second)}
}
