package main

import (
	"log/slog"
	"maps"
	"sync"
)

// faults logs what is wrong with single components, without repeating itself: when it begins, when
// its reason changes, and when it ends. It is safe for concurrent use.
type faults struct {
	log          *slog.Logger
	begins, ends string // what the log says

	mu      sync.Mutex
	reasons map[string]string // by component
}

func newFaults(log *slog.Logger, begins, ends string) *faults {
	return &faults{log: log, begins: begins, ends: ends, reasons: map[string]string{}}
}

// note notes what is wrong with a component, nil if nothing is.
func (f *faults) note(appid string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, was := f.reasons[appid]
	switch {
	case err == nil && was:
		delete(f.reasons, appid)
		f.log.Info(f.ends, "component_appid", appid) //nolint:sloglint // the caller's text is a constant
	case err != nil && before != err.Error():
		f.reasons[appid] = err.Error()
		f.log.Warn(f.begins, "component_appid", appid, "error", err) //nolint:sloglint // as above
	}
}

// forgetExcept drops the components that are not present.
func (f *faults) forgetExcept(present map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.reasons, func(appid, _ string) bool { return !present[appid] })
}

// count returns how many components have a fault.
func (f *faults) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.reasons)
}
