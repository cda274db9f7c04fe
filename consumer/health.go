package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"preauth/internal/database"
	"preauth/internal/outage"
	"preauth/internal/pause"
	"preauth/internal/stream"
	"preauth/repo"
)

// health knows why the service is not ready: a reason for each part that does not do its work.
type health struct {
	mysql *outage.Log

	mu      sync.Mutex
	reasons map[string]error
	// uses are the last errors of parts that use MySQL.
	uses map[string]use
}

// use is an error of a part that uses MySQL. Another replica may do next what this one could not,
// so the error counts for useStands only, unless the part fails again.
type use struct {
	err error
	at  time.Time
}

// useStands is longer than a part waits before it tries again.
const useStands = 30 * time.Second

// newHealth returns a health in which each of the parts has yet to begin.
func newHealth(mysql *outage.Log, parts ...string) *health {
	h := &health{mysql: mysql, reasons: map[string]error{}, uses: map[string]use{}}
	for _, part := range parts {
		h.reasons[part] = errNotStarted
	}
	return h
}

var errNotStarted = errors.New("has not started yet")

// mysqlPart names the database in a health.
const mysqlPart = "MySQL"

// set notes how a part fares; nil means that it works. A cancelled context says nothing of the
// part.
func (h *health) set(part string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.reasons, part)
	} else {
		h.reasons[part] = err
	}
	if part == mysqlPart {
		h.logMySQL()
	}
}

// setUse notes how a part fares that uses MySQL.
func (h *health) setUse(part string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.uses, part)
	} else {
		h.uses[part] = use{err, time.Now()}
	}
	h.logMySQL()
}

// logMySQL logs that MySQL is away, or back. It is away if the watch says so, and also if it takes
// the watch's statements and not those of some part. The caller holds mu.
func (h *health) logMySQL() {
	away := h.reasons[mysqlPart]
	if away == nil {
		away = h.usesOfMySQL()
	}
	switch {
	case away == nil:
		h.mysql.Back()
	case !errors.Is(away, errNotStarted):
		h.mysql.Away(away)
	}
}

// usesOfMySQL returns the errors of parts for which MySQL is away, and forgets old ones of all
// parts. The caller holds mu.
func (h *health) usesOfMySQL() error {
	var away []error
	for _, part := range slices.Sorted(maps.Keys(h.uses)) {
		switch u := h.uses[part]; {
		case time.Since(u.at) > useStands:
			delete(h.uses, part)
		case errors.Is(u.err, repo.ErrUnavailable):
			away = append(away, fmt.Errorf("%s: %w", part, u.err))
		}
	}
	return errors.Join(away...)
}

