package mysqlserver

import (
	"context"
	"errors"
	"os"
	"time"
)

// errLocked means that another process holds the lock.
var errLocked = errors.New("locked by another process")

// lockFile opens the file, made if missing, and waits for its lock, which lasts until the file is
// closed in every process that has it. Before the first wait it calls waiting, if not nil.
func lockFile(ctx context.Context, path string, waiting func()) (*os.File, error) {
	for {
		file, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return file, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
