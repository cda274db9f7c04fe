package main

import (
	"strings"
	"testing"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/repo"
)

func TestSchemaIsPrinted(t *testing.T) {
	t.Parallel()
	if status, out, stderr := do(t, "schema", "print"); status != 0 || out != preauth.Schema || stderr != "" {
		t.Errorf("status %d, %d bytes, %q; want 0 and the schema", status, len(out), stderr)
	}
}

func TestSchemaIsAppliedAsOftenAsOneLikes(t *testing.T) {
	t.Parallel()
	dsn := apptest.NewDatabase(t)
	db, err := repo.Open(dsn, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Check(t.Context()); err == nil {
		t.Fatal("an empty database has the schema")
	}
	for range 2 {
		if status, out, stderr := do(t, "schema", "apply", "--mysql-dsn="+dsn); status != 0 || out != "The schema is applied.\n" || stderr != "" {
			t.Errorf("status %d, %q, %q; want 0 and that it is applied", status, out, stderr)
		}
		if err := db.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestSchemaIsNotAppliedWithoutADatabase(t *testing.T) {
	t.Parallel()
	status, out, stderr := do(t, "schema", "apply", "--mysql-dsn=me:"+secret+"@tcp(127.0.0.1:1)/preauth")
	if status != 1 || out != "" || !strings.Contains(stderr, "connection refused") {
		t.Errorf("status %d, %q, %q; want 1 and why", status, out, stderr)
	}
}
