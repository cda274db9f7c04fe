package consumer

import (
	"log/slog"

	"preauth"
	"preauth/repo"
)

// Step is a point on the way of one event or code through the service.
type Step struct {
	// Name says which point.
	Name StepName
	// AppID is the component_appid, "" where there is no valid one.
	AppID string
	// Sequence is that of the token event in its stream.
	Sequence uint64
	// Revision is that of the code, from [StepCommitted] on.
	Revision uint64
	// Cause says why a code was made.
	Cause preauth.Cause
	// Class is that of the failure, for [StepFailed].
	Class preauth.Class
}

// StepName names a [Step].
type StepName string

// The steps, in the order in which an event takes them.
const (
	// StepReceived: the event is in hand.
	StepReceived StepName = "received"
	// StepSuperseded: a newer event makes this one moot, or it was worked on before.
	StepSuperseded StepName = "superseded"
	// StepRepeated: the event announces again the token that the current code was made with.
	StepRepeated StepName = "repeated"
	// StepMinted: WeChat answered with a code.
	StepMinted StepName = "minted"
	// StepFailed: the failure is committed.
	StepFailed StepName = "failed"
	// StepCommitted: the code is committed.
	StepCommitted StepName = "committed"
	// StepAcknowledged: the acknowledgement is on its way to the stream.
	StepAcknowledged StepName = "acknowledged"
	// StepAnnounced: the announcement is stored in its stream.
	StepAnnounced StepName = "announced"
	// StepCleared: the outbox row is deleted.
	StepCleared StepName = "cleared"
)

// committed tells the world of a committed outcome: the view, the relay, the log and the trace.
func (s *Service) committed(step Step, outcome repo.Outcome, result repo.Result) {
	name := StepRepeated
	switch {
	case result.Status == repo.Superseded:
		name = StepSuperseded
	case outcome.Failure != nil:
		name, step.Class = StepFailed, outcome.Failure.Class
		s.codes.forgetToken(step.AppID)
	case outcome.Code != nil:
		name, step.Revision = StepCommitted, result.Revision
	}
	s.step(step, name)
	// The announcement goes first: somebody waits for it.
	if a := result.Announcement; a != nil {
		if a.Update != nil {
			token := outcome.Token // by itself: the outcome is not to be kept with it
			s.codes.add(standing{Update: *a.Update, Token: &token})
		}
		s.relay.announce(*a, outcome)
	}
	switch name {
	case StepFailed:
		f := outcome.Failure
		s.metrics.failed(f.Class)
		retry := slog.StringValue("given up")
		if !f.RetryAt.IsZero() {
			retry = slog.TimeValue(f.RetryAt)
		}
		s.log.Warn("no code", "component", step.AppID, "sequence", step.Sequence, "class", string(f.Class), "errcode", f.ErrCode, "errmsg", f.ErrMsg, "rid", f.RID,
			"request_ip", f.RequestIP, "attempt", f.Attempt, "retry_at", retry)
	case StepCommitted:
		s.keeper.topUp(step.AppID)
		s.log.Info("code saved", "component", step.AppID, "sequence", step.Sequence,
			"cause", string(outcome.Cause), "revision", result.Revision, "expires_at", outcome.Code.ExpiresAt)
	case StepRepeated:
		s.log.Debug("token announced again", "component", step.AppID, "sequence", step.Sequence)
	default: // superseded: nothing has happened
	}
}

func (s *Service) step(step Step, name StepName) {
	step.Name = name
	s.cfg.Trace(step)
}
