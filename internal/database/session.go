package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// idleTimeout is how long the server waits for the next statement. A host that vanishes in the
// middle of a transaction holds its locks that long.
const idleTimeout = 20 * time.Second

// variable is a variable of the session, and the value that SHOW VARIABLES has for it.
type variable struct{ name, value string }

// sessionVariables are what the promises rest on.
var sessionVariables = []variable{
	{"sql_select_limit", "18446744073709551615"},             // no result is cut short, nor is SHOW VARIABLES
	{"autocommit", "ON"},                                     // a statement outside of a transaction is committed
	{"completion_type", "NO_CHAIN"},                          // COMMIT begins no further transaction
	{"character_set_client", "utf8mb4"},                      // the driver's quoting of arguments is made for it
	{"character_set_results", "utf8mb4"},                     // texts come back as they were stored
	{"collation_connection", "utf8mb4_bin"},                  // sets character_set_connection too
	{"sql_mode", "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"}, // a value that is too long is refused, not truncated
	{"time_zone", "+00:00"},
	{"unique_checks", "ON"}, // without it InnoDB may skip unique keys
	// A statement's wait for a row lock, in seconds. Rows are locked for milliseconds. The wait must
	// end before readTimeout, or the server would wait on for a client that gave up.
	{"innodb_lock_wait_timeout", "5"},
	{"wait_timeout", strconv.Itoa(int(idleTimeout / time.Second))},
}

// transactionVariables are set by SET TRANSACTION: MariaDB calls them tx_isolation and
// tx_read_only.
var transactionVariables = []variable{{"transaction_isolation", "READ-COMMITTED"}, {"transaction_read_only", "OFF"}}

// sessions makes connections whose sessions hold the variables above, whatever the server's
// defaults, init_connect and the driver made of them.
type sessions struct{ driver.Connector }

// Connect implements [driver.Connector].
func (c sessions) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := setSession(ctx, conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// setSession sets the variables of a session and reads them back.
func setSession(ctx context.Context, conn driver.Conn) error {
	execer, ok := conn.(driver.ExecerContext)
	if !ok {
		return errors.New("the driver's connection cannot execute statements")
	}
	set := make([]string, len(sessionVariables))
	for i, v := range sessionVariables {
		set[i] = v.name + " = '" + v.value + "'"
		if _, err := strconv.ParseUint(v.value, 10, 64); err == nil {
			set[i] = v.name + " = " + v.value
		}
	}
	for _, statement := range []string{
		"SET " + strings.Join(set, ", "),
		"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
		"ROLLBACK", // what init_connect may have begun
	} {
		if _, err := execer.ExecContext(ctx, "/* database.session */ "+statement, nil); err != nil {
			return err
		}
	}
	return checkSession(ctx, conn)
}

// checkSession returns an error if a session does not hold what the promises rest on.
func checkSession(ctx context.Context, conn driver.Conn) error {
	held, err := sessionOf(ctx, conn)
	if err != nil {
		return err
	}
	for _, variables := range [][]variable{sessionVariables, transactionVariables} {
		for _, v := range variables {
			if got := held[v.name]; got != v.value {
				return fmt.Errorf("the session's %s is %q although the service set it to %q: let nothing on the way to the server, "+
					"such as a proxy, change what a session sets", v.name, got, v.value)
			}
		}
	}
	return nil
}

// sessionOf returns the variables of a session that the service sets.
func sessionOf(ctx context.Context, conn driver.Conn) (map[string]string, error) {
	queryer, ok := conn.(driver.QueryerContext)
	if !ok {
		return nil, errors.New("the driver's connection cannot query")
	}
	names := []string{"'tx_isolation'", "'tx_read_only'"}
	for _, v := range append(transactionVariables[:2:2], sessionVariables...) {
		names = append(names, "'"+v.name+"'")
	}
	rows, err := queryer.QueryContext(ctx, "/* database.session */ SHOW SESSION VARIABLES WHERE Variable_name IN ("+strings.Join(names, ", ")+")", nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	held, row := map[string]string{}, make([]driver.Value, 2)
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return held, nil
		case err != nil:
			return nil, err
		}
		name := strings.Replace(fmt.Sprintf("%s", row[0]), "tx_", "transaction_", 1)
		held[name] = fmt.Sprintf("%s", row[1])
	}
}
