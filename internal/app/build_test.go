package app

import (
	"runtime/debug"
	"testing"
	"time"
)

func TestBuildSaysWhatItWasMadeFrom(t *testing.T) {
	found := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-03-14T09:00:00Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	march := time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC)
	tests := []struct {
		name                  string
		release, commit, date string
		info                  *debug.BuildInfo
		version, hash         string
		made                  time.Time
		modified              bool
	}{
		{"nothing", "", "", "", &debug.BuildInfo{}, "0.0.0-dev", "", time.Time{}, false},
		{"a checkout", "", "", "", found, "1.2.3", "abc", march, true},
		{"a release without version control", "v2.0.0-rc.1", "def", "2026-03-14T10:00:00+01:00", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "2.0.0-rc.1", "def", march, false},
		{"a release from a checkout", "2.0.0", "def", "2026-03-14T09:00:00Z", found, "2.0.0", "def", march, false},
		{"a release whose commit is unknown", "2.0.0", "", "", found, "2.0.0", "abc", march, true},
		{"names of branches", "main", "", "yesterday", &debug.BuildInfo{}, "0.0.0-dev", "", time.Time{}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := readBuild(test.release, test.commit, test.date, test.info)
			if got.Version != test.version || got.Commit != test.hash || !got.Date.Equal(test.made) || got.Modified != test.modified {
				t.Errorf("got %+v", got)
			}
		})
	}
}
