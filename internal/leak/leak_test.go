package leak

import (
	"strings"
	"testing"
	"time"
)

func TestFindWaitsForGoroutinesThatEnd(t *testing.T) {
	go func() { <-time.After(time.Second) }() // longer than package goleak waits
	if err := Find(); err != nil {
		t.Error(err)
	}
}

func TestFindNamesGoroutinesThatDoNotEnd(t *testing.T) {
	defer func(was time.Duration) { patience = was }(patience)
	patience = time.Millisecond
	end := make(chan struct{})
	defer close(end)
	go func() { <-end }()
	if err := Find(); err == nil || !strings.Contains(err.Error(), "TestFindNamesGoroutinesThatDoNotEnd") {
		t.Errorf("found %v", err)
	}
}
