package consumer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/wechat"
)

// Calls of WeChat are counted by what became of them. One that the service gave up says nothing of
// WeChat.
func TestCallsAreCountedByClass(t *testing.T) {
	for want, err := range map[string]error{
		"ok":        nil,
		"cancelled": fmt.Errorf("issuing: %w", context.Canceled),
		"quota":     &wechat.Error{Class: preauth.ClassQuota},
		"transient": fmt.Errorf("issuing: %w", &wechat.Error{Class: preauth.ClassTransient}),
	} {
		registry := prometheus.NewRegistry()
		newMetrics(registry).called(err, 3*time.Second)
		families, gathered := registry.Gather()
		if gathered != nil {
			t.Fatal(gathered)
		}
		for _, family := range families {
			if family.GetName() != "preauth_wechat_call_duration_seconds" {
				continue
			}
			for _, metric := range family.GetMetric() {
				class, h := metric.GetLabel()[0].GetValue(), metric.GetHistogram()
				if h.GetSampleCount() != map[bool]uint64{true: 1}[class == want] || h.GetSampleSum() != 3*float64(h.GetSampleCount()) {
					t.Errorf("%v: %d calls of class %s take %v s", err, h.GetSampleCount(), class, h.GetSampleSum())
				}
			}
		}
	}
}
