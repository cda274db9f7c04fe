package repo

import (
	"cmp"
	"context"
	"errors"

	"preauth/internal/database"
)

// rights are what the package may do with each table: with what statements it is tried. They match
// no row.
var rights = []struct{ right, statement string }{
	{"SELECT on component", "/* repo.rights */ SELECT appid FROM component WHERE FALSE"},
	{"INSERT on component", "/* repo.rights */ INSERT INTO component (appid, created_at, updated_at) SELECT appid, created_at, updated_at FROM component WHERE FALSE"},
	{"UPDATE on component", "/* repo.rights */ UPDATE component SET attempts = attempts WHERE FALSE"},
	{"SELECT on pre_auth_code", "/* repo.rights */ SELECT id FROM pre_auth_code WHERE FALSE"},
	{"INSERT on pre_auth_code", "/* repo.rights */ INSERT INTO pre_auth_code (appid, code, cause, token_fingerprint, issued_at, expires_at) " +
		"SELECT appid, code, cause, token_fingerprint, issued_at, expires_at FROM pre_auth_code WHERE FALSE"},
	{"UPDATE on pre_auth_code", "/* repo.rights */ UPDATE pre_auth_code SET reference = reference WHERE FALSE"},
	{"DELETE on pre_auth_code", "/* repo.rights */ DELETE FROM pre_auth_code WHERE FALSE"},
	{"SELECT on outbox", "/* repo.rights */ SELECT message_id FROM outbox WHERE FALSE"},
	{"INSERT on outbox", "/* repo.rights */ INSERT INTO outbox (message_id, appid, created_at) SELECT message_id, appid, created_at FROM outbox WHERE FALSE"},
	{"UPDATE on outbox", "/* repo.rights */ UPDATE outbox SET appid = appid WHERE FALSE"},
	{"DELETE on outbox", "/* repo.rights */ DELETE FROM outbox WHERE FALSE"},
	{"SELECT on stream_set", "/* repo.rights */ SELECT id FROM stream_set WHERE FALSE"},
	{"INSERT on stream_set", "/* repo.rights */ INSERT INTO stream_set (id, token_stream, update_stream, failure_stream, account, since) " +
		"SELECT id, token_stream, update_stream, failure_stream, account, since FROM stream_set WHERE FALSE"},
	{"SELECT on schema_version", "/* repo.rights */ SELECT version FROM schema_version WHERE FALSE"},
	{"UPDATE on stream_set", "/* repo.rights */ UPDATE stream_set SET since = since WHERE FALSE"},
}

// Denied tries each right that the package needs, and returns those that the account lacks, such as
// "INSERT on outbox". It changes nothing. What else is wrong with the tables is for [Repo.Check].
func (r *Repo) Denied(ctx context.Context) (denied []string, err error) {
	for _, each := range rights {
		err := r.db.Transaction(ctx, "repo: rights", func(tx *database.Tx) error {
			return cmp.Or(tx.Exec(ctx, each.statement), errProbed)
		})
		switch {
		case database.IsDenied(err):
			denied = append(denied, each.right)
		case errors.Is(err, ErrUnavailable):
			return nil, err
		}
	}
	return denied, nil
}