// levelOf returns the level at which a failure is logged: that MySQL is away is logged once for
// all.
func levelOf(err error) slog.Level {
	if errors.Is(err, repo.ErrUnavailable) || errors.Is(err, context.Canceled) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// notReady returns the reasons why the service is not ready, sorted by part.
func (h *health) notReady() []reason {
	h.mu.Lock()
	defer h.mu.Unlock()
	reasons := maps.Clone(h.reasons)
	if away := h.usesOfMySQL(); away != nil && reasons[mysqlPart] == nil {
		reasons[mysqlPart] = away
	}
	for part, u := range h.uses {
		if !errors.Is(u.err, repo.ErrUnavailable) {
			reasons[part] = u.err
		}
	}
	var sorted []reason
	for _, part := range slices.Sorted(maps.Keys(reasons)) {
		sorted = append(sorted, reason{part, reasons[part]})
	}
	return sorted
}

// untilAvailable repeats a call of package repo for as long as MySQL is away. It returns the call's
// other errors, and the error of ctx once that has ended. The health learns how the part fares.
func untilAvailable(ctx context.Context, health *health, part string, call func(context.Context) error) error {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 50*time.Millisecond, time.Second
	for {
		err := call(ctx)
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		health.setUse(part, err)
		if !errors.Is(err, repo.ErrUnavailable) {
			return err
		}
		if !pause.For(ctx, retry.NextBackOff()) {
			return ctx.Err()
		}
	}
}

// watchEvery is how often a watch looks, and lookTimeout bounds one look.
const watchEvery, lookTimeout = 2 * time.Second, 5 * time.Second

// watch looks at something outside from time to time, until ctx ends. Each look has its own time
// limit, so that one that hangs delays nothing else.
func watch(ctx context.Context, look func(context.Context)) {
	for {
		lookCtx, cancel := context.WithTimeout(ctx, lookTimeout)
		look(lookCtx)
		cancel()
		if !pause.For(ctx, pause.Jittered(watchEvery)) {
			return
		}
	}
}

// mysqlWatch looks at MySQL and at the outbox, and from time to time at all components.
type mysqlWatch struct {
	db     *repo.Repo
	health *health
	log    *slog.Logger
	now    func() time.Time
	every  time.Duration // for the census, which reads all components, and the settings

	mu       sync.Mutex
	rows     int
	oldest   time.Time
	census   repo.Census
	warnings []database.Warning
	counted  time.Time // when census and warnings were taken
}

func (w *mysqlWatch) look(ctx context.Context) {
	err := w.db.Check(ctx)
	w.health.set(mysqlPart, err)
	if err != nil {
		w.mu.Lock()
		w.rows, w.oldest = 0, time.Time{} // a row that cannot be seen would seem to wait ever longer
		w.mu.Unlock()
		return
	}
	rows, oldest, err := w.db.OutboxDepth(ctx)
	if err != nil {
		return
	}
	w.mu.Lock()
	w.rows, w.oldest = rows, oldest
	due := time.Since(w.counted) >= w.every
	w.mu.Unlock()
	if !due {
		return
	}
	census, err := w.db.Census(ctx, w.now())
	if err != nil {
		return
	}
	warnings, err := w.db.Durability(ctx)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, warning := range warnings {
		if !slices.Contains(w.warnings, warning) {
			w.log.Warn("MySQL can lose a commit that it acknowledged", "setting", warning.Setting, "value", warning.Value, "advice", warning.Advice)
		}
	}
	w.census, w.warnings, w.counted = census, warnings, time.Now()
}

// figures returns what was seen at the last look. warnings counts the settings with which MySQL can
// lose a commit.
func (w *mysqlWatch) figures() (outboxRows int, oldest time.Time, census repo.Census, warnings int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rows, w.oldest, w.census, len(w.warnings)
}

// progressWatch finds a service that is up and gets nothing done.
type progressWatch struct {
	part   string // in the health
	health *health
	now    func() time.Time
	stall  time.Duration
	// ask returns the present progress.
	ask func(context.Context) (stream.Progress, error)

	mu       sync.Mutex
	last     stream.Progress
	lastDone time.Time
}

func newProgressWatch(
	part string, h *health, now func() time.Time, stall time.Duration, ask func(context.Context) (stream.Progress, error),
) *progressWatch {
	return &progressWatch{part: part, health: h, now: now, stall: stall, ask: ask, lastDone: now()}
}

func (w *progressWatch) look(ctx context.Context) {
	state, err := w.ask(ctx)
	now := w.now()
	w.mu.Lock()
	if err == nil {
		if state.Waiting() == 0 || state.Floor != w.last.Floor || state.Waiting() < w.last.Waiting() {
			w.lastDone = now
		}
		w.last = state
	}
	idle := now.Sub(w.lastDone)
	w.mu.Unlock()
	switch {
	case idle <= w.stall:
		err = nil
	case err != nil:
		err = fmt.Errorf("not known for %v: %w", idle.Truncate(time.Second), err)
	default:
		err = fmt.Errorf("%d events wait and none was finished for %v", state.Waiting(), idle.Truncate(time.Second))
	}
	w.health.set(w.part, err)
}

// latest returns the progress as of the last look.
func (w *progressWatch) latest() stream.Progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// readinessWatch logs that the service is ready, or why it is not, whenever that changes.
type readinessWatch struct {
	log   *slog.Logger
	ready func() []reason

	started time.Time
	parts   string // those that kept the service from being ready at the last look
	begun   bool   // a first line was logged
}

// startPatience is how long the service may take to become ready before it is said why it is not.
const startPatience = 5 * time.Second

func (w *readinessWatch) look(context.Context) {
	reasons := w.ready()
	var parts []string
	for _, r := range reasons {
		parts = append(parts, r.part)
	}
	now := strings.Join(parts, ", ")
	switch {
	case w.begun && now == w.parts, len(reasons) > 0 && !w.begun && time.Since(w.started) < startPatience:
		return
	case len(reasons) == 0:
		w.log.Info("ready")
	default:
		w.log.Warn("not ready", "reason", joined(reasons))
	}
	w.parts, w.begun = now, true
}

// reason is why a part does not do its work.
type reason struct {
	part string
	err  error
}

func joined(reasons []reason) error {
	errs := make([]error, len(reasons))
	for i, r := range reasons {
		errs[i] = fmt.Errorf("%s: %w", r.part, r.err)
	}
	return errors.Join(errs...)
}
