package database_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"preauth/internal/database"
)

// A slice stands for its items, a slice of rows for rows, and an empty one for none.
func TestLists(t *testing.T) {
	ctx := t.Context()
	db, raw := open(t, server.DSN("test"))
	if err := db.Define(ctx, "define", "CREATE TABLE list (id INT PRIMARY KEY, name VARBINARY(9), seen DATETIME(6))"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = raw.Exec("DROP TABLE list") })
	for _, rows := range [][][]any{
		{{1, []byte("a?"), time.Date(2026, 7, 1, 0, 0, 0, 1000, time.UTC)}}, {{2, nil, nil}, {3, "c", nil}}, nil,
	} {
		n, err := db.Exec(ctx, "insert", "/* test.insert */ INSERT INTO list (id, name, seen) VALUES ?", rows)
		if err != nil || n != int64(len(rows)) {
			t.Errorf("%d of %d rows, %v", n, len(rows), err)
		}
	}
	if _, err := db.Exec(ctx, "insert", "/* test.insert */ INSERT INTO list (id) VALUES ?", [][]any{{4}, {1}}); !errors.Is(err, database.ErrDuplicate) {
		t.Errorf("a duplicate: %v", err)
	}
	type row struct {
		ID   int
		Name string
		Seen time.Time
	}
	fields := func(r *row) []any { return []any{&r.ID, database.OrZero(&r.Name), database.OrZero(&r.Seen)} }
	for want, args := range map[string][]any{
		"[{1 a? 2026-07-01 00:00:00.000001 +0000 UTC} {3 c 0001-01-01 00:00:00 +0000 UTC}]": {[]int{3, 1}, [][]byte{[]byte("a?"), []byte("c")}},
		"[]": {[]int{1, 2, 3}, [][]byte(nil)},
	} {
		rows, err := database.Query(ctx, db, "select", fields, "/* test.select */ SELECT id, name, seen FROM list WHERE id IN (?) AND name IN (?) ORDER BY id", args...)
		if got := fmt.Sprint(rows); err != nil || got != want {
			t.Errorf("%v: %s, %v, want %s", args, got, err, want)
		}
	}
	// NULL sets the zero value.
	names, err := database.Query(ctx, db, "select", func(name *string) []any { *name = "old"; return []any{database.OrZero(name)} }, "/* test.select */ SELECT name FROM list WHERE id = ?", 2)
	if err != nil || !slices.Equal(names, []string{""}) {
		t.Errorf("%q, %v", names, err)
	}
}
