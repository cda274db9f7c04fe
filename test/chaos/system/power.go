package system

import (
	"errors"
	"os"

	"preauth/test/chaos/forgetful"
)

// Cut cuts the power of a server: it is killed, and its disk forgets all or a part of what was not
// synced: see [forgetful.FS.Cut]. [NATS.Restart] starts it again.
func (n *NATS) Cut(i int, seed uint64) (lost int, err error) {
	n.Kill(i)
	return n.servers[i].disk.Cut(seed)
}

// Cut cuts the power of the server: it is killed, and its disk forgets all or a part of what was not
// synced: see [forgetful.FS.Cut]. Restart starts it again.
func (m *MySQL) Cut(seed uint64) (lost int, err error) {
	if err := m.Kill(); err != nil {
		return 0, err
	}
	return m.disk.Cut(seed)
}

// closeDisk unmounts the disk on dir, if there is one, and leaves a copy of what it held, dir.kept.
func closeDisk(disk *forgetful.Disk, dir string) error {
	if disk == nil {
		return nil
	}
	return errors.Join(os.CopyFS(dir+".kept", os.DirFS(dir)), disk.Close())
}
