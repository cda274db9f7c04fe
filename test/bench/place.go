package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"preauth"
	"preauth/internal/database"
	"preauth/internal/loopback"
	"preauth/repo"
)

// The names of the contract.
const (
	tokenStream    = "COMPONENT_TOKENS"
	updateStream   = "PREAUTH"
	tokenSubject   = "component.token.updated"
	updatedSubject = "preauth.updated"
	lookupSubject  = "preauth.lookup"
	claimSubject   = "preauth.claim"
)

// form is one of the two forms of the subject on which tokens are announced.
type form struct {
	name    string
	subject func(appid string) string
}

var forms = []form{
	{"flat subject", func(string) string { return tokenSubject }},
	{"subject with appid", func(appid string) string { return tokenSubject + "." + appid }},
}

// place is what one program works with: a NATS account and a database of its own. So several
// programs can run at the same time on the same subjects, streams and tables.
type place struct {
	*rig
	natsURL, dsn string
	nc           *nats.Conn
	js           jetstream.JetStream
	db           *sql.DB
	repo         *repo.Repo
}

// place returns the place of a name.
func (r *rig) place(ctx context.Context, name string) (_ *place, err error) {
	if p := r.places[name]; p != nil {
		return p, nil
	}
	i := len(r.places)
	if i == maxPlaces {
		return nil, errors.New("too many programs: raise maxPlaces")
	}
	p := &place{rig: r, natsURL: r.urlOf(i)}
	r.places[name] = p
	if p.nc, err = nats.Connect(p.natsURL, nats.MaxReconnects(-1)); err != nil {
		return nil, err
	}
	if p.js, err = jetstream.New(p.nc, jetstream.WithPublishAsyncMaxPending(4096)); err != nil {
		return nil, err
	}
	own := fmt.Sprintf("preauth_%d", i)
	if err := r.mysql.CreateDatabase(ctx, own); err != nil {
		return nil, err
	}
	p.dsn = r.mysql.DSN(own)
	connector, err := database.Connector(p.dsn)
	if err != nil {
		return nil, err
	}
	p.db = sql.OpenDB(connector)
	p.db.SetConnMaxIdleTime(idleTime)
	if p.repo, err = repo.Open(p.dsn, 4); err != nil {
		return nil, err
	}
	return p, p.repo.ApplySchema(ctx)
}

func (p *place) close() error {
	var errs []error
	if p.nc != nil {
		p.nc.Close()
	}
	if p.db != nil {
		errs = append(errs, p.db.Close())
	}
	if p.repo != nil {
		errs = append(errs, p.repo.Close())
	}
	return errors.Join(errs...)
}

// environment tells a program where things are, in the variables of preauth.
func (p *place) environment() []string {
	return []string{
		"NATS_URL=" + p.natsURL, "MYSQL_DSN=" + p.dsn, "PREAUTH_WECHAT_URL=" + p.wechatURL,
		"MYSQL_CONNECTIONS=" + strconv.Itoa(connections),
	}
}

// recreateTokens gives the next program an empty token stream, as preauth would create it.
func (p *place) recreateTokens(ctx context.Context) error {
	if err := p.js.DeleteStream(ctx, tokenStream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	_, err := p.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: tokenStream, Subjects: []string{tokenSubject, tokenSubject + ".>"},
		Storage: jetstream.FileStorage, MaxAge: preauth.DefaultTokenLife, Duplicates: 2 * time.Minute, AllowAtomicPublish: true,
	})
	return err
}

// seed leaves the database and the streams as after one event of each of n components: each has a
// current code, announced, that lives for a day.
func (p *place) seed(ctx context.Context, n int) error {
	for _, table := range []string{"component", "pre_auth_code", "outbox"} {
		if _, err := p.db.ExecContext(ctx, "TRUNCATE TABLE "+table); err != nil {
			return err
		}
	}
	if err := p.js.DeleteStream(ctx, updateStream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	_, err := p.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: updateStream, Subjects: []string{updatedSubject + ".*"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, FirstSeq: uint64(now.UnixMicro()), AllowDirect: true, Duplicates: 2 * time.Minute,
		RePublish: &jetstream.RePublish{Source: updatedSubject + ".*", Destination: updatedSubject},
		// For revisions that publish batches. Others do not care.
		AllowAtomicPublish: len(p.versions) > 1,
	})
	if err != nil {
		return err
	}
	const batch = 100
	for first := 0; first < n; first += batch {
		var outcomes []repo.Outcome
		for i := first; i < min(n, first+batch); i++ {
			outcomes = append(outcomes, repo.Outcome{
				AppID: appID(i), Cause: preauth.CauseToken, At: now, DueAt: now.Add(23 * time.Hour),
				Token: repo.Token{
					Position:  repo.Position{Stream: tokenStream, StreamCreated: now, Sequence: uint64(i + 1), Time: now},
					ExpiresAt: now.Add(2 * time.Hour), Fingerprint: repo.FingerprintOf(preauth.NewSecret(appID(i))),
				},
				Code: &repo.Code{PreAuthCode: newCode(), IssuedAt: now, ExpiresAt: now.Add(24 * time.Hour)},
			})
		}
		results, err := p.repo.Save(ctx, outcomes)
		if err != nil {
			return err
		}
		for _, result := range results {
			u := result.Announcement.Update
			msg := &nats.Msg{Subject: updatedSubject + "." + u.AppID, Header: u.Header("/bench"), Data: u.Encode()}
			if _, err := p.js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
				return err
			}
		}
	}
	if err := p.published(ctx); err != nil {
		return err
	}
	_, err = p.db.ExecContext(ctx, "TRUNCATE TABLE outbox")
	return err
}

