package stream

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Role is what a stream is for.
type Role struct {
	// Name names the role in errors and in the log, such as "token stream".
	Name string
	// Events is the subject on which others publish the events that the program takes from the stream;
	// they do so on it or anywhere below. Any stream that covers some of these subjects serves. "" for a
	// stream that the program itself publishes to: it has to have the name and to cover the subjects of
	// Config.
	Events string
	// Config returns the configuration with which a missing stream is created. A role with Events needs
	// no subjects in it. A wildcard of the subjects is a "*" at their end. A stream with sources has no
	// subjects: the server alone fills it.
	Config func() jetstream.StreamConfig
}

// IsEvent reports whether a subject is one on which events are published, or a wildcard that takes
// nothing else.
func (r Role) IsEvent(subject string) bool {
	rest, ok := strings.CutPrefix(subject, r.Events)
	return ok && (rest == "" || rest[0] == '.')
}

// Filter returns the filter with which the events of a stream are read: "" where the stream takes
// nothing else. It is one filter and never two, one for each form of the subject: for a consumer with
// several filters nats-server walks the subjects of the stream with each message, and a start would
// take a time that grows with the square of their number. So the filter of a stream that takes other
// things too may let some of these through: see [Role.IsEvent].
func (r Role) Filter(c jetstream.StreamConfig) string {
	foreign := func(subject string) bool { return !r.IsEvent(subject) }
	if !slices.ContainsFunc(c.Subjects, foreign) {
		return ""
	}
	taken := slices.DeleteFunc(r.forms(), func(subject string) bool {
		return !slices.ContainsFunc(c.Subjects, func(pattern string) bool { return overlap(pattern, subject) })
	})
	if len(taken) == 1 {
		return taken[0]
	}
	if dot := strings.LastIndexByte(r.Events, '.'); dot >= 0 {
		return r.Events[:dot] + ".>"
	}
	return ""
}

// forms are the two forms of the subject of events. The second takes more than one further token.
func (r Role) forms() []string { return []string{r.Events, r.Events + ".>"} }

// Wanted is the configuration with which a missing stream is created.
func (r Role) Wanted() jetstream.StreamConfig {
	c := r.Config()
	if r.Events != "" {
		c.Subjects = r.forms()
	}
	return c
}

var (
	errRetention = errors.New("messages go away when they are acknowledged: its retention must be limits, " +
		"because every replica reads it; take its subjects away, or create it anew")
	errUncovered = errors.New("it does not take the subjects that it has to: remove it if nobody needs it, or name another one in the settings")
	errMirror    = errors.New("it is a mirror, which takes no messages itself: name the stream that it copies in the settings, " +
		"and the JetStream domain of that")
	errSealed     = errors.New("it is sealed and takes no more messages: remove it if nobody needs it, or name another one in the settings")
	errNoAck      = errors.New("it does not say that it has stored a message: set no_ack to false")
	errCopiesElse = errors.New("it does not copy what it has to, or under other subjects: remove it if nobody needs it, or name another one in the settings")
	errWritable   = errors.New("others can publish in it, so that it may say something else than what it copies: take its subjects away")
	errTransform  = errors.New("its subject transform stores messages under subjects where nobody looks for them: " +
		"let the transform leave these subjects alone")
)

