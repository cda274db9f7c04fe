package main

import (
	"strings"
	"testing"
)

func TestTablesAreSummed(t *testing.T) {
	first := table{{"runs", "1"}, {"seeds", "7"}, {"time with faults", "1m30s"}, {longest, "2s"}, {"killed", "3"}, {"... well", "2"}, {"cured", "1"}, {"... well", "1"}, {"**violations**", "0"}}
	second := table{{"runs", "1"}, {"seeds", "8"}, {"time with faults", "30s"}, {longest, "5s"}, {"killed", "4"}, {"... well", "20"}, {"cut", "1"}, {"cured", "1"}, {"... well", "10"}, {"**violations**", "1"}}
	var printed strings.Builder
	second.write(&printed, "3 replicas")
	read, err := readTable(strings.NewReader("12:00:00 a line before\n" + printed.String()))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := first.add(read)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	sum.write(&got, "sum")
	want := `
| | sum |
|---|---|
| runs | 2 |
| seeds | 7, 8 |
| time with faults | 2m0s |
| settled after, at the longest | 5s |
| killed | 7 |
| ... well | 22 |
| cut | 1 |
| cured | 2 |
| ... well | 11 |
| **violations** | 1 |
`
	if got.String() != want {
		t.Errorf("got %s, want %s", got.String(), want)
	}
}
