package app

import (
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// A build may set these with -ldflags "-X preauth/internal/app.release=1.2.3". Without the files of
// version control, as in the image's build, it finds nothing by itself.
var (
	release string // the version
	commit  string
	date    string // of the commit, as RFC 3339 has it
)

// semantic matches a semantic version. NATS micro accepts nothing else.
var semantic = regexp.MustCompile(`^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// Build says what the running program was built from.
type Build struct {
	Version  string    `json:"version"`          // a semantic version, 0.0.0-dev if the build has none
	Commit   string    `json:"commit,omitempty"` // empty if unknown, like Date
	Date     time.Time `json:"date,omitzero"`    // when the commit was made, UTC
	Modified bool      `json:"modified"`         // whether there were changes that are not in the commit
	Go       string    `json:"go"`
	Platform string    `json:"platform"` // such as linux/amd64
}

// ReadBuild returns what the program was built from. What the build was told wins over what go found.
func ReadBuild() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	return readBuild(release, commit, date, info)
}

func readBuild(release, commit, date string, info *debug.BuildInfo) Build {
	b := Build{Version: "0.0.0-dev", Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	for _, version := range []string{release, info.Main.Version} {
		if semantic.MatchString(version) {
			b.Version = strings.TrimPrefix(version, "v")
			break
		}
	}
	if commit == "" {
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision":
				b.Commit = setting.Value
			case "vcs.time":
				date = setting.Value
			case "vcs.modified":
				b.Modified = setting.Value == "true"
			}
		}
	}
	if made, err := time.Parse(time.RFC3339, date); err == nil {
		b.Date = made.UTC()
	}
	return b
}

// Version returns the semantic version of the build.
func Version() string { return ReadBuild().Version }
