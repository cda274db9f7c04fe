package system

import (
	"sync"
	"time"

	"preauth"
	"preauth/wechat/wechattest"
)

// WeChat is the stand-in, with a fault that can be set for all calls. It lives in the harness's process: it
// is no part of what is under test, and its log is evidence that has to survive.
type WeChat struct {
	*wechattest.Server

	mu     sync.Mutex
	fault  func(n int) wechattest.Fault
	calls  int
	faults map[callKey]wechattest.Fault
}

type callKey struct {
	appid string
	n     int
}

// CodeLife is the life of a code: short, so that renewals and expiries happen within a run.
const CodeLife = 30 * time.Second

func startWeChat() (*WeChat, error) {
	w := &WeChat{faults: map[callKey]wechattest.Fault{}}
	var err error
	w.Server, err = wechattest.Start(wechattest.Options{
		CodeLife:  CodeLife,
		TokenLife: 24 * time.Hour, // what an event states is what counts
		Overlap:   24 * time.Hour, // a late event with an older token is the newest all the same
		KeepCalls: 1 << 21,
	})
	if err != nil {
		return nil, err
	}
	w.Every(w.decide)
	return w, nil
}

// decide chooses the fault of one call and remembers it.
func (w *WeChat) decide(call wechattest.Call) wechattest.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault == nil {
		return wechattest.Fault{}
	}
	w.calls++
	fault := w.fault(w.calls)
	w.faults[callKey{call.AppID, call.N}] = fault
	return fault
}

// SetFault lets the n-th call from now on, counted from 1, suffer from the fault that the function returns;
// nil ends it. The function is called by one goroutine at a time.
func (w *WeChat) SetFault(fault func(n int) wechattest.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault, w.calls = fault, 0
}

// FaultOf returns what was done to a call.
func (w *WeChat) FaultOf(call wechattest.Call) wechattest.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.faults[callKey{call.AppID, call.N}]
}

// Issue tells WeChat of a token.
func (w *WeChat) Issue(appid string, token preauth.Secret) { w.SetToken(appid, token) }