// store stores n token events in the stream, the i-th of component of(i).
func (p *place) store(ctx context.Context, f form, n int, of func(i int) int) error {
	events := newTokens()
	for i := range n {
		component := of(i)
		if _, err := p.js.PublishAsync(f.subject(appID(component)), events.next(component), jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	return p.published(ctx)
}

// published waits until the streams have answered all that was published.
func (p *place) published(ctx context.Context) error {
	select {
	case <-p.js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// addSpares adds n spares, to all components alike.
func (p *place) addSpares(ctx context.Context, components, n int) error {
	now := time.Now()
	var spares []repo.Spare
	for i := range n {
		spares = append(spares, repo.Spare{
			AppID: appID(i % components), Fingerprint: repo.FingerprintOf(preauth.NewSecret("any")),
			Code: repo.Code{PreAuthCode: newCode(), IssuedAt: now, ExpiresAt: now.Add(12 * time.Hour).Add(time.Duration(i) * time.Microsecond)},
		})
	}
	return p.repo.AddSpares(ctx, spares)
}

// appID returns the component_appid of component i.
func appID(i int) string { return fmt.Sprintf("wx%016d", i) }

// appIDs returns the subjects below a base of the first n components.
func subjectsOf(base string, n int) []string {
	subjects := make([]string, n)
	for i := range subjects {
		subjects[i] = base + "." + appID(i)
	}
	return subjects
}

// newCode returns a code as long as WeChat's.
func newCode() preauth.Secret {
	return preauth.NewSecret("preauthcode@@@" + (rand.Text() + rand.Text() + rand.Text() + rand.Text())[:86])
}

// tokens makes the bodies of token events, each with a token of its own that is as long as
// WeChat's.
type tokens struct {
	random string
	n      int
}

func newTokens() *tokens { return &tokens{random: strings.Repeat(rand.Text(), 6)[:130]} }

// next returns the body of the next event, of component i.
func (t *tokens) next(i int) []byte {
	t.n++
	body := make([]byte, 0, 256)
	body = append(body, `{"component_appid":"`...)
	body = append(body, appID(i)...)
	body = append(body, `","component_access_token":"61_`...)
	body = append(body, t.random...)
	body = strconv.AppendInt(body, int64(t.n), 10)
	return append(body, `","expires_in":7200}`...)
}

// program is one of the programs that are compared, while it runs.
type program struct {
	*process
	*place
	admin string // where its metrics and profiles are
}

// startPreauth starts a version of the service as an operator would, with settings in variables,
// and returns when it is ready.
func (p *place) startPreauth(ctx context.Context, v version, variables ...string) (*program, error) {
	admin, _, err := loopback.Address("")
	if err != nil {
		return nil, err
	}
	environment := append(p.environment(), "PREAUTH_ADMIN_LISTEN="+admin)
	started, err := start(p.dir, "preauth", append(environment, variables...), v.binary, "serve")
	if err != nil {
		return nil, err
	}
	err = eventually(ctx, startLimit, func() error {
		if started.ended() {
			return nil
		}
		_, err := get(ctx, "http://"+admin+"/readyz")
		return err
	})
	if started.ended() {
		return nil, started.failure()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not ready: %w", v.name, err), started.stop(), started.failure())
	}
	return &program{process: started, place: p, admin: admin}, nil
}

// startLimit bounds the time that a program may take to be ready.
const startLimit = 10 * time.Minute

// startYardstick starts another program and returns when it is ready.
func (p *place) startYardstick(ctx context.Context, name string, args ...string) (*program, error) {
	started, err := p.startOwn(name, p.environment(), args...)
	if err != nil {
		return nil, err
	}
	admin, err := started.await(ctx, readyLine)
	if err != nil {
		return nil, errors.Join(err, started.stop())
	}
	return &program{process: started, place: p, admin: admin}, nil
}

// metric returns the sum of the samples of one of preauth's metrics, over all labels.
func (p *program) metric(ctx context.Context, name string) (float64, error) {
	text, err := get(ctx, "http://"+p.admin+"/metrics")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			fields := strings.Fields(line)
			value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				return 0, err
			}
			sum += value
		}
	}
	return sum, nil
}

// inside says what preauth's own metrics tell of its work so far: the mean times of its parts, and
// how many outcomes one transaction saved.
func (p *program) inside(ctx context.Context) string {
	mean := func(name string) float64 {
		sum, _ := p.metric(ctx, name+"_sum")
		count, _ := p.metric(ctx, name+"_count")
		return sum / max(count, 1)
	}
	const ms = 1000
	return fmt.Sprintf("call of WeChat %.2f ms, transaction %.2f ms with %.1f outcomes, publish %.2f ms",
		mean("preauth_wechat_call_duration_seconds")*ms, mean("preauth_transaction_duration_seconds")*ms,
		mean("preauth_transaction_outcomes"), mean("preauth_publish_duration_seconds")*ms)
}
