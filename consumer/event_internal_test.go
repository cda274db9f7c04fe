package consumer

import (
	"testing"
	"time"

	"preauth"
	"preauth/repo"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	created := now.Add(-24 * time.Hour)
	at := func(sequence uint64, ago time.Duration) repo.Position {
		return repo.Position{Stream: "COMPONENT_TOKENS", StreamCreated: created, Sequence: sequence, Time: now.Add(-ago)}
	}
	a, b := repo.FingerprintOf(preauth.NewSecret("a")), repo.FingerprintOf(preauth.NewSecret("b"))
	event := repo.Token{Position: at(10, time.Second), Fingerprint: a, ExpiresAt: now.Add(time.Hour)}
	dead := event
	dead.ExpiresAt = now
	recreated := event
	recreated.Position = repo.Position{Stream: "COMPONENT_TOKENS", StreamCreated: now.Add(-time.Minute), Sequence: 1, Time: now.Add(-time.Second)}
	taken := func(p repo.Position) repo.Component { return repo.Component{Token: repo.Token{Position: p}} }
	with := func(made repo.Fingerprint, expiresAt time.Time) repo.Component {
		c := taken(at(5, time.Minute))
		c.Current = &repo.CurrentCode{Code: repo.Code{ExpiresAt: expiresAt}, Fingerprint: made}
		return c
	}
	spent := with(a, now.Add(time.Hour))
	spent.Current.AuthorizerAppID, spent.Current.AuthorizedAt = "wxa", now.Add(-time.Second)
	once := arrival{deliveries: 1}
	for name, test := range map[string]struct {
		known repo.Component
		token repo.Token
		how   arrival
		want  decision
	}{
		"a component never seen":                {repo.Component{}, event, once, decisionIssue},
		"a newer event":                         {taken(at(9, time.Minute)), event, once, decisionIssue},
		"the same event again":                  {taken(at(10, time.Second)), event, once, decisionSuperseded},
		"an older event":                        {taken(at(11, 0)), event, once, decisionSuperseded},
		"an event of a recreated stream":        {taken(at(99, time.Minute)), recreated, once, decisionIssue},
		"the code was made with another token":  {with(b, now.Add(time.Hour)), event, once, decisionIssue},
		"the code was made with this token":     {with(a, now.Add(time.Second)), event, once, decisionKeep},
		"this token's code has expired":         {with(a, now), event, once, decisionIssue},
		"this token's code is spent":            {spent, event, once, decisionIssue},
		"the token has expired":                 {taken(at(9, time.Minute)), dead, once, decisionExpired},
		"expired, and its code is valid":        {with(a, now.Add(time.Second)), dead, once, decisionKeep},
		"expired and older":                     {taken(at(11, 0)), dead, once, decisionSuperseded},
		"the first event is in flight":          {taken(at(5, time.Minute)), event, arrival{at(8, 2*time.Second), 1}, decisionLater},
		"the first event is finished":           {taken(at(8, 2*time.Second)), event, arrival{at(8, 2*time.Second), 1}, decisionIssue},
		"the first event was lost":              {taken(at(5, time.Minute)), event, arrival{at(8, firstFor), 1}, decisionIssue},
		"left to it often enough":               {taken(at(5, time.Minute)), event, arrival{at(8, 2*time.Second), firstDeliveries + 1}, decisionIssue},
		"left to it for the last time":          {taken(at(5, time.Minute)), event, arrival{at(8, 2*time.Second), firstDeliveries}, decisionLater},
		"never seen, the first event in flight": {repo.Component{}, event, arrival{at(8, 2*time.Second), 1}, decisionLater},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(test.known, test.token, test.how, now); got != test.want {
				t.Errorf("decision %d, want %d", got, test.want)
			}
		})
	}
}
