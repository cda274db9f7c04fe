package system

import (
	"math/rand/v2"
	"os"

	"preauth/test/chaos/forgetful"
)

// disk is a file system of one server that forgets at a power cut what was not synced.
type disk struct {
	*forgetful.FS
	unmount func() error
}

// mountDisk creates dir and mounts a new disk on it.
func mountDisk(dir string) (*disk, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	d := &disk{FS: forgetful.New(false)}
	var err error
	d.unmount, err = d.Mount(dir)
	return d, err
}

// Cut cuts the power of a server: it is killed, and its disk forgets as rng says, or everything that
// was not synced if that is nil. [NATS.Restart] starts it again.
func (n *NATS) Cut(i int, rng *rand.Rand) {
	n.Kill(i)
	n.servers[i].disk.Cut(rng)
}

// Cut cuts the power of the server: it is killed, and its disk forgets as rng says, or everything
// that was not synced if that is nil. Restart starts it again.
func (m *MySQL) Cut(rng *rand.Rand) error {
	if err := m.Kill(); err != nil {
		return err
	}
	m.disk.Cut(rng)
	return nil
}
