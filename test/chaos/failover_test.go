package main

import (
	"os"
	"testing"
	"time"

	"preauth/internal/mysqlserver"
	"preauth/test/chaos/nemesis"
	"preauth/test/chaos/system"
)

// brokenByFailovers is a build of the service whose mistake failovers of the database show, with no
// other fault: reads have connections of their own, which no refused write ends.
var brokenByFailovers = []replacement{
	{"internal/database/database.go", "	maxIdle int\n", "	maxIdle int\n	reads   *DB\n"},
	{
		"internal/database/database.go", "	return New(sql.OpenDB(connector), maxConns), nil\n",
		"	db := New(sql.OpenDB(connector), maxConns)\n	db.reads = New(sql.OpenDB(connector), maxConns)\n	return db, nil\n",
	},
	{"internal/database/database.go", "	return &DB{sqlx.NewDb(db, \"mysql\"), maxConns}\n", "	return &DB{db: sqlx.NewDb(db, \"mysql\"), maxIdle: maxConns}\n"},
	{"internal/database/statement.go", "	err = db.do(ctx, operation, func(conn *sqlx.Conn) error {\n		rows, err = query", "	err = db.reads.do(ctx, operation, func(conn *sqlx.Conn) error {\n		rows, err = query"},
	{"repo/row.go", "WHERE nobody.appid = '' FOR UPDATE)", "WHERE nobody.appid = '')"},
}

// newFailovers returns a short campaign of failovers alone, for which there has to be MariaDB.
func newFailovers(t *testing.T) campaign {
	t.Helper()
	if *engine != "" && *engine != string(mysqlserver.MariaDB) {
		t.Skip("only MariaDB is run with a replica")
	}
	c := newCampaign(t, *seed)
	c.failover, c.partitions, c.maxSkew, c.engine = true, nemesis.NoPartitions, 0, mysqlserver.MariaDB
	return c
}

// TestPromisesHoldUnderFailovers is the short campaign with failovers of the database alone.
func TestPromisesHoldUnderFailovers(t *testing.T) {
	c := newFailovers(t)
	out := c.hold(t)
	if len(out.faults) == 0 {
		t.Error("no failover came")
	}
}

// TestTextsOfTheBuildBrokenByFailovers is [TestTextsOfBrokenBuilds] for the build above.
func TestTextsOfTheBuildBrokenByFailovers(t *testing.T) {
	texts, err := overlay(root(t), brokenByFailovers)
	if err == nil {
		err = system.Compile(t.Context(), t.TempDir(), texts)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestFailoversFindABrokenBuild runs failovers against that build.
func TestFailoversFindABrokenBuild(t *testing.T) {
	if !*broken {
		t.Skip("takes minutes: -args -broken")
	}
	c := newFailovers(t)
	defer os.RemoveAll(c.dir)
	c.duration, c.components = max(c.duration, 2*time.Minute), 40
	c.findBroken(t, brokenByFailovers, []string{"resolve agrees", "claims last", "a spent code stays spent"})
}