// Unfit returns why a stream that exists cannot serve in the role, nil if it can.
func (r Role) Unfit(c jetstream.StreamConfig) error {
	wanted, sources := r.Wanted().Subjects, r.Wanted().Sources
	takes := covers
	if r.Events != "" { // the stream may be somebody else's, for some of the events
		takes = overlap
	}
	taken := func(subject string) bool {
		return slices.ContainsFunc(c.Subjects, func(pattern string) bool { return takes(pattern, subject) })
	}
	moved := func(subject string) bool {
		t := c.SubjectTransform
		return t != nil && overlap(cmp.Or(t.Source, ">"), subject) && t.Destination != t.Source &&
			(r.Events == "" || !r.IsEvent(t.Destination))
	}
	copied := func(want *jetstream.StreamSource) bool {
		return slices.ContainsFunc(c.Sources, func(have *jetstream.StreamSource) bool {
			return have.Name == want.Name && slices.Equal(have.SubjectTransforms, want.SubjectTransforms)
		})
	}
	switch {
	case c.Mirror != nil:
		return errMirror
	case c.Sealed:
		return errSealed
	case c.Retention != jetstream.LimitsPolicy:
		return errRetention
	case c.NoAck && r.Events == "": // those who publish events decide whether they wait for it
		return errNoAck
	case len(sources) > 0 && (len(c.Sources) != len(sources) || !slices.ContainsFunc(sources, copied)):
		return errCopiesElse
	case len(sources) > 0 && len(c.Subjects) > 0:
		return errWritable
	case len(sources) > 0:
		return nil
	case !slices.ContainsFunc(wanted, taken):
		return errUncovered
	case slices.ContainsFunc(wanted, moved):
		return errTransform
	}
	return nil
}

// Drift says how a stream that exists differs from the one that would be created, "" if it does not.
func (r Role) Drift(have jetstream.StreamConfig) string { return drift(r.Wanted(), have) }

// NeedsSync reports whether servers have to sync each message of a stream to disk before they
// acknowledge it. Copies on other servers do not replace that: after power cuts of one server at a
// time, all copies of a consumer's state can be corrupt (nats-server 2.15.2; docs/reliability.md).
func NeedsSync(c jetstream.StreamConfig) bool { return c.Storage == jetstream.FileStorage }

// drift says how an existing stream differs from what would be created, "" if it does not.
func drift(want, have jetstream.StreamConfig) string {
	var drift []string
	differs := func(what string, want, have any) {
		if fmt.Sprint(want) != fmt.Sprint(have) {
			drift = append(drift, fmt.Sprintf("%s is %v, not %v", what, have, want))
		}
	}
	differs("name", want.Name, have.Name)
	differs("subjects", slices.Sorted(slices.Values(want.Subjects)), slices.Sorted(slices.Values(have.Subjects)))
	differs("retention", want.Retention, have.Retention)
	differs("storage", want.Storage, have.Storage)
	differs("replicas", want.Replicas, have.Replicas)
	if want.MaxAge == 0 && have.MaxAge > 0 {
		drift = append(drift, fmt.Sprintf("max age is %v, after which messages vanish that have to stay: set it to 0", have.MaxAge))
	} else {
		differs("max age", want.MaxAge, have.MaxAge)
	}
	differs("max messages per subject", max(want.MaxMsgsPerSubject, 0), max(have.MaxMsgsPerSubject, 0))
	if bounded := have.MaxBytes > 0 || have.MaxMsgs > 0; bounded {
		differs("discard", want.Discard, have.Discard)
	}
	differs("max bytes", max(want.MaxBytes, 0), max(have.MaxBytes, 0))
	differs("republish", republished(want), republished(have))
	if want.AllowMsgTTL && !have.AllowMsgTTL {
		drift = append(drift, "messages have no TTL, so that those which are of no use any more stay: set allow_msg_ttl to true")
	}
	return strings.Join(drift, "; ")
}

func republished(c jetstream.StreamConfig) string {
	if c.RePublish == nil {
		return "nothing"
	}
	return c.RePublish.Source + " to " + c.RePublish.Destination
}

// overlap reports whether some subject matches both of two patterns.
func overlap(a, b string) bool {
	for {
		first, restA, moreA := strings.Cut(a, ".")
		second, restB, moreB := strings.Cut(b, ".")
		switch {
		case first == ">" || second == ">":
			return true
		case first != second && first != "*" && second != "*":
			return false
		case !moreA || !moreB:
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// covers reports whether a pattern matches all subjects of another one, whose only wildcard is a "*"
// at its end.
func covers(pattern, other string) bool {
	return overlap(pattern, other) && strings.ContainsAny(pattern[len(pattern)-1:], "*>")
}
