package database

import (
	"context"
	"time"
)

// Connection is what the server says of itself and of a connection to it.
type Connection struct {
	// Version is the server's.
	Version string `db:"version"`
	// Now is the server's time in UTC.
	Now time.Time `db:"now"`
	// MaxPacket is the largest statement that the server takes, in bytes, and MaxConnections how
	// many connections it has for all accounts; 0 is no limit.
	MaxPacket      int `db:"max_packet"`
	MaxConnections int `db:"max_connections"`
	// Cipher is that of the connection, "" for one without TLS.
	Cipher string `db:"-"`
}

// Connection asks the server. Success proves that it can be reached, takes the login, and keeps
// what the session sets.
func (db *DB) Connection(ctx context.Context) (Connection, error) {
	const operation = "database: connection"
	said, err := Query[Connection](ctx, db, operation, "/* database.connection */ SELECT VERSION() AS version, UTC_TIMESTAMP(6) AS now, "+
		"@@max_allowed_packet AS max_packet, @@max_connections AS max_connections")
	if err != nil {
		return Connection{}, err
	}
	type variable struct {
		Name  string `db:"Variable_name"`
		Value string `db:"Value"`
	}
	ciphers, err := Query[variable](ctx, db, operation, "/* database.connection */ SHOW SESSION STATUS LIKE 'Ssl_cipher'")
	if err != nil {
		return Connection{}, err
	}
	connection := said[0]
	for _, cipher := range ciphers {
		connection.Cipher = cipher.Value
	}
	return connection, nil
}
