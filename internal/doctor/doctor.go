// Package doctor finds what is wrong with everything that a service needs, before and after a
// start, and says what to change. It changes nothing: it makes no stream, keeps no row, and no
// message of it reaches a client of the service.
package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"preauth/consumer"
	"preauth/repo"
	"preauth/wechat"
)

// Result is how a check ended.
type Result string

// The results.
const (
	OK      Result = "ok"
	Warning Result = "warning" // the service works, and something can go wrong
	Problem Result = "problem" // the service does not work, or not all of it
	Skipped Result = "skipped" // it could not be checked
)

// Finding is what one check found.
type Finding struct {
	Group  string `json:"group"`
	Check  string `json:"check"`
	Result Result `json:"result"`
	// Found says what was found, or why it was not checked.
	Found string `json:"found"`
	// Do says what to change. It is "" if nothing has to be.
	Do string `json:"do,omitempty"`
}

// Patient is the service that is examined, as its settings describe it.
type Patient struct {
	Config consumer.Config
	NATS   nats.Options
	DB     *repo.Repo
	// Database is where the database is, as host:port/name.
	Database string
	// Connections is how many connections to it a replica uses at most.
	Connections int
	WeChat      *wechat.Client
	// CallTimeout bounds one call to one host of WeChat.
	CallTimeout time.Duration
	// Proxy is the proxy of calls to WeChat, "" if there is none.
	Proxy string
}

// limit bounds each check.
const limit = 10 * time.Second

// Examine makes all checks and reports each finding as soon as it is there. It returns when ctx
// ends, too; checks that this cuts short are reported as problems.
func Examine(ctx context.Context, p Patient, report func(Finding)) {
	e := &examination{Patient: p, report: report}
	defer e.close()
	e.examineSettings(ctx)
	e.examineNATS(ctx)
	e.examineJetStream(ctx)
	e.examineMySQL(ctx)
	e.examineWeChat(ctx)
	e.examineClocks()
	e.examineService(ctx)
}

// examination is one run over a patient, with what earlier checks found out for later ones.
type examination struct {
	Patient

	report func(Finding)
	group  string

	nats    *connection // nil if there is none
	hears   bool        // replies on it
	streams []found     // those that are there or can be created
	jsWorks bool
	account string
	clocks  []clock
}

// verdict is what a check found, without its name.
type verdict struct {
	result    Result
	found, do string
}

func ok(found string) verdict          { return verdict{OK, found, ""} }
func warning(found, do string) verdict { return verdict{Warning, found, do} }
func problem(found, do string) verdict { return verdict{Problem, found, do} }
func skipped(found string) verdict     { return verdict{Skipped, found, ""} }

// fault is a problem of what the service cannot do without, and a warning otherwise.
func fault(needed bool, found, do string) verdict {
	if needed {
		return problem(found, do)
	}
	return warning(found, do)
}

// check makes one check of the current group within its time limit, and reports what it found.
func (e *examination) check(ctx context.Context, name string, look func(ctx context.Context) verdict) verdict {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v := look(ctx)
	e.report(Finding{e.group, name, v.result, v.found, v.do})
	return v
}

// skip reports checks that cannot be made.
func (e *examination) skip(why string, names ...string) {
	for _, name := range names {
		e.report(Finding{e.group, name, Skipped, why, ""})
	}
}

func (e *examination) close() {
	if e.nats != nil {
		e.nats.close()
	}
}

// examineSettings looks for settings that are possible, and work against one another.
func (e *examination) examineSettings(ctx context.Context) {
	e.group = "settings"
	e.check(ctx, "time limits", func(context.Context) verdict {
		if e.CallTimeout >= e.Config.RequestTimeout {
			return warning(fmt.Sprintf("one call to WeChat may take %v, and a request %v", e.CallTimeout, e.Config.RequestTimeout),
				"set --wechat-timeout ($PREAUTH_WECHAT_TIMEOUT) below --request-timeout ($PREAUTH_REQUEST_TIMEOUT): "+
					"a look-up that waits has no time for the next host")
		}
		return ok("")
	})
}

// list joins names for a sentence.
func list(names []string) string { return strings.Join(names, ", ") }
