package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"preauth/internal/app"
)

// versionCommand prints what the program was built from.
type versionCommand struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run prints the build. Programs that want the version alone read it from --version.
func (c versionCommand) Run(to app.Stdio) error {
	build := app.ReadBuild()
	if c.JSON {
		return json.NewEncoder(to.Out).Encode(build)
	}
	made, changed := "unknown", ""
	if !build.Date.IsZero() {
		made = build.Date.Format(time.RFC3339)
	}
	if build.Modified {
		changed = ", with changes"
	}
	_, err := fmt.Fprintf(to.Out, "preauth  %s\ncommit   %s%s\ndate     %s\nbuilt    with %s for %s\n",
		build.Version, cmp.Or(build.Commit, "unknown"), changed, made, build.Go, build.Platform)
	return err
}
