package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/pause"
)

// statusCommand shows how components and replicas fare.
type statusCommand struct {
	components
	client

	State  string        `name:"state" default:"any" values:"any,valid,expiring,failing,no_token" help:"Show only components in this state."`
	Prefix string        `name:"prefix" placeholder:"TEXT" help:"Show only components whose appid begins with this."`
	Watch  bool          `name:"watch" short:"w" help:"Show it again and again, until Ctrl-C."`
	Every  time.Duration `name:"every" default:"2s" range:"100ms..1h" help:"Time between two looks of --watch."`
}

// anyState is the --state that keeps all components.
const anyState = "any"

// Run prints a table of components, or how one of them fares.
func (c statusCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Component != "" && (c.State != anyState || c.Prefix != "") {
		return app.UsageErrorf("--state and --prefix are about all components: leave out the component, or these flags")
	}
	s, err := c.connect()
	if err != nil {
		return err
	}
	defer s.close()
	if c.Watch {
		return c.watch(ctx, s, to)
	}
	text, err := c.look(ctx, s, screenOf(to.Out))
	fmt.Fprint(to.Out, text)
	return err
}

// look returns what is printed of how things are now.
func (c statusCommand) look(ctx context.Context, s *session, on screen) (string, error) {
	var text strings.Builder
	err := s.ask(ctx, c.Timeout, s.subjects.Status, func(ctx context.Context, s *session) error {
		return c.show(ctx, s, &text, on)
	})
	if err != nil {
		return "", err
	}
	return text.String(), nil
}

// watch shows how things are until ctx ends. A terminal has its former screen back then.
func (c statusCommand) watch(ctx context.Context, s *session, to app.Stdio) error {
	live := screenOf(to.Out).live && !c.JSON
	if live {
		fmt.Fprint(to.Out, "\x1b[?1049h\x1b[?25l") // another screen, without a cursor
		defer fmt.Fprint(to.Out, "\x1b[?25h\x1b[?1049l")
	}
	shown := ""
	for {
		on := screenOf(to.Out) // its size may have changed
		text, err := c.look(ctx, s, on)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && live:
			shown = text
			on.draw(to.Out, shown)
		case err == nil:
			fmt.Fprint(to.Out, text)
		case live: // the service may come back
			on.draw(to.Out, fmt.Sprintf("preauth: %v\n\n%s", err, shown))
		default:
			fmt.Fprintf(to.Err, "preauth: %v\n", err)
		}
		if !pause.For(ctx, c.Every) {
			return nil
		}
	}
}

func (c statusCommand) show(ctx context.Context, s *session, out io.Writer, on screen) error {
	if c.Component != "" {
		status, err := s.Status(ctx, c.Component)
		if err != nil {
			return err
		}
		return printStatus(out, status, c.JSON, on)
	}
	request := preauth.StatusRequest{Prefix: c.Prefix}
	if c.State != anyState {
		request.State = preauth.State(c.State)
	}
	all, err := s.statuses(ctx, request)
	if err != nil {
		return err
	}
	replicas, err := s.Replicas(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printAllJSON(out, all, replicas)
	}
	printReplicas(out, replicas, on)
	if all.Summary != nil {
		printSummary(out, *all.Summary)
	}
	printTable(out, all.Components, on)
	return nil
}

// statuses returns the components of all pages as one.
func (s *session) statuses(ctx context.Context, request preauth.StatusRequest) (all preauth.StatusPage, err error) {
	for {
		page, err := s.StatusPage(ctx, request)
		if err != nil {
			return preauth.StatusPage{}, err
		}
		all.Summary = cmp.Or(all.Summary, page.Summary)
		all.Components = append(all.Components, page.Components...)
		if page.Next == "" {
			return all, nil
		}
		request.After = page.Next
	}
}

// printAllJSON prints the members of a page, with the components of all pages, and the replicas.
func printAllJSON(out io.Writer, all preauth.StatusPage, replicas []preauth.Replica) error {
	var object map[string]any
	if err := json.Unmarshal(all.Encode(), &object); err != nil {
		return err
	}
	shown := make([]map[string]any, len(replicas))
	for i, r := range replicas {
		if err := json.Unmarshal(r.Encode(), &shown[i]); err != nil {
			return err
		}
		shown[i]["id"], shown[i]["version"], shown[i]["started_at"] = r.ID, r.Version, r.StartedAt
	}
	object["replicas"] = shown
	return json.NewEncoder(out).Encode(object)
}

