//go:build !unix

package scratch

import (
	"errors"
	"os"
)

func tryLock(path string) (*os.File, error) {
	return nil, &os.PathError{Op: "lock", Path: path, Err: errors.ErrUnsupported}
}
