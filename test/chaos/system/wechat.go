package system

import (
	"sync"
	"time"

	"preauth/wechat/wechattest"
)

// WeChat is the stand-in, with a fault for all calls. It runs in the harness's process: it is not
// under test, and its log is evidence that must survive.
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

// CodeLife is the life of a code. It is short, so that codes are renewed and expire within a run.
const CodeLife = 30 * time.Second

func startWeChat(codeLife time.Duration) (*WeChat, error) {
	w := &WeChat{faults: map[callKey]wechattest.Fault{}}
	var err error
	w.Server, err = wechattest.Start(wechattest.Options{
		CodeLife:  codeLife,
		TokenLife: 24 * time.Hour, // the life that an event states counts
		Overlap:   24 * time.Hour, // a late event with an older token still is the newest
		KeepCalls: 1 << 21,
	})
	if err != nil {
		return nil, err
	}
	w.Every(w.decide)
	return w, nil
}

// decide returns the fault of one call, and remembers it.
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

// SetFault gives the n-th call from now on, counted from 1, the fault that the function returns. A
// nil function ends that. Calls of the function are serialized.
func (w *WeChat) SetFault(fault func(n int) wechattest.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault, w.calls = fault, 0
}

// FaultOf returns the fault that a call was given.
func (w *WeChat) FaultOf(call wechattest.Call) wechattest.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.faults[callKey{call.AppID, call.N}]
}
