package consumer

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"preauth/internal/outage"
	"preauth/repo"
)

// A database that passes the watch's check and does not take what a part writes is not ready, and its
// outage is one in the log. A part whose work another replica has done is ready again in time.
func TestHealthBelievesThePartsThatUseMySQL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		h := newHealth(outage.New(slog.New(slog.NewTextHandler(&out, nil)), mysqlPart, time.Now), mysqlPart)
		is := func(want string) {
			t.Helper()
			got := strings.ReplaceAll(fmt.Sprint(joined(h.notReady())), "\n", "; ")
			if got != want {
				t.Errorf("not ready: %s, want %s", got, want)
			}
		}
		locked := fmt.Errorf("%w: lock wait timeout", repo.ErrUnavailable)
		is("MySQL: has not started yet")
		h.set(mysqlPart, nil)
		is("<nil>")
		h.setUse("saving", locked)
		h.set(mysqlPart, nil) // the check passes
		is("MySQL: saving: database unavailable: lock wait timeout")
		h.setUse("reading components", nil)
		is("MySQL: saving: database unavailable: lock wait timeout")
		h.setUse("outbox", errors.New("SELECT command denied"))
		is("MySQL: saving: database unavailable: lock wait timeout; outbox: SELECT command denied")
		h.setUse("saving", nil)
		h.setUse("outbox", nil)
		is("<nil>")
		if away, back := strings.Count(out.String(), "MySQL away"), strings.Count(out.String(), "MySQL back"); away != 1 || back != 1 {
			t.Errorf("logged %d times away and %d times back:\n%s", away, back, out.String())
		}

		h.setUse("saving", errors.New("INSERT command denied"))
		h.setUse("reading components", locked)
		<-time.After(useStands)
		is("MySQL: reading components: database unavailable: lock wait timeout; saving: INSERT command denied")
		<-time.After(time.Second)
		is("<nil>")
	})
}
