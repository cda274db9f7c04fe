package database

import (
	"context"
	"slices"
	"strings"
)

// Warning is a setting of the server that can lose a commit that it acknowledged.
type Warning struct {
	// Setting is the variable's name, and Value its value now.
	Setting, Value string
	// Advice says what to set, and what is lost otherwise.
	Advice string
}

// Durability returns the settings by which the server may lose an acknowledged commit when it, or
// its machine, crashes. It returns none for a safe server. TiDB has no such setting: its replication
// alone decides.
func (db *DB) Durability(ctx context.Context) ([]Warning, error) {
	type row struct {
		Name  string `db:"Variable_name"`
		Value string `db:"Value"`
	}
	rows, err := Query[row](ctx, db, "database: durability",
		"/* database.durability */ SHOW GLOBAL VARIABLES WHERE Variable_name IN "+
			"('innodb_flush_log_at_trx_commit', 'innodb_flush_method', 'innodb_doublewrite', 'log_bin', 'sync_binlog', 'version')")
	if err != nil {
		return nil, err
	}
	value := map[string]string{}
	for _, row := range rows {
		value[row.Name] = row.Value
	}
	if strings.Contains(value["version"], "TiDB") { // it has MySQL's variables, which do nothing
		return nil, nil
	}
	var warnings []Warning
	warn := func(name, advice string, safe ...string) {
		held, ok := value[name]
		if !ok || slices.ContainsFunc(safe, func(value string) bool { return strings.EqualFold(held, value) }) {
			return
		}
		warnings = append(warnings, Warning{Setting: name, Value: held, Advice: advice})
	}
	// 3 is MariaDB's, and writes more often than 1.
	warn("innodb_flush_log_at_trx_commit", "set it to 1: a crash of the machine loses up to a second of commits", "1", "3")
	if !strings.EqualFold(value["log_bin"], "OFF") {
		warn("sync_binlog", "set it to 1: after a crash of the machine the server rolls back what the binary log has not", "1")
	}
	warn("innodb_doublewrite", "set it to ON, unless the storage writes pages as a whole: a crash can damage a page beyond repair",
		"ON", "1", "DETECT_AND_RECOVER", "FAST")
	if method := strings.ToLower(value["innodb_flush_method"]); method == "nosync" || method == "littlesync" {
		warn("innodb_flush_method", "leave it out: commits are not synced")
	}
	return warnings, nil
}
