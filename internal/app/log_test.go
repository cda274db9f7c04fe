package app

import (
	"strings"
	"testing"
	"time"
)

func TestLogWritesDurationsWithTheirUnit(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{"text": "limit=15s", "json": `"limit":"15s"`} {
		out := new(strings.Builder)
		Log{Level: "info", Format: format}.Logger(out).Info("stopping", "limit", 15*time.Second)
		if line := out.String(); !strings.Contains(line, want) {
			t.Errorf("%s: the line is %q, want %s in it", format, line, want)
		}
	}
}
