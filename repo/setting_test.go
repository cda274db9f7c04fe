package repo_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/internal/mysqlserver"
	"preauth/repo"
	"preauth/repo/repotest"
)

// says reports whether an error has all of the texts.
func says(err error, texts ...string) bool {
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			return false
		}
	}
	return true
}

// The server's words about its settings quote no data, and say what to change.
func TestWordsAboutSettingsAreShown(t *testing.T) {
	d := newDatabase(t)
	for number, remedy := range map[uint16]string{
		1290: "primary", 1792: "primary", 1836: "primary", 1036: "primary", 1153: "max_allowed_packet", 1665: "binlog_format",
		1021: "disk", 1114: "disk", 1040: "connections", 1203: "connections", 1227: "", 1193: "", 1231: "", 1317: "", 3024: "", 1206: "",
		1146: "schema apply",
	} {
		d.faults.Script("begin", repeated6(repotest.Answered(number, "the server's own words"))...)
		if _, err := d.Save(within(t), []repo.Outcome{succeeded("wx1", at(1), "a")}); !says(err, "the server's own words", remedy) {
			t.Errorf("%d: %v", number, err)
		}
		d.faults.Reset()
	}
	for _, number := range []uint16{1064, 1062, 1366, 1406, 9007} {
		d.faults.Script("begin", repeated6(repotest.Answered(number, "near 'preauthcode@@@secret'"))...)
		if _, err := d.Save(within(t), []repo.Outcome{succeeded("wx1", at(1), "a")}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: %v", number, err)
		}
		d.faults.Reset()
	}
}

// repeated6 lets all tries of an operation meet a fault.
func repeated6(fault repotest.Fault) []repotest.Fault {
	return []repotest.Fault{fault, fault, fault, fault, fault, fault}
}

