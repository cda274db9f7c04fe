package repo

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

// ErrUnavailable is wrapped by an error that passes by itself: the server cannot be reached, shuts
// down, is read-only, full or crowded, the same transaction lost against others again and again, or
// the context ended. What was asked for may or may not have been done. Ask for the same again: what
// is done already is not done twice, and the answer is right.
//
// Any other error is a missing or older schema, a missing privilege or a defect.
var ErrUnavailable = errors.New("database unavailable")

// What is tried before it is ErrUnavailable. The pauses add up to about 0.3 s: enough for the other
// side of a deadlock, and short enough that the caller learns of an outage soon.
const (
	maxTries   = 6
	firstPause = 10 * time.Millisecond
	lastPause  = 200 * time.Millisecond
	maxElapsed = 10 * time.Second
)

// unavailable has the server's error numbers behind ErrUnavailable.
var unavailable = map[uint16]bool{
	1021: true, // disk full
	1040: true, // too many connections
	1041: true, // out of memory
	1047: true, // Galera: the node is not ready
	1053: true, // shutdown in progress
	1077: true, // shut down normally
	1079: true, // shutdown complete
	1080: true, // forced close of the thread
	1129: true, // host blocked after many connection errors
	1152: true, // connection aborted
	1158: true, // error reading from the network
	1159: true, // time-out reading from the network
	1160: true, // error writing to the network
	1161: true, // time-out writing to the network
	1180: true, // error during COMMIT
	1184: true, // connection aborted
	1203: true, // too many connections of the user
	1205: true, // lock wait time-out
	1206: true, // lock table full
	1213: true, // deadlock
	1226: true, // the user has exceeded a limit on resources
	1290: true, // the server runs with an option such as --read-only
	1114: true, // table full
	1317: true, // the statement was interrupted
	1637: true, // too many transactions at once
	1792: true, // the transaction is read-only
	1836: true, // the server is in read-only mode
	1927: true, // MariaDB: connection killed
	1969: true, // MariaDB: the statement took too long
	2006: true, // a proxy lost the server
	2013: true, // a proxy lost the server in the middle of a statement
	3024: true, // the statement took too long
	3100: true, // group replication: error before COMMIT
	3101: true, // group replication: conflict with another member
	3169: true, // the session was killed
	4031: true, // disconnected after a time without statements

	8002: true, // TiDB: SELECT FOR UPDATE met a conflict
	8005: true, // TiDB: write conflict
	8022: true, // TiDB: COMMIT failed
	8027: true, // TiDB: the schema known to the server is too old
	8028: true, // TiDB: the schema changed during the transaction
	8229: true, // TiDB: the transaction's locks expired
	9001: true, // TiDB: placement driver time-out
	9002: true, // TiDB: storage time-out
	9003: true, // TiDB: storage busy
	9004: true, // TiDB: time-out resolving locks
	9005: true, // TiDB: region unavailable
	9006: true, // TiDB: the transaction outlived the garbage collector's limit
	9007: true, // TiDB: write conflict
	9008: true, // TiDB: storage limit
	9010: true, // TiDB: stale command
	9011: true, // TiDB: time stamps not in step yet
}

// Server errors that are told apart.
const (
	tableExists    = 1050
	unknownColumn  = 1054
	duplicateEntry = 1062
	noSuchTable    = 1146
	noSuchKey      = 1176
)

// telling has the numbers whose texts hold names at most. Other texts may quote a value or a piece of
// the statement, and so a code.
var telling = map[uint16]bool{
	1044: true, 1045: true, 1049: true, 1142: true, 1143: true, // a missing privilege or database
	noSuchTable: true, unknownColumn: true, noSuchKey: true,
	1021: true, 1040: true, 1047: true, 1053: true, 1114: true, 1203: true, 1205: true, 1213: true, 1226: true,
	1290: true, 1792: true, 1836: true, 1927: true,
	3159: true, // a connection without TLS, which the server does not take
}

// do runs one operation, which must be safe to run again, until it succeeds or fails for good. The
// error it returns names the operation, wraps [ErrUnavailable] where that applies, and holds nothing
// that the server may have quoted of the data.
func do(ctx context.Context, operation string, f func() error) error {
	err := retry(ctx, f)
	return explain(ctx, operation, err, silent(err))
}

// retry runs f until it succeeds or fails with an error that does not pass by itself.
func retry(ctx context.Context, f func() error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := f()
		if err != nil && !passes(err) && !isServerError(err, duplicateEntry) {
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

// explain returns what an operation answers to err. It tells as much of it as told does.
func explain(ctx context.Context, operation string, err, told error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("repo: %s: %w: %w", operation, ErrUnavailable, context.Cause(ctx))
	case passes(err):
		return fmt.Errorf("repo: %s: %w: %w", operation, ErrUnavailable, told)
	case isServerError(err, noSuchTable, unknownColumn, noSuchKey):
		return fmt.Errorf("repo: %s: the schema is missing or not this program's: run `preauth schema apply`, or compare it with `preauth schema print`: %w", operation, told)
	default:
		return fmt.Errorf("repo: %s: %w", operation, told)
	}
}

// passes reports whether err is one that [ErrUnavailable] stands for.
func passes(err error) bool {
	if server, ok := errors.AsType[*mysql.MySQLError](err); ok {
		// TiDB has no number of its own for a lock that it lost to others too often.
		return unavailable[server.Number] || server.Number == 1105 && strings.Contains(server.Message, "lock retry limit")
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

func isServerError(err error, numbers ...uint16) bool {
	server, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && slices.Contains(numbers, server.Number)
}

// silent returns err without what the server may have quoted of the data.
func silent(err error) error {
	server, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return err
	}
	cut := *server
	if !telling[cut.Number] {
		cut.Message = "the server's text is left out, as it may quote data"
	}
	return &cut
}
