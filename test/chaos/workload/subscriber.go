package workload

import (
	"strconv"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/test/chaos/history"
)

// update takes down an announcement of a code.
func (w *Workload) update(msg *nats.Msg) {
	e := history.Event{
		Op: history.Update, Client: "subscriber", MessageID: msg.Header.Get(nats.MsgIdHdr), Sequence: sequenceOf(msg),
		Batch: msg.Header.Get("Nats-Batch-Id") != "",
	}
	update, err := preauth.ParseUpdate(msg.Data)
	e.Status, _ = statusOf(err)
	if err == nil {
		e.AppID, e.Revision, e.Code = update.AppID, update.Revision, history.HashOf(update.PreAuthCode)
		e.ExpiresAt = w.opts.Recorder.At(update.ExpiresAt)
		if c := w.component(update.AppID); c != nil {
			c.seen(update.Revision)
		}
	}
	w.opts.Recorder.Add(e)
}

// failure takes down an announcement of a failure.
func (w *Workload) failure(msg *nats.Msg) {
	e := history.Event{Op: history.Failure, Client: "subscriber", MessageID: msg.Header.Get(nats.MsgIdHdr)}
	failure, err := preauth.ParseFailure(msg.Data)
	e.Status, _ = statusOf(err)
	if err == nil {
		e.AppID, e.Class, e.Sequence = failure.AppID, failure.Class, failure.StreamSequence
	}
	w.opts.Recorder.Add(e)
}

// sequenceOf returns the place of a copied message in its stream.
func sequenceOf(msg *nats.Msg) uint64 {
	sequence, _ := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	return sequence
}
