package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
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

func TestSchemaStatus(t *testing.T) {
	t.Parallel()
	dsn := apptest.NewDatabase(t)
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ask := func(wanted int, out, stderr string, missing ...int) {
		t.Helper()
		status, text, said := do(t, "schema", "status", "--mysql-dsn="+dsn)
		if status != wanted || text != out || !strings.HasPrefix(said, stderr) || (said == "") != (stderr == "") {
			t.Errorf("status %d, %q, %q; want %d, %q, %q", status, text, said, wanted, out, stderr)
		}
		status, text, _ = do(t, "schema", "status", "--json", "--mysql-dsn="+dsn)
		var answer struct {
			Version       *int
			Wanted        *int
			OldestProgram *int `json:"oldest_program"`
			Missing       []struct {
				Version    int
				Name       string
				Statements []string
			}
		}
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&answer); err != nil || status != wanted || answer.Version == nil || *answer.Wanted != 5 || answer.OldestProgram == nil || answer.Missing == nil {
			t.Errorf("status %d, %s, %v", status, text, err)
		}
		var versions []int
		for _, m := range answer.Missing {
			versions = append(versions, m.Version)
			if m.Name == "" || m.Statements == nil {
				t.Errorf("missing is %+v", m)
			}
		}
		if !slices.Equal(versions, missing) {
			t.Errorf("missing are %v, want %v", versions, missing)
		}
	}
	ask(1, "The database has version 0 of the schema, and this program is made for version 5.\nWhat is missing:\n"+
		"  1  components, codes and announcements\n  2  shorter message ids\n  3  the streams that the database belongs to\n"+
		"  4  spent codes and trace contexts\n  5  the version of the schema\n",
		"preauth: the table component is missing (migration 1: components, codes and announcements): run `preauth schema apply`", 1, 2, 3, 4, 5)
	if status, _, stderr := do(t, "schema", "apply", "--mysql-dsn="+dsn); status != 0 {
		t.Fatal(stderr)
	}
	ask(0, "The database has version 5 of the schema, and this program is made for version 5.\n", "")
	exec := func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE outbox DROP COLUMN traceparent")
	ask(1, "The database has version 3 of the schema, and this program is made for version 5.\nWhat is missing:\n"+
		"  4  spent codes and trace contexts\n  5  the version of the schema\n",
		"preauth: migration 4 is missing (spent codes and trace contexts): run `preauth schema apply`", 4, 5)
	exec("INSERT INTO schema_version (version, oldest_program, name, applied_at) VALUES (6, 5, 'later', '2026-01-01')")
	ask(0, "The database has version 6 of the schema, and this program is made for version 5.\n", "")
	exec("INSERT INTO schema_version (version, oldest_program, name, applied_at) VALUES (7, 6, 'later still', '2026-01-01')")
	ask(1, "The database has version 7 of the schema, and this program is made for version 5.\n",
		"preauth: the schema is too new: the database has version 7, which programs made for version 6 or later work with, and this one is made for version 5: run a newer release of preauth here")
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
