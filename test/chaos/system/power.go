package system

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
