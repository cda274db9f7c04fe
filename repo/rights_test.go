package repo_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"preauth/internal/mysqlserver"
	"preauth/repo"
	"preauth/repo/repotest"
)

// The rights of docs/operation.md are enough, and one that is missing is named.
func TestDenied(t *testing.T) {
	d := newDatabase(t)
	var name string
	if err := d.raw.Get(&name, "SELECT DATABASE()"); err != nil {
		t.Fatal(err)
	}
	user := fmt.Sprintf("rights_%d", os.Getpid())
	d.exec(t, "CREATE USER '"+user+"'@'%' IDENTIFIED BY 'choose-another'")
	t.Cleanup(func() {
		if _, err := d.raw.ExecContext(context.Background(), "DROP USER '"+user+"'@'%'"); err != nil {
			t.Error(err)
		}
	})
	tables := map[string]string{
		"component": "SELECT, INSERT, UPDATE", "pre_auth_code": "SELECT, INSERT, UPDATE, DELETE", "outbox": "SELECT, INSERT, UPDATE, DELETE",
		"stream_set": "SELECT, INSERT, UPDATE", "schema_version": "SELECT",
	}
	for table, granted := range tables {
		d.exec(t, fmt.Sprintf("GRANT %s ON %s.%s TO '%s'@'%%'", granted, name, table, user))
	}
	asUser, _ := open(t, fmt.Sprintf("%s:choose-another@tcp(%s)/%s", user, server.Addr(), name))
	before := d.dump(t)
	if denied, err := asUser.Denied(within(t)); err != nil || len(denied) > 0 {
		t.Fatalf("denied are %v, %v", denied, err)
	}
	for table, granted := range tables {
		for right := range strings.SplitSeq(granted, ", ") {
			if right == "UPDATE" && server.Engine() == mysqlserver.TiDB {
				continue // it lets everybody update no row
			}
			d.exec(t, fmt.Sprintf("REVOKE %s ON %s.%s FROM '%s'@'%%'", right, name, table, user))
			denied, err := asUser.Denied(within(t))
			if err != nil || !slices.Contains(denied, right+" on "+table) || right != "SELECT" && len(denied) != 1 {
				t.Errorf("without %s on %s: %v, %v", right, table, denied, err)
			}
			d.exec(t, fmt.Sprintf("GRANT %s ON %s.%s TO '%s'@'%%'", right, name, table, user))
		}
	}
	if after := d.dump(t); after != before {
		t.Errorf("something is left: %s", after)
	}
	// A server that cannot be reached denies nothing.
	d.faults.Script("rights", slices.Repeat([]repotest.Fault{repotest.NotApplied}, 6)...)
	if denied, err := d.Denied(within(t)); !errors.Is(err, repo.ErrUnavailable) || len(denied) > 0 {
		t.Errorf("denied are %v, %v", denied, err)
	}
	// A schema that is not complete is no right that is missing.
	d.exec(t, "ALTER TABLE component DROP COLUMN attempts")
	if denied, err := d.Denied(within(t)); err != nil || len(denied) > 0 {
		t.Errorf("denied are %v, %v", denied, err)
	}
}

// A look at the owner records nothing.
func TestCheckOwner(t *testing.T) {
	d := newDatabase(t)
	ours, others := streamsOf("A_", ""), streamsOf("B_", "")
	for range 2 {
		if err := errors.Join(d.CheckOwner(within(t), ours), d.CheckOwner(within(t), others)); err != nil {
			t.Errorf("a database that belongs to nobody: %v", err)
		}
	}
	if err := d.Own(within(t), others, start); err != nil {
		t.Fatal(err)
	}
	if err := d.CheckOwner(within(t), ours); !errors.Is(err, repo.ErrOtherStreams) || !says(err, "preauth schema adopt") {
		t.Errorf("err = %v", err)
	}
	if err := errors.Join(d.CheckOwner(within(t), others), d.CheckOwner(within(t), streamsOf("B_", "ONE"))); err != nil {
		t.Error(err)
	}
}
