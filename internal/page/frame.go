package page

import (
	"context"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"preauth"
)

// frame is what the templates show.
type frame struct {
	*locale
	Now   time.Time
	Title string
	// Refusal says why there is nothing else.
	Refusal string

	// Away is why MySQL cannot be read. AsOf is then when it was, zero for never.
	Away error
	AsOf time.Time

	Summary  preauth.Summary
	Request  preauth.StatusRequest
	Sections []section
	Subjects preauth.Subjects
	// Component is the one whose page it is, and AppID its name even if nothing else is known.
	AppID     string
	Component component

	// Replica is this one, and Replicas all that answer. Unknown is why the others are not known.
	Replica  preauth.Replica
	Replicas []preauth.Replica
	Unknown  error
	Events   []announcement
	// Unheard are the subjects of announcements that this replica may not hear.
	Unheard []string

	// query is what the links of this page carry on.
	query url.Values
	path  string
}

// section is the components in one state.
type section struct {
	State      preauth.State
	Count      int // of all in the state; 0 if the components are some by their prefix
	Components []preauth.Status
	// More is the query of the link to those that follow, "" if there are none.
	More template.URL
	// Whole means that More begins again, with all in the state.
	Whole bool
}

const (
	// perPage bounds the components in a table, and perTrouble those in a table above others.
	perPage, perTrouble = 100, 20
)

// shown is the order of the states: what needs people is first.
var shown = []preauth.State{preauth.StateFailing, preauth.StateNoToken, preauth.StateExpiring, preauth.StateValid}

func newFrame(r *http.Request, now time.Time) *frame {
	f := &frame{locale: localeOf(r), Now: now, path: r.URL.Path, query: url.Values{}}
	if lang := r.URL.Query().Get("lang"); lang == f.Name {
		f.query.Set("lang", lang)
	}
	return f
}

// overview fills in the page of all components.
func (p *Page) overview(ctx context.Context, f *frame, request preauth.StatusRequest) {
	f.Request, f.Subjects = request, p.source.Subjects
	f.Summary, f.AsOf, f.Away = p.summary(ctx)
	f.Replica = p.source.Replica()
	f.Replicas, f.Unknown = p.replicas.latest()
	f.Events, f.Unheard = p.events.latest("")
	f.Title = f.text("title")
	switch s := f.Summary; {
	case s.Failing > 0:
		f.Title = f.text("title.failing", s.Failing) + " · " + f.Title
	case s.NoToken+s.Expiring > 0:
		f.Title = f.text("title.trouble", s.NoToken+s.Expiring) + " · " + f.Title
	}
	for _, state := range shown {
		if request.State != "" && request.State != state || f.Count(state) == 0 {
			continue
		}
		if s := p.section(ctx, f, state); len(s.Components) > 0 {
			f.Sections = append(f.Sections, s)
		}
	}
}

// section returns the components in a state that the page shows.
func (p *Page) section(ctx context.Context, f *frame, state preauth.State) section {
	s, limit := section{State: state}, perPage
	if f.Request.State == "" && state != preauth.StateValid {
		limit, s.Whole = perTrouble, true
	}
	request := preauth.StatusRequest{State: state, Prefix: f.Request.Prefix, After: f.Request.After}
	var err error
	what := string(request.Encode())
	if s.Whole {
		what += " above others"
	}
	s.Components, _, err = read(ctx, p.reads, what, func(ctx context.Context) ([]preauth.Status, error) {
		return p.source.Statuses(ctx, request, limit)
	})
	if err != nil {
		f.Away = err
	}
	if request.Prefix == "" {
		s.Count = f.Count(state)
	}
	if len(s.Components) == limit {
		after := s.Components[limit-1].AppID
		if s.Whole {
			after = ""
		}
		s.More = f.link(state, request.Prefix, after)
	}
	return s
}

// link returns a link to components, in the language of this page if that was chosen.
func (f *frame) link(state preauth.State, prefix, after string) template.URL {
	return linked("/", f.query, preauth.StatusRequest{State: state, Prefix: prefix, After: after})
}

// linked returns a link with what a request asks for.
func linked(path string, query url.Values, request preauth.StatusRequest) template.URL {
	query = maps.Clone(query)
	for name, value := range map[string]string{"state": string(request.State), "prefix": request.Prefix, "after": request.After} {
		if value != "" {
			query.Set(name, value)
		}
	}
	link := url.URL{Path: path, RawQuery: query.Encode()}
	return template.URL(link.String()) //nolint:gosec // it is made of encoded values
}

// Home returns the link to all components.
func (f *frame) Home() template.URL { return f.link("", "", "") }

// To returns the link to the components in a state.
func (f *frame) To(state preauth.State) template.URL { return f.link(state, "", "") }

// First returns the link to the first page of what this one goes on with.
func (f *frame) First() template.URL { return f.link(f.Request.State, f.Request.Prefix, "") }

// Page returns the link to a component.
func (f *frame) Page(appid string) template.URL {
	return linked("/components/"+appid, f.query, preauth.StatusRequest{})
}

// Locales returns the languages.
func (f *frame) Locales() []*locale { return locales }

