package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-sql-driver/mysql"
)

// ErrUnavailable marks an error that passes by itself: the server is unreachable, shuts down, is
// read-only, full or overloaded, the transaction lost one deadlock after another, or the context
// ended. The operation may or may not have been applied. Repeat the same call: it applies nothing
// twice, and its answer is right.
//
// Any other error means a missing or older schema, a missing privilege or a bug.
var ErrUnavailable = errors.New("database unavailable")

// An operation that exceeds these limits is ErrUnavailable. The pauses add up to about 0.3 s:
// enough for the other side of a deadlock to finish, and callers learn of an outage soon.
const (
	maxTries   = 6
	firstPause = 10 * time.Millisecond
	lastPause  = 200 * time.Millisecond
	maxElapsed = 10 * time.Second
)

// retry runs f until it succeeds or fails with an error that a repetition cannot help.
func retry(ctx context.Context, f func() error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := f()
		if err != nil && !isTransient(err) && !isServerError(err, duplicateEntry) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	},
		backoff.WithMaxTries(maxTries),
		backoff.WithMaxElapsedTime(maxElapsed),
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: firstPause, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: lastPause,
		}),
	)
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok { // of the last try
		return permanent.Unwrap()
	}
	return err
}

// describe returns the error of an operation that failed with err. It shows shown in err's place,
// and says what to change where that is known.
func describe(ctx context.Context, operation string, err, shown error) error {
	if err == nil {
		return nil
	}
	if text := Remedy(err); text != "" {
		shown = fmt.Errorf("%s: %w", text, shown)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w", operation, ErrUnavailable, context.Cause(ctx))
	case isTransient(err):
		return fmt.Errorf("%s: %w: %w", operation, ErrUnavailable, shown)
	default:
		return fmt.Errorf("%s: %w", operation, shown)
	}
}

// Remedy returns what to change after an error, "" if that is not known.
func Remedy(err error) string {
	switch {
	case isServerError(err, noSuchTable, unknownColumn, noSuchKey, 3819, 4025): // the last two: a constraint
		return "the schema is missing or not this program's: run `preauth schema apply`, or compare it with `preauth schema print`"
	case isServerError(err, readOnly...):
		return "the server takes no writes: let the DSN name the primary, or end the server's read-only mode"
	case isPacketTooLarge(err):
		return "raise the server's max_allowed_packet"
	case isServerError(err, 1665):
		return "set the server's binlog_format to ROW or MIXED"
	case isServerError(err, 1021, 1114):
		return "make room on the server's disk"
	case isServerError(err, 1040, 1203, 1226):
		return "raise the server's max_connections or the user's limits, or let the service use fewer connections"
	}
	return ""
}

// readOnly holds the numbers of the errors of a server, a transaction or a table that takes no
// writes. 1015 is what MySQL says with innodb_read_only.
var readOnly = []uint16{1290, 1792, 1836, 1036, 1015}

// isPacketTooLarge reports whether a statement is larger than the server's max_allowed_packet. The
// driver knows the limit and may say so itself, or send the arguments one by one, for which the
// server's error has no number of its own.
func isPacketTooLarge(err error) bool {
	server, ok := errors.AsType[*mysql.MySQLError](err)
	return errors.Is(err, mysql.ErrPktTooLarge) ||
		ok && (server.Number == 1153 || server.Number == 1105 && strings.Contains(server.Message, "mysql_send_long_data"))
}

// Server errors that the package tells apart.
const (
	unknownColumn  = 1054
	duplicateEntry = 1062
	noSuchTable    = 1146
	noSuchKey      = 1176
)

// defined holds the numbers of the errors about what exists already, or no longer: a table, despite
// IF NOT EXISTS; a column; a constraint, each server with its own.
var defined = []uint16{1050, 1060, 1091, 1826, 3821, 3822, 3940}

func isServerError(err error, numbers ...uint16) bool {
	server, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && slices.Contains(numbers, server.Number)
}

// denied holds the numbers of the errors about a right that the account lacks.
var denied = []uint16{1044, 1142, 1143, 1227}

// IsDenied reports whether the server refused an operation because the account lacks a right.
func IsDenied(err error) bool { return isServerError(err, denied...) }

// isTransient reports whether err passes by itself, see [ErrUnavailable].
func isTransient(err error) bool {
	if server, ok := errors.AsType[*mysql.MySQLError](err); ok {
		// TiDB has no number of its own for a lock that it lost too often.
		return slices.Contains(transient, server.Number) || server.Number == 1105 && strings.Contains(server.Message, "lock retry limit")
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, lost := range []error{
		driver.ErrBadConn, mysql.ErrInvalidConn, mysql.ErrMalformPkt, mysql.ErrPktSync, mysql.ErrBusyBuffer,
		io.EOF, io.ErrUnexpectedEOF,
	} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}

// transient holds the numbers of the server errors that pass by themselves.
var transient = slices.Concat(readOnly, []uint16{
	1021, 1114, // disk full, table full
	1040, 1203, 1226, // too many connections, of all users or of one; a limit on the user's resources
	1041,                   // out of memory
	1047,                   // Galera: the node is not ready
	1053, 1077, 1079, 1080, // shutdown
	1129, 1152, 1158, 1159, 1160, 1161, 1184, // the network: host blocked, connection aborted, errors, time-outs
	1180,             // error during COMMIT
	1205, 1206, 1213, // lock wait time-out, lock table full, deadlock
	1317, 1969, 3024, // the statement was interrupted or took too long
	1637,             // too many transactions at once
	1927, 3169, 4031, // the session was killed or idle for too long
	2006, 2013, // a proxy lost the server
	3100, 3101, // group replication: error before COMMIT, conflict with another member

	8002, 8005, 9007, // TiDB: write conflict
	8022, 8229, // TiDB: COMMIT failed, the transaction's locks expired
	8027, 8028, // TiDB: the server's copy of the schema is too old, the schema changed
	9001, 9002, 9003, 9004, 9005, // TiDB: placement driver time-out, storage time-out, busy, lock, region
	9006, 9008, 9010, 9011, // TiDB: garbage collector's limit, storage limit, stale command, time stamps
})

// quotable holds the numbers of the server errors whose texts quote names and settings at most. Any
// other text may quote a value or a piece of the statement, and so a code.
var quotable = slices.Concat(readOnly, []uint16{
	1044, 1045, 1049, 1142, 1143, 1227, // a missing privilege or database
	noSuchTable, unknownColumn, noSuchKey,
	1153, 1193, 1231, 1238, 1298, 1665, // a server's setting, or a session's that cannot be set
	1104, 1175, 1317, 1969, 3024, // a limit on statements
	1021, 1030, 1037, 1038, 1041, 1114, 1206, 1637, // disk, storage engine, memory, locks
	1040, 1129, 1130, 1203, 1226, 1927, 3159, 3169, 4031, // connections
	1047, 1053, 1180, 1205, 1213, 3100, 3101, // transactions, and a server that is not ready
	9001, 9002, 9003, 9005, // TiDB: placement driver, storage, region
})

// redact returns err without what the server may have quoted of the data.
func redact(err error) error {
	if isPacketTooLarge(err) && !isServerError(err, 1153) { // whose text names what nobody can change
		return &mysql.MySQLError{Number: 1153, Message: "Got a packet bigger than 'max_allowed_packet' bytes"}
	}
	server, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return err
	}
	redacted := *server
	if !slices.Contains(quotable, server.Number) {
		redacted.Message = "the server's text is left out, as it may quote data"
	}
	return &redacted
}