func printReplicas(out io.Writer, replicas []preauth.Replica, on screen) {
	now := time.Now()
	t := table{
		titles:     []string{"REPLICA", "VERSION", "UP", "READY", "CODES", "TOKENS", "LAG", "LEAST QUOTA"},
		expendable: []string{"LEAST QUOTA", "TOKENS", "CODES", "VERSION", "LAG"},
	}
	for _, r := range replicas {
		ready := "yes"
		if !r.Ready {
			ready = "no"
		}
		t.rows = append(t.rows, []string{
			printable(r.ID), printable(r.Version), since(r.StartedAt, now), ready,
			strconv.Itoa(r.Codes), strconv.Itoa(r.Tokens), strconv.FormatUint(r.Lag, 10), quotaOf(r.Quota),
		})
	}
	t.print(out, on)
	for _, r := range replicas {
		for _, reason := range r.Reasons {
			for i, line := range wrapped(fmt.Sprintf("%s is not ready: %s", r.ID, printable(reason)), on.width-2) {
				fmt.Fprintf(out, "%*s%s\n", min(i, 1)*2, "", line)
			}
		}
	}
	fmt.Fprintln(out)
}

func quotaOf(q *preauth.Quota) string {
	if q == nil {
		return "-"
	}
	return fmt.Sprintf("%d of %d", q.Remaining, q.Limit)
}

// counted returns a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func printSummary(out io.Writer, s preauth.Summary) {
	now := time.Now()
	fmt.Fprintf(out, "%s: %d valid, %d expiring, %d failing, %d without a token.\n",
		counted(s.Components, "component"), s.Valid, s.Expiring, s.Failing, s.NoToken)
	fmt.Fprintf(out, "%s in stock. ", counted(s.Spares, "spare"))
	switch {
	case s.Outbox == 0:
		fmt.Fprintln(out, "Everything is announced.")
	case s.OutboxSince.IsZero():
		fmt.Fprintf(out, "Not announced yet: %d.\n", s.Outbox)
	default:
		fmt.Fprintf(out, "Not announced yet: %d, the oldest for %s.\n", s.Outbox, since(s.OutboxSince, now))
	}
	if !s.CodeExpiresAt.IsZero() {
		fmt.Fprintf(out, "The first code expires in %s, the first token in %s.\n", in(s.CodeExpiresAt, now), in(s.TokenExpiresAt, now))
	}
	fmt.Fprintln(out)
}

func printTable(out io.Writer, components []preauth.Status, on screen) {
	if len(components) == 0 {
		fmt.Fprintln(out, "No component matches.")
		return
	}
	now := time.Now()
	t := table{
		titles:     []string{"COMPONENT", stateColumn, "REVISION", "CODE FOR", "NEXT IN", "TOKEN FOR", "SPARES", "FAILURE"},
		expendable: []string{"SPARES", "REVISION", "NEXT IN", "TOKEN FOR"},
	}
	for _, s := range components {
		t.rows = append(t.rows, []string{
			s.AppID, printable(string(s.State)), strconv.FormatUint(s.Revision, 10), in(s.ExpiresAt, now), in(s.DueAt, now),
			in(s.TokenExpiresAt, now), strconv.Itoa(s.Spares), reasonOf(s.Failure),
		})
	}
	t.print(out, on)
}

// reasonOf returns a failure in a few words.
func reasonOf(f *preauth.Failure) string {
	switch {
	case f == nil:
		return "-"
	case f.ErrCode == 0:
		return printable(string(f.Class))
	default:
		return fmt.Sprintf("%s %d", printable(string(f.Class)), f.ErrCode)
	}
}

// printStatus prints how one component fares.
func printStatus(out io.Writer, s preauth.Status, asJSON bool, on screen) error {
	if asJSON {
		_, err := fmt.Fprintf(out, "%s\n", s.Encode())
		return err
	}
	now := time.Now()
	rows := [][2]string{{"component", s.AppID}, {"state", on.state(printable(string(s.State)))}}
	row := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	if s.IssuedAt.IsZero() {
		row("code", "none yet")
	} else {
		row("code", "revision %d, made for: %s, at %s", s.Revision, printable(string(s.Cause)), s.IssuedAt.Format(time.RFC3339))
		row("expires", "%s", until(s.ExpiresAt, now))
	}
	if s.Spent {
		row("spent", "somebody authorized with the code")
	}
	row("next work", "%s", until(s.DueAt, now))
	row("token expires", "%s", until(s.TokenExpiresAt, now))
	row("spares", "%d", s.Spares)
	row("quota", "%s", quotaOf(s.Quota))
	if f := s.Failure; f != nil {
		row("failure", "%s, attempt %d, %s", reasonOf(f), s.Attempts, until(f.OccurredAt, now))
		row("", "%s", printable(f.ErrMsg))
		row("what to do", "%s", printable(s.Advice))
	}
	list(out, on, rows)
	return nil
}

// renewCommand has the service work on a component now.
type renewCommand struct {
	component
	client
}

// Run prints how the component fares with its new code, or says why there is none.
func (c renewCommand) Run(ctx context.Context, to app.Stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.do(ctx, func(s preauth.Subjects) string { return s.Renew }, func(ctx context.Context, s *session) error {
		status, err := s.Renew(ctx, c.Component)
		if err != nil {
			return err
		}
		return printStatus(to.Out, status, c.JSON, screenOf(to.Out))
	})
}