// In returns the link to the same in another language.
func (f *frame) In(l *locale) template.URL {
	return linked(f.path, url.Values{"lang": {l.Name}}, f.Request)
}

// Chosen returns the language that the links of the page carry on, "" for the browser's.
func (f *frame) Chosen() string { return f.query.Get("lang") }

// States returns the states in the order in which they are shown.
func (f *frame) States() []preauth.State { return shown }

// Count returns how many components are in a state.
func (f *frame) Count(state preauth.State) int {
	switch state {
	case preauth.StateValid:
		return f.Summary.Valid
	case preauth.StateExpiring:
		return f.Summary.Expiring
	case preauth.StateFailing:
		return f.Summary.Failing
	default:
		return f.Summary.NoToken
	}
}

// Worst returns the state of all components together: the first that any of them is in. It is "" if
// that is not known.
func (f *frame) Worst() preauth.State {
	if f.AsOf.IsZero() || f.Away != nil {
		return ""
	}
	for _, state := range shown {
		if f.Count(state) > 0 {
			return state
		}
	}
	return preauth.StateValid
}

// Headline says in a few words how all components fare.
func (f *frame) Headline() string {
	switch worst := f.Worst(); {
	case worst == "":
		return f.text("headline.unknown")
	case f.Summary.Components == 0:
		return f.text("headline.none")
	case worst == preauth.StateValid:
		return f.text("headline.valid")
	case f.Count(worst) == 1:
		return f.text("headline.one."+string(worst), f.Summary.Components)
	default:
		return f.text("headline."+string(worst), f.Count(worst), f.Summary.Components)
	}
}

// Quota returns the smallest part that is left of a quota, of those that any replica knows.
func (f *frame) Quota() *preauth.Quota {
	var least *preauth.Quota
	for _, replica := range append(slices.Clone(f.Replicas), f.Replica) {
		if q := replica.Quota; q != nil && (least == nil || q.Remaining*least.Limit < least.Remaining*q.Limit) {
			least = q
		}
	}
	return least
}

// Others returns the replicas but this one.
func (f *frame) Others() []preauth.Replica {
	return slices.DeleteFunc(slices.Clone(f.Replicas), func(r preauth.Replica) bool { return r.ID == f.Replica.ID })
}

// Advice says what a failure asks for. No failure at all is what a token has that was good until it
// expired.
func (f *frame) Advice(failure *preauth.Failure) string {
	if failure == nil {
		return f.advice(preauth.ClassTokenExpired)
	}
	advice := f.advice(failure.Class)
	if failure.RequestIP != "" {
		advice = strings.Replace(advice, "request_ip", failure.RequestIP, 1)
	}
	return advice
}

// instant is a time that the page shows. With a script, the page counts down to it, or up from it.
type instant struct {
	ISO, Exact, Text string
	Since            bool // it counts up
}

// Until returns a time that is to come.
func (f *frame) Until(at time.Time) instant {
	return instant{ISO: at.UTC().Format(iso), Exact: f.Exact(at), Text: f.clock(at)}
}

// Ago returns a time that is over.
func (f *frame) Ago(at time.Time) instant {
	ago := f.Until(at)
	ago.Since = true
	return ago
}

// iso is how browsers read a time.
const iso = "2006-01-02T15:04:05.000Z"

// clock returns a time of today without its date.
func (f *frame) clock(at time.Time) string {
	at, now := at.UTC(), f.Now.UTC()
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format("15:04:05")
	}
	return at.Format("2006-01-02 15:04")
}

// Exact returns a time with its date.
func (f *frame) Exact(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

// ISO returns a time as browsers read it.
func (f *frame) ISO(at time.Time) string { return at.UTC().Format(iso) }

// shownCode is the code of a component as tables show it.
type shownCode struct {
	None, Spent bool
	Until       instant
	From        string // when its life began, as browsers read it
	Percent     int    // of its life that is left
}

// Code returns the code of a component.
func (f *frame) Code(s preauth.Status) shownCode {
	code := shownCode{None: s.ExpiresAt.IsZero(), Spent: s.Spent, Until: f.Until(s.ExpiresAt), From: f.ISO(s.IssuedAt)}
	if life := s.ExpiresAt.Sub(s.IssuedAt); life > 0 {
		code.Percent = int(100 * min(max(s.ExpiresAt.Sub(f.Now), 0), life) / life)
	}
	return code
}

// table is a section with what its table needs of the page.
type table struct {
	*frame
	section
}

// Rows returns the table of a section.
func (f *frame) Rows(s section) table { return table{f, s} }

// shownReplica is a replica as the page shows it.
type shownReplica struct {
	preauth.Replica
	Here  bool   // the one that serves the page
	Short string // the end of its ID, which tells replicas apart
	Up    instant
}

// Here returns the replica that serves the page.
func (f *frame) Here(r preauth.Replica) shownReplica {
	shown := f.There(r)
	shown.Here = true
	return shown
}

// There returns another replica.
func (f *frame) There(r preauth.Replica) shownReplica {
	return shownReplica{Replica: r, Short: r.ID[max(0, len(r.ID)-6):], Up: f.Ago(r.StartedAt)}
}
