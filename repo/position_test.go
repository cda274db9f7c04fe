package repo_test

import (
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/repo"
)

func TestPositionAfter(t *testing.T) {
	position := func(stream string, created time.Time, sequence uint64, taken time.Time) repo.Position {
		return repo.Position{Stream: stream, StreamCreated: created, Sequence: sequence, Time: taken}
	}
	later := start.Add(time.Second)
	recreated := position("S", later, 1, later.Add(time.Minute))
	tests := map[string]struct{ newer, older repo.Position }{
		"the sequence decides in one stream":          {position("S", start, 10, start), position("S", start, 9, start)},
		"even against the clock":                      {position("S", start, 2, start), position("S", start, 1, later)},
		"a sequence given twice is the later event's": {position("S", start, 1, start.Add(time.Microsecond)), position("S", start, 1, start)},
		"the time decides between two streams":        {recreated, position("S", start, 700, start)},
		"even if the newer event is the old stream's": {position("S", start, 1, later.Add(time.Hour)), recreated},
		"a stream of another name is another stream":  {position("A", start, 1, later), position("B", start, 2, start)},
		"one microsecond is enough":                   {position("A", start, 1, start.Add(time.Microsecond)), position("B", start, 2, start)},
		"two streams at one time have some order":     {position("A", later, 1, start), position("B", start, 1, start)},
		"two streams created at one time too":         {position("B", start, 1, start), position("A", start, 1, start)},
		"any event is newer than none":                {position("S", start, 0, start), repo.Position{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if !test.newer.After(test.older) || test.older.After(test.newer) {
				t.Errorf("want %+v after %+v, and not the other way round", test.newer, test.older)
			}
		})
	}
	t.Run("a sequence that a stream gives again after it lost messages", func(t *testing.T) {
		taken := position("S", start, 9, start)
		if !position("S", start, 2, start.Add(time.Minute+time.Microsecond)).After(taken) || position("S", start, 2, start.Add(time.Minute)).After(taken) {
			t.Error("it has to be more than a minute later to be newer, and no more than that")
		}
	})
	t.Run("if sequence and time contradict each other, each is after the other", func(t *testing.T) {
		one, other := position("S", start, 9, start), position("S", start, 2, start.Add(2*time.Minute))
		if !one.After(other) || !other.After(one) {
			t.Error("a rolled-back stream and a clock that was set back look the same")
		}
	})
	t.Run("none is after itself as the database gives it back", func(t *testing.T) {
		given := position("S", start.Add(789), 1, start.Add(987).In(time.FixedZone("UTC+8", 8*60*60)))
		back := position("S", start, 1, start)
		if given.After(back) || back.After(given) || given.After(given) {
			t.Error("one of them is")
		}
	})
}

func TestFingerprintOf(t *testing.T) {
	one, other := repo.FingerprintOf(preauth.NewSecret("token")), repo.FingerprintOf(preauth.NewSecret("Token"))
	if one == other || one != repo.FingerprintOf(preauth.NewSecret(strings.Clone("token"))) || one == (repo.Fingerprint{}) {
		t.Error("it does not tell tokens apart")
	}
}