func TestTheServersFormatOfTheBinaryLog(t *testing.T) {
	// Given a server that logs statements, which cannot be with READ COMMITTED,
	d := ownServer(t, "--log-bin", "--server-id=1", "--binlog-format=STATEMENT")
	applied := d.ApplySchema(within(t)) // creates the tables, but cannot record that
	_, err := d.Save(within(t), []repo.Outcome{succeeded("wx1", at(1), "a")})
	for what, err := range map[string]error{"ApplySchema": applied, "Save": err} {
		if !says(err, "binlog_format to ROW", "1665") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// when that is changed for new sessions, then the service goes on at once.
	d.exec(t, "SET GLOBAL binlog_format = 'ROW'")
	if err := d.ApplySchema(within(t)); err != nil {
		t.Error(err)
	}
	// A running service says it too.
	d.exec(t, "SET GLOBAL binlog_format = 'STATEMENT'")
	other, _ := open(t, d.dsn)
	if err := other.Check(within(t)); !says(err, "binlog_format to ROW", "1665") {
		t.Errorf("Check: %v", err)
	}
	d.exec(t, "SET GLOBAL binlog_format = 'ROW'")
	if err := d.Check(within(t)); err != nil {
		t.Error(err)
	}
	d.save(t, succeeded("wx1", at(1), "a"))
}

func TestBatchesFitIntoTheServersPackets(t *testing.T) {
	// Given a server that takes small packets only,
	d := ownServer(t, "--max-allowed-packet=16384")
	if err := d.ApplySchema(within(t)); err != nil {
		t.Fatal(err)
	}
	// when much is saved at once, then it is saved in smaller pieces.
	var outcomes []repo.Outcome
	for i := range 300 {
		code := fmt.Sprint("code", i, strings.Repeat("x", 400))
		outcomes = append(outcomes, succeeded(fmt.Sprint("wx", i), at(uint64(i+1)), code), failed(fmt.Sprint("wy", i), at(uint64(i+1)), 1))
	}
	for i, result := range d.save(t, outcomes...) {
		if result.Status != repo.Saved || result.Announcement.AppID != outcomes[i].AppID {
			t.Fatalf("outcome %d: %+v", i, result)
		}
	}
	codes := numbered("spare"+strings.Repeat("y", 400), 300)
	d.stock(t, start, codes...)
	if left := d.left(t, start); left != len(codes) {
		t.Errorf("%d spares", left)
	}
	if known, err := d.Components(within(t), numbered("wx", 300)); err != nil || len(known) != 300 {
		t.Errorf("%d components, %v", len(known), err)
	}
	// What is too large by itself names the setting.
	large := failed("wx1", at(1000), 1, func(o *repo.Outcome) { o.Failure.ErrMsg = strings.Repeat("z", preauth.MaxBody-1000) })
	if _, err := d.Save(within(t), []repo.Outcome{large}); !says(err, "raise the server's max_allowed_packet") || errors.Is(err, repo.ErrUnavailable) || strings.Contains(err.Error(), "Config") {
		t.Errorf("err = %v", err)
	}
	if err := d.Check(within(t)); err != nil {
		t.Error(err)
	}
}

// A server that answers reads and refuses writes is not ready, in its own words, and is left for
// one that takes writes.
func TestAServerThatTakesNoWrites(t *testing.T) {
	d := ownServer(t)
	if err := d.ApplySchema(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := d.Check(within(t)); err != nil {
		t.Fatal(err)
	}
	before := d.dump(t)
	settings := []string{"read_only"}
	if server.Engine() == mysqlserver.MySQL {
		settings = append(settings, "super_read_only")
	}
	for _, setting := range settings {
		t.Run(setting, func(t *testing.T) {
			d.exec(t, "SET GLOBAL "+setting+" = 1")
			for what, err := range map[string]error{
				"Check": d.Check(within(t)), "AddSpares": d.AddSpares(within(t), sparesOf("s")),
				"Lease": func() error { _, _, err := d.Lease(within(t), "wx1", 0, start, start.Add(time.Hour)); return err }(),
			} {
				if !errors.Is(err, repo.ErrUnavailable) || !says(err, "read-only", "takes no writes", "primary") {
					t.Errorf("%s: %v", what, err)
				}
			}
			// Once the server takes writes again, or the address leads to another one, the next call gets
			// there.
			d.exec(t, "SET GLOBAL read_only = 0")
			d.faults.Operations()
			if err := d.Check(within(t)); err != nil {
				t.Error(err)
			}
			if seen := d.faults.Operations(); seen[0] != "connect" {
				t.Errorf("a connection to a read-only server was kept: %q", seen)
			}
		})
	}
	if after := d.dump(t); after != before {
		t.Errorf("a check has left something: %s", after)
	}
}

func TestAServerWhoseStorageIsReadOnly(t *testing.T) {
	// Given a server that was stopped in order, and starts again with a read-only storage engine,
	if os.Getenv(mysqlserver.EnvTestDSN) != "" || server.Engine() == mysqlserver.TiDB {
		t.Skip("it needs a server of its own, with arguments that TiDB does not take")
	}
	dir := t.TempDir()
	first := startServer(t, mysqlserver.Options{Dir: dir})
	if err := first.CreateDatabase(within(t), "preauth"); err != nil {
		t.Fatal(err)
	}
	r, _ := open(t, first.DSN("preauth"))
	if err := errors.Join(r.ApplySchema(within(t)), first.Close()); err != nil {
		t.Fatal(err)
	}
	again := startServer(t, mysqlserver.Options{Dir: dir, Arguments: []string{"--innodb-read-only=1"}})
	r, _ = open(t, again.DSN("preauth"))
	// then it is not ready.
	if err := r.Check(within(t)); !errors.Is(err, repo.ErrUnavailable) || !says(err, "takes no writes", "primary") {
		t.Errorf("err = %v", err)
	}
}

func TestCheckJudgesWriting(t *testing.T) {
	d := newDatabase(t)
	for _, number := range []uint16{1021, 1114, 1290, 1836, 1142, 1290} {
		d.faults.Script("probe", repeated6(repotest.Answered(number, "the server's own words"))...)
		if err := d.Check(within(t)); !says(err, "the server's own words") {
			t.Errorf("%d: %v", number, err)
		}
		d.faults.Reset()
	}
	// It leaves nothing, and replicas that check at the same time wait for nobody.
	reached, goOn := make(chan struct{}), make(chan struct{})
	d.faults.Script("rollback", repotest.Fault{Before: func() { close(reached); <-goOn }})
	done := make(chan error, 1)
	go func() { done <- d.Check(t.Context()) }()
	select {
	case <-reached:
	case err := <-done:
		t.Fatalf("nothing was written: %v", err)
	}
	if err := d.Check(within(t)); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if rows, _, err := d.OutboxDepth(within(t)); err != nil || rows != 0 {
		t.Errorf("%d rows are left, %v", rows, err)
	}
}

// The schema fits servers whose defaults allow shorter keys only.
func TestTheSchemaFitsServersWithOtherDefaults(t *testing.T) {
	for _, arguments := range [][]string{
		{"--innodb-default-row-format=COMPACT"},
		{"--innodb-default-row-format=REDUNDANT", "--innodb-strict-mode=OFF"},
		{"--innodb-page-size=8k"},
		{"--innodb-page-size=8k", "--innodb-default-row-format=COMPACT"},
	} {
		t.Run(strings.Join(arguments, " "), func(t *testing.T) {
			d := ownServer(t, arguments...)
			for range 2 {
				if err := d.ApplySchema(within(t)); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Check(within(t)); err != nil {
				t.Error(err)
			}
			d.save(t, succeeded("wx1", at(1), strings.Repeat("x", 512)), failed("wx2", at(2), 1, func(o *repo.Outcome) { o.FailureID = strings.Repeat("𠮷", 350) }))
			claim := request(strings.Repeat("𠮷", preauth.MaxClaimID), start, func(r *repo.ClaimRequest) { r.Reference = strings.Repeat("𠮷", preauth.MaxReference) })
			if _, err := d.InsertClaim(within(t), claim, fresh(strings.Repeat("y", 512), start)); err != nil {
				t.Error(err)
			}
			if waiting := d.outbox(t); len(waiting) != 2 {
				t.Errorf("waiting are %+v", waiting)
			}
		})
	}
}

// The server hangs up on a client that is still sending too large a packet, so the packet must not
// be begun.
func TestTheLargestFailuresFitIntoAMegabyte(t *testing.T) {
	d := ownServer(t, "--max-allowed-packet=1M")
	if err := d.ApplySchema(within(t)); err != nil {
		t.Fatal(err)
	}
	var outcomes []repo.Outcome
	for i := range 100 {
		outcomes = append(outcomes, failed(fmt.Sprint("wx", i), at(uint64(i+1)), 1, func(o *repo.Outcome) { o.Failure.ErrMsg = strings.Repeat("z", preauth.MaxBody-1000) }))
	}
	for i, result := range d.save(t, outcomes...) {
		if result.Status != repo.Saved {
			t.Fatalf("outcome %d: %+v", i, result)
		}
	}
}
