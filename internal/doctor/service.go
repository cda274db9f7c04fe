package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"preauth"
)

// examineService asks the replicas that run how they fare.
func (e *examination) examineService(ctx context.Context) {
	e.group = "service"
	const replicas, components = "replicas", "components"
	switch {
	case e.nats == nil:
		e.skip(needsNATS, replicas, components)
		return
	case !e.hears:
		e.skip(needsReplies, replicas, components)
		return
	}
	client, err := preauth.NewClient(e.nats.Conn, preauth.WithSubjects(e.Config.Subjects))
	if err != nil {
		e.skip(err.Error(), replicas, components)
		return
	}
	var running bool
	e.check(ctx, replicas, func(ctx context.Context) verdict {
		var all []preauth.Replica
		err := e.nats.ask(ctx, func(ctx context.Context) (err error) {
			all, err = client.Replicas(ctx)
			return err
		})
		running = err == nil && len(all) > 0
		if running {
			return judge(all)
		}
		return unanswered(err)
	})
	e.check(ctx, components, func(ctx context.Context) verdict {
		var page preauth.StatusPage
		err := e.nats.ask(ctx, func(ctx context.Context) (err error) {
			page, err = client.StatusPage(ctx, preauth.StatusRequest{})
			return err
		})
		if err != nil || page.Summary == nil {
			return unanswered(err)
		}
		return summarize(*page.Summary)
	})
}

// unanswered judges that nobody answered.
func unanswered(err error) verdict {
	switch {
	case err == nil, errors.Is(err, nats.ErrNoResponders):
		return skipped("no replica answers: `preauth serve` runs one")
	case isRefused(err):
		return skipped("the user may not ask: log in with the role operator to see it")
	}
	return problem(err.Error(), "look at the log of the replicas")
}

func judge(replicas []preauth.Replica) verdict {
	var reasons []string
	versions := map[string]bool{}
	for _, r := range replicas {
		versions[r.Version] = true
		if !r.Ready {
			reasons = append(reasons, r.ID+": "+strings.Join(r.Reasons, "; "))
		}
	}
	switch {
	case len(reasons) > 0:
		return problem(fmt.Sprintf("%d of %d are not ready: %s", len(reasons), len(replicas), strings.Join(reasons, "; ")),
			"mend what the other checks found; docs/operation.md says under \"Not ready\" what each reason asks for")
	case len(versions) > 1:
		return warning(fmt.Sprintf("%d replicas have %d versions", len(replicas), len(versions)), "finish the upgrade: replace the older ones")
	}
	return ok(fmt.Sprintf("%d, ready", len(replicas)))
}

func summarize(s preauth.Summary) verdict {
	if s.Failing+s.Expiring+s.NoToken > 0 {
		return warning(fmt.Sprintf("of %d, %d fail, %d are late, %d have no token", s.Components, s.Failing, s.Expiring, s.NoToken),
			"`preauth status` says which, and why")
	}
	return ok(fmt.Sprintf("%d, all valid", s.Components))
}
