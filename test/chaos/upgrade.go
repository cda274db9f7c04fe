package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"preauth"
	"preauth/test/chaos/history"
	"preauth/test/chaos/system"
)

// span is a part of a run.
type span struct{ begin, end time.Duration }

// upgrade replaces the service while it is used, one replica after the other: forwards, back, and
// forwards again. In between it leaves both builds alone for a quarter of the campaign's duration. It
// returns when an old replica was starting.
func (c campaign) upgrade(ctx context.Context, sys *system.System, programs system.Programs, rec *history.Recorder) (starts []span, err error) {
	pause := func() { system.Wait(ctx, c.duration/4) }
	pause()
	c.log("migrating")
	if err := sys.MySQL.Migrate(ctx, programs.Preauth); err != nil {
		return nil, err
	}
	for _, program := range []string{programs.Preauth, programs.Before, programs.Preauth} {
		pause()
		for i, r := range sys.Replicas {
			c.log("replacing %s by %s", r.Name, map[bool]string{true: "the old build", false: "the new build"}[program == programs.Before])
			begin := rec.Now()
			if err := r.Replace(ctx, program); err != nil {
				return nil, err
			}
			if program == programs.Before {
				starts = append(starts, span{begin, rec.Now()})
			}
			if i < len(sys.Replicas)-1 {
				system.Wait(ctx, c.duration/20) // both builds work side by side
			}
		}
	}
	pause()
	return starts, ctx.Err()
}

// failed returns the requests that failed while the clients used the system: those that got no
// answer, or an unreadable one, and those that the service refused for a reason of its own. The first
// release takes requests before it can answer them all, so it may refuse some while it starts.
func (o *outcome) failed() (events []history.Event) {
	for _, e := range o.evidence.Events {
		if e.Op != history.Lookup && e.Op != history.Claim && e.Op != history.Resolve || e.End > o.used {
			continue
		}
		isRefused := e.Status == preauth.StatusUnavailable && e.Class == "" &&
			!slices.ContainsFunc(o.oldStarts, func(s span) bool { return e.End > s.begin && e.Begin < s.end })
		if e.Status == history.NoAnswer || e.Status == history.Unreadable || isRefused {
			events = append(events, e)
		}
	}
	return events
}

// released is the commit before the schema had a version.
const released = "a744ab581390f7f3c1774ff96848743db1bff79f"

// commitBefore returns a commit to upgrade from, and why it is not the wanted one: a shallow clone
// may lack that.
func commitBefore(ctx context.Context, wanted string) (commit, instead string, err error) {
	root, err := system.Root(ctx)
	if err != nil {
		return "", "", err
	}
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	if commit, err = git("rev-parse", "--quiet", "--verify", wanted+"^{commit}"); err == nil {
		return commit, "", nil
	}
	history, err := git("rev-list", "HEAD")
	if err != nil {
		return "", "", fmt.Errorf("there is neither commit %s nor any other: git rev-list: %w", wanted, err)
	}
	commits := strings.Fields(history)
	commit = commits[0]
	if shallow, err := git("rev-parse", "--is-shallow-repository"); err == nil && shallow == "true" {
		commit = commits[len(commits)-1]
	}
	return commit, fmt.Sprintf("commit %s is not in this clone", wanted), nil
}
