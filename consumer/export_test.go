package consumer

import (
	"context"
	"time"

	"preauth"
	"preauth/repo"
)

// PollDue changes how often MySQL is asked for due components, for all services started afterwards.
func PollDue(every time.Duration) { duePoll = every }

// ExtendLeases changes how often the leases of components that are worked on are extended, for all services started
// afterwards.
func ExtendLeases(every time.Duration) { extendEvery = every }

// LookUpsInMemory returns what answers look-ups in a replica that knows the given code, nil where memory
// does not serve. An answer is valid until the next.
func LookUpsInMemory(code preauth.Update) func(subject string, body []byte) []byte {
	s := &Service{cfg: Config{}.withDefaults()}
	s.codes = newCodeView(s)
	s.codes.add(standing{Update: code})
	r := newResponder(s)
	var answer []byte
	return func(subject string, body []byte) []byte {
		request, err := preauth.ParseLookupRequest(preauth.AppIDFromSubject(s.cfg.Subjects.Lookup, subject), body)
		if err != nil || !r.fromMemory(&answer, request) {
			return nil
		}
		return answer
	}
}

// PurgeEvery changes how often codes to be deleted are looked for, for all services started afterwards.
func PurgeEvery(every time.Duration) { purgeEvery = every }

// OvertakenInMemory reports whether a replica that has read a token at the positions, one after the other, takes
// the event at the last of them for overtaken.
func OvertakenInMemory(token preauth.TokenEvent, now time.Time, positions ...repo.Position) bool {
	v := newTokenView()
	for _, position := range positions {
		v.add(token, position, now)
	}
	return v.overtaken(token.AppID, positions[len(positions)-1])
}

// SaysSomethingNew reports whether a failure is announced after another one of the same component.
var SaysSomethingNew = saysSomethingNew

// KnowsToken reports whether a component's token is the newest in the service's memory.
func KnowsToken(s *Service, appid string, token preauth.Secret) bool {
	known, ok := s.tokens.view.token(appid, s.cfg.Now())
	return ok && known.Token.Equal(token)
}

// KeeperStops reports whether the service makes no more codes of its own accord, as it is to stop.
func KeeperStops(s *Service) bool { return s.keeper.stopping() }

// SpentInVain returns how many of a component's calls are gone after one that was made and n that the rate of all calls
// did not let through.
func SpentInVain(n int) float64 {
	l := newLimits(1, 1000)
	before := l.budget("wx1").Tokens()
	for range 1 + n {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		_ = l.wait(ctx, "wx1", priorityClaim)
		cancel()
	}
	return before - l.budget("wx1").Tokens()
}

// TimersForSpares returns how many timers are set for spares of one component that are to be tried for again
// after each of the waits, of which none is over meanwhile.
func TimersForSpares(waits ...time.Duration) int {
	s := &Service{cfg: Config{}.withDefaults()}
	k := newKeeper(s, nil, nil, nil)
	k.stopped = true
	now, set := s.cfg.Now(), 0
	for _, wait := range waits {
		if k.topUpAt("wx1", now.Add(wait)) {
			set++
		}
	}
	return set
}

// ReadingTokens returns what notes that a replica has read its tokens up to a sequence, and what waits for it.
func ReadingTokens() (read, await func(sequence uint64)) {
	v := newTokenView()
	return v.read, func(sequence uint64) { v.await(context.Background(), sequence) }
}

// CertainlyNew reports whether an event is certainly new to a replica that has learnt what is given of the codes: its
// own with their tokens, those of the stream without, what MySQL holds; and nil for a failure of its own.
func CertainlyNew(event repo.Token, learnt ...*Learnt) bool {
	v := newCodeView(&Service{})
	for _, l := range learnt {
		switch {
		case l == nil:
			v.forgetToken("wx1")
		case l.FromMySQL:
			v.correct(l.Standing)
		default:
			v.add(l.Standing)
		}
	}
	return v.certainlyNew("wx1", event)
}

// Learnt is a code of the component wx1.
type Learnt struct {
	Standing
	FromMySQL bool
}

// Standing is what a replica may know of a code.
type Standing = standing
