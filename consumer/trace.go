package consumer

import (
	"preauth"
	"preauth/repo"
)

// Step is a point on the way of one event or code through the service.
type Step struct {
	// Name says which point.
	Name StepName
	// AppID is the component_appid, "" where the event names no valid one.
	AppID string
	// Sequence is that of the token event in its stream.
	Sequence uint64
	// Revision is that of the code, from [StepCommitted] on.
	Revision uint64
	// Cause says why a code was made.
	Cause preauth.Cause
	// Class is that of the failure, from [StepFailed] on.
	Class preauth.Class
}

// StepName names a [Step].
type StepName string

// The steps, in the order in which an event takes them.
const (
	// StepReceived: a replica has taken the event from the stream.
	StepReceived StepName = "received"
	// StepSuperseded: a newer event makes this one pointless, or it was worked on before.
	StepSuperseded StepName = "superseded"
	// StepRepeated: the event announces again the token that the current code was made with.
	StepRepeated StepName = "repeated"
	// StepSpent: the code that an authorization names is spent.
	StepSpent StepName = "spent"
	// StepIssued: WeChat answered with a code.
	StepIssued StepName = "issued"
	// StepFailed: the failure is committed.
	StepFailed StepName = "failed"
	// StepCommitted: the code is committed.
	StepCommitted StepName = "committed"
	// StepAcknowledged: the acknowledgement is on its way to the stream.
	StepAcknowledged StepName = "acknowledged"
	// StepAnnounced: the stream has stored the announcement.
	StepAnnounced StepName = "announced"
	// StepCleared: the outbox row is deleted.
	StepCleared StepName = "cleared"
)

// tracer is told each step.
type tracer func(Step)

// outcomeStep is a step of the event or renewal that an outcome belongs to.
func outcomeStep(name StepName, o repo.Outcome) Step {
	step := Step{Name: name, AppID: o.AppID, Sequence: o.Token.Position.Sequence, Cause: o.Cause}
	if o.Failure != nil {
		step.Sequence, step.Class = o.Failure.StreamSequence, o.Failure.Class
	}
	return step
}

// announcementStep is a step of a message on its way to a stream.
func announcementStep(name StepName, a repo.Announcement) Step {
	step := Step{Name: name, AppID: a.AppID, Revision: revisionOf(a)}
	switch {
	case a.Failure != nil:
		step.Sequence, step.Class = a.Failure.StreamSequence, a.Failure.Class
	case a.Update != nil:
		step.Cause = a.Update.Cause
	}
	return step
}

// revisionOf returns the revision of an update, and 0 for anything else.
func revisionOf(a repo.Announcement) uint64 {
	if a.Update == nil {
		return 0
	}
	return a.Update.Revision
}
