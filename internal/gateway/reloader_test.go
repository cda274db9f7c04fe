package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"preauth/internal/gateway"
)

// patience is how long a test waits for what has to happen. No machine is too slow for it.
const patience = 2 * time.Minute

// A file that changes is read again. While it is broken, what it said before stays, and the log says
// so.
func TestFilesAreReadAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parse := func(contents [][]byte) (string, error) {
		if text := string(contents[0]); text != "broken" {
			return text, nil
		}
		return "", errors.New("nobody can read this")
	}
	if _, err := gateway.NewReloader(parse, name); err == nil || strings.Contains(err.Error(), name) {
		t.Fatalf("a file that is not there: %v", err)
	}
	write("first")
	files, err := gateway.NewReloader(parse, name)
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { files.Watch(ctx, slog.New(slog.NewTextHandler(&log, nil)), "tokens file") })
	await := func(what string, condition func() bool) {
		t.Helper()
		deadline, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
		defer tick.Stop()
		for !condition() {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("never came true: %s\n%s", what, log.String())
			}
		}
	}
	write("second")
	await("it is read again", func() bool { return files.Current() == "second" && !files.Broken() })
	write("broken")
	await("it is broken", files.Broken)
	if files.Current() != "second" || !strings.Contains(log.String(), `level=ERROR msg="tokens file not read again: the old one stays" error="nobody can read this"`) {
		t.Errorf("the file says %q, and the log\n%s", files.Current(), log.String())
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	await("it is gone", func() bool { return strings.Contains(log.String(), "no such file") })
	write("second") // as it was before
	await("the log says that it is mended", func() bool { return strings.Count(log.String(), `msg="tokens file read again"`) == 2 })
	write("third")
	await("it is mended", func() bool { return files.Current() == "third" && !files.Broken() })
	cancel()
	watching.Wait()
	if strings.Contains(log.String(), name) {
		t.Errorf("the log names the file:\n%s", log.String())
	}
}

// lockedBuffer is a log that several goroutines use.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
