package main

import (
	"errors"
	"strings"
	"testing"
	"time"

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

func TestDatabaseIsAdopted(t *testing.T) {
	t.Parallel()
	dsn := apptest.NewDatabase(t)
	if status, _, stderr := do(t, "schema", "apply", "--mysql-dsn="+dsn); status != 0 {
		t.Fatal(stderr)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "The database belongs to the streams COMPONENT_TOKENS, PREAUTH and PREAUTH_FAILED.\n"},
		{
			[]string{"--stream-tokens=T", "--stream-updates=U", "--stream-failures=F"},
			"The database belonged to the streams COMPONENT_TOKENS, PREAUTH and PREAUTH_FAILED, and belongs to T, U and F now.\n",
		},
	} {
		args := append([]string{"schema", "adopt", "--mysql-dsn=" + dsn}, test.args...)
		if status, out, stderr := do(t, args...); status != 0 || out != test.want || stderr != "" {
			t.Errorf("%v: status %d, %q, %q; want %q", test.args, status, out, stderr, test.want)
		}
	}
	db, err := repo.Open(dsn, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Own(t.Context(), repo.StreamSet{Tokens: "T", Updates: "U", Failures: "F", Account: "$G"}, time.Now()); err != nil {
		t.Errorf("the streams that adopted it: %v", err)
	}
	err = db.Own(t.Context(), repo.StreamSet{Tokens: "COMPONENT_TOKENS", Updates: "PREAUTH", Failures: "PREAUTH_FAILED"}, time.Now())
	if !errors.Is(err, repo.ErrOtherStreams) {
		t.Errorf("the streams before: %v", err)
	}
}
