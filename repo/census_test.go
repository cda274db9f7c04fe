package repo_test

import (
	"testing"
	"time"

	"preauth/repo"
)

func TestCensus(t *testing.T) {
	d := newDatabase(t)
	census := func(at time.Time) repo.Census {
		t.Helper()
		c, err := d.Census(within(t), at)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if got := census(start); got != (repo.Census{}) {
		t.Errorf("an empty database: %+v", got)
	}
	// Given codes that live for half an hour, made a second after their events,
	d.save(t, succeeded("wx1", at(1), "a"), succeeded("wx2", at(2), "b"), failed("wx3", at(3), 1))
	expired := failed("wx4", at(4), 1)
	expired.Token.ExpiresAt = start.Add(time.Minute)
	d.save(t, expired)
	if err := d.AddSpares(within(t), []repo.Spare{spare("s1", start), spare("s2", start.Add(time.Hour))}); err != nil {
		t.Fatal(err)
	}
	first, second := start.Add(2*time.Second), start.Add(3*time.Second) // when they were made
	const life = 30 * time.Minute
	token1 := token(at(1)).ExpiresAt
	for name, test := range map[string]struct {
		at   time.Time
		want repo.Census
	}{
		"at first": {start.Add(5 * time.Second), repo.Census{
			Valid: 2, Failing: 2, Overdue: 2, Spares: 2, CodeExpiresAt: first.Add(life), TokenExpiresAt: start.Add(time.Minute),
		}},
		"a token has expired": {start.Add(time.Minute), repo.Census{
			Valid: 2, Failing: 1, NoToken: 1, Overdue: 1, Spares: 2, CodeExpiresAt: first.Add(life), TokenExpiresAt: token1,
		}},
		"a quarter of a life is left": {first.Add(life * 3 / 4), repo.Census{
			Valid: 2, Failing: 1, NoToken: 1, Overdue: 1, Spares: 2, CodeExpiresAt: first.Add(life), TokenExpiresAt: token1,
		}},
		"less is left": {first.Add(life*3/4 + time.Microsecond), repo.Census{
			Valid: 1, Expiring: 1, Failing: 1, NoToken: 1, Overdue: 1, Spares: 2, CodeExpiresAt: first.Add(life), TokenExpiresAt: token1,
		}},
		"a sixth of a life is left": {first.Add(life * 5 / 6), repo.Census{
			Expiring: 2, Failing: 1, NoToken: 1, Overdue: 1, Spares: 2, CodeExpiresAt: first.Add(life), TokenExpiresAt: token1,
		}},
		"less than a sixth is left": {first.Add(life*5/6 + time.Microsecond), repo.Census{
			Expiring: 2, Failing: 1, NoToken: 1, Overdue: 2, Spares: 2, CodeExpiresAt: first.Add(life), TokenExpiresAt: token1,
		}},
		"a spare is about to expire": {start.Add(life - time.Nanosecond), repo.Census{
			Expiring: 2, Failing: 1, NoToken: 1, Overdue: 3, Spares: 2, CodeExpiresAt: first.Add(life), TokenExpiresAt: token1,
		}},
		"a spare has expired": {start.Add(life), repo.Census{
			Expiring: 2, Failing: 1, NoToken: 1, Overdue: 3, Spares: 1, CodeExpiresAt: first.Add(life), TokenExpiresAt: token1,
		}},
		"a code has expired": {first.Add(life), repo.Census{
			Expiring: 2, Failing: 1, NoToken: 1, Overdue: 3, Spares: 1, CodeExpiresAt: second.Add(life), TokenExpiresAt: token1,
		}},
		"all tokens have expired": {start.Add(48 * time.Hour), repo.Census{NoToken: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := census(test.at); got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}
