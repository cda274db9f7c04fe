package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"preauth"
	"preauth/internal/app"
	"preauth/internal/pause"
)

// statusCommand shows how components and replicas fare.
type statusCommand struct {
	client

	Component string        `arg:"" optional:"" help:"The component_appid; without it, all components and replicas."`
	State     string        `name:"state" values:",valid,expiring,failing,no_token" placeholder:"STATE" help:"Show only components in this state: valid, expiring, failing or no_token."`
	Prefix    string        `name:"prefix" placeholder:"TEXT" help:"Show only components whose appid begins with this."`
	Watch     bool          `name:"watch" short:"w" help:"Show it again and again, until Ctrl-C."`
	Every     time.Duration `name:"every" default:"2s" range:"100ms..1h" help:"Time between two looks of --watch."`
}

// Run prints a table of components, or how one of them fares.
func (c statusCommand) Run(ctx context.Context, to app.Stdio) error {
	if c.Component != "" {
		if err := (component{c.Component}).check(); err != nil {
			return err
		}
		if c.State != "" || c.Prefix != "" {
			return app.UsageErrorf("--state and --prefix are about all components: leave out the component, or these flags")
		}
	}
	s, err := c.connect()
	if err != nil {
		return err
	}
	defer s.close()
	err = c.look(ctx, s, to)
	for c.Watch && pause.For(ctx, c.Every) {
		if err != nil { // the service may come back
			fmt.Fprintf(to.Err, "preauth: %v\n", err)
		}
		err = c.look(ctx, s, to)
	}
	if c.Watch && ctx.Err() != nil {
		return nil
	}
	return err
}

// look prints how things are now.
func (c statusCommand) look(ctx context.Context, s *session, to app.Stdio) error {
	var screen bytes.Buffer
	err := s.ask(ctx, c.Timeout, s.subjects.Status, func(ctx context.Context, s *session) error {
		return c.show(ctx, s, &screen, colorsOf(to.Out))
	})
	if err != nil {
		return err
	}
	if c.Watch && isTerminal(to.Out) && !c.JSON {
		fmt.Fprint(to.Out, "\x1b[H\x1b[2J")
	}
	_, err = screen.WriteTo(to.Out)
	return err
}

func (c statusCommand) show(ctx context.Context, s *session, out io.Writer, paint colors) error {
	if c.Component != "" {
		status, err := s.Status(ctx, c.Component)
		if err != nil {
			return err
		}
		return printStatus(out, status, c.JSON, paint)
	}
	request := preauth.StatusRequest{State: preauth.State(c.State), Prefix: c.Prefix}
	var all preauth.StatusPage
	for {
		page, err := s.StatusPage(ctx, request)
		if err != nil {
			return err
		}
		all.Summary = cmp.Or(all.Summary, page.Summary)
		all.Components = append(all.Components, page.Components...)
		if page.Next == "" {
			break
		}
		request.After = page.Next
	}
	replicas, err := s.Replicas(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printAllJSON(out, all, replicas)
	}
	printReplicas(out, replicas)
	if all.Summary != nil {
		printSummary(out, *all.Summary)
	}
	printTable(out, all.Components, paint)
	return nil
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

// age returns how long ago something was, short.
func age(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return now.Sub(at).Truncate(time.Second).String()
}

func printReplicas(out io.Writer, replicas []preauth.Replica) {
	now := time.Now()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "REPLICA\tVERSION\tUP\tREADY\tCODES\tTOKENS\tLAG\tQUOTA")
	for _, r := range replicas {
		ready := "yes"
		if !r.Ready {
			ready = "no"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", r.ID, r.Version, age(r.StartedAt, now), ready, r.Codes, r.Tokens, r.Lag, quotaOf(r.Quota))
	}
	table.Flush()
	for _, r := range replicas {
		for _, reason := range r.Reasons {
			fmt.Fprintf(out, "%s is not ready: %s\n", r.ID, printable(reason))
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

func printSummary(out io.Writer, s preauth.Summary) {
	now := time.Now()
	fmt.Fprintf(out, "%d components: %d valid, %d expiring, %d failing, %d without a token. %d spares. %d announcements wait",
		s.Components, s.Valid, s.Expiring, s.Failing, s.NoToken, s.Spares, s.Outbox)
	if !s.OutboxSince.IsZero() {
		fmt.Fprintf(out, ", the oldest for %s", age(s.OutboxSince, now))
	}
	fmt.Fprintf(out, ".\nThe first code expires %s, the first token %s.\n\n", until(s.CodeExpiresAt, now), until(s.TokenExpiresAt, now))
}

// in returns how long it is until then, short.
func in(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Sub(now).Truncate(time.Second).String()
}

func printTable(out io.Writer, components []preauth.Status, paint colors) {
	if len(components) == 0 {
		fmt.Fprintln(out, "No component matches.")
		return
	}
	now := time.Now()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "COMPONENT\t%s\tREVISION\tCODE EXPIRES IN\tNEXT WORK IN\tTOKEN EXPIRES IN\tSPARES\tFAILURE\n", paint.plain("STATE"))
	for _, s := range components {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%d\t%s\n", s.AppID, paint.state(s.State), s.Revision, in(s.ExpiresAt, now), in(s.DueAt, now),
			in(s.TokenExpiresAt, now), s.Spares, reasonOf(s.Failure))
	}
	table.Flush()
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
func printStatus(out io.Writer, s preauth.Status, asJSON bool, paint colors) error {
	if asJSON {
		_, err := fmt.Fprintf(out, "%s\n", s.Encode())
		return err
	}
	now := time.Now()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("component", "%s", s.AppID)
	row("state", "%s", paint.state(s.State))
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
	return table.Flush()
}

// printable replaces what a terminal would take for a command.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// colors are used on a terminal, unless NO_COLOR is set (https://no-color.org).
type colors bool

func colorsOf(out io.Writer) colors { return colors(os.Getenv("NO_COLOR") == "" && isTerminal(out)) }

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// plain is as long as a colored text, so that the columns of a table stay in line.
func (c colors) plain(text string) string { return c.paint("39", text) }

func (c colors) state(s preauth.State) string {
	color := map[preauth.State]string{
		preauth.StateValid: "32", preauth.StateExpiring: "33", preauth.StateFailing: "31", preauth.StateNoToken: "31",
	}[s]
	return c.paint(cmp.Or(color, "39"), printable(string(s)))
}

func (c colors) paint(color, text string) string {
	if !c {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
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
		return printStatus(to.Out, status, c.JSON, colorsOf(to.Out))
	})
}
