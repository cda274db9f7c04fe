package workload

import (
	"strconv"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/test/chaos/history"
)

// update records the announcement of a code.
func (w *Workload) update(msg *nats.Msg) {
	e := history.Event{
		Op: history.Update, Client: "subscriber", MessageID: msg.Header.Get(nats.MsgIdHdr), Sequence: sequenceOf(msg),
	}
	update, err := preauth.ParseUpdate(msg.Data)
	e.Status, _ = statusOf(err)
	if err == nil {
		e.AppID, e.Revision, e.Code = update.AppID, update.Revision, history.HashOf(update.PreAuthCode)
		e.ExpiresAt, e.Spent = w.opts.Recorder.At(update.ExpiresAt), update.Spent
		if c := w.component(update.AppID); c != nil {
			c.seen(update.Revision)
		}
	}
	w.opts.Recorder.Add(e)
}

// failure records the announcement of a failure.
func (w *Workload) failure(msg *nats.Msg) {
	e := history.Event{Op: history.Failure, Client: "subscriber", MessageID: msg.Header.Get(nats.MsgIdHdr)}
	failure, err := preauth.ParseFailure(msg.Data)
	e.Status, _ = statusOf(err)
	if err == nil {
		e.AppID, e.Class, e.Sequence = failure.AppID, failure.Class, failure.StreamSequence
	}
	w.opts.Recorder.Add(e)
}

// authorized records the announcement of an authorization.
func (w *Workload) authorized(msg *nats.Msg) {
	e := history.Event{Op: history.Authorized, Client: "subscriber", MessageID: msg.Header.Get(nats.MsgIdHdr)}
	authorized, err := preauth.ParseAuthorized(msg.Data)
	e.Status, _ = statusOf(err)
	if err == nil {
		e.AppID, e.Revision, e.Authorizer = authorized.AppID, authorized.Revision, authorized.AuthorizerAppID
		e.ClaimID, e.Reference = authorized.ClaimID, authorized.Reference
	}
	w.opts.Recorder.Add(e)
}

// sequenceOf returns the sequence that a republished message has in its stream.
func sequenceOf(msg *nats.Msg) uint64 {
	sequence, _ := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	return sequence
}
