package database_test

import (
	"database/sql"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"preauth/internal/database"
)

// item is a row of the tests' table.
type item struct {
	ID   int                 `db:"id"`
	Name []byte              `db:"name"`
	Seen sql.Null[time.Time] `db:"seen"`
}

// A slice in a list stands for its items, and no rows are inserted by no statement.
func TestStatements(t *testing.T) {
	ctx := t.Context()
	db, raw := open(t, server.DSN("test"))
	if err := db.Define(ctx, "define", "CREATE TABLE item (id INT PRIMARY KEY, name VARBINARY(9), seen DATETIME(6))"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = raw.Exec("DROP TABLE item") })
	const insert = "/* test.insert */ INSERT INTO item (id, name, seen) VALUES (:id, :name, :seen) ON DUPLICATE KEY UPDATE name = VALUES(name)"
	seen := sql.Null[time.Time]{V: time.Date(2026, 7, 1, 0, 0, 0, 1000, time.UTC), Valid: true}
	for _, rows := range [][]item{{{1, []byte("a?"), seen}}, {{ID: 2}, {ID: 3, Name: []byte(":c")}}, nil} {
		if err := db.Insert(ctx, "insert", insert, rows); err != nil {
			t.Errorf("%d rows: %v", len(rows), err)
		}
	}
	if _, err := db.Exec(ctx, "insert", "/* test.insert */ INSERT INTO item (id) VALUES (?)", 1); !errors.Is(err, database.ErrDuplicate) {
		t.Errorf("a duplicate: %v", err)
	}
	rows, err := database.Query[item](ctx, db, "select", "/* test.select */ SELECT * FROM item WHERE id IN (?) AND (name IS NULL OR name IN (?)) ORDER BY id",
		[]int{3, 2, 1}, [][]byte{[]byte("a?"), []byte("c")})
	if want := []item{{1, []byte("a?"), seen}, {ID: 2}}; err != nil || !reflect.DeepEqual(rows, want) {
		t.Errorf("%v, %v, want %v", rows, err, want)
	}
	ids, err := database.Query[int](ctx, db, "select", "/* test.select */ SELECT id FROM item WHERE name = ?", []byte(":c"))
	if err != nil || !slices.Equal(ids, []int{3}) {
		t.Errorf("%v, %v", ids, err)
	}
}

// An error about the rows of an INSERT shows none of them.
func TestInsertWithoutAField(t *testing.T) {
	db, _ := open(t, server.DSN("test"))
	err := db.Insert(t.Context(), "insert", "/* test.insert */ INSERT INTO item (missing) VALUES (:missing)", []struct{ Code string }{{"secret"}})
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.HasPrefix(err.Error(), "insert: ") {
		t.Error(err)
	}
}
