package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// table says what a run did. It is printed in Markdown, and the tables of several runs can be
// added.
type table []row

// row is what was counted or timed, with its value.
type row struct{ what, value string }

// longest is the row whose sum is the largest value.
const longest = "settled after, at the longest"

func (t table) write(w io.Writer, title string) {
	fmt.Fprintf(w, "\n| | %s |\n|---|---|\n", title)
	for _, r := range t {
		fmt.Fprintf(w, "| %s | %s |\n", r.what, r.value)
	}
}

// readTable returns the table in the output of a run.
func readTable(r io.Reader) (table, error) {
	var t table
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) != 4 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[1]) == "" {
			continue
		}
		t = append(t, row{strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])})
	}
	return t, lines.Err()
}

// find returns the index of row i of another table in this one, or -1. A row that begins with dots
// belongs to the nearest row above it without dots.
func (t table) find(other table, i int) int {
	whole := func(t table, i int) (what string) {
		for what = t[i].what; i > 0 && strings.HasPrefix(t[i].what, "..."); {
			i--
			what = t[i].what + what
		}
		return what
	}
	for at := range t {
		if t[at].what == other[i].what && whole(t, at) == whole(other, i) {
			return at
		}
	}
	return -1
}

// add returns the sum of two tables of the same form. A row that only one of them has comes after
// the row that it follows there.
func (t table) add(other table) (table, error) {
	if len(t) == 0 {
		return other, nil
	}
	sum := slices.Clone(t)
	for i, r := range other {
		at := sum.find(other, i)
		if at < 0 {
			after := -1
			if i > 0 {
				after = sum.find(other, i-1)
			}
			sum = slices.Insert(sum, after+1, r)
			continue
		}
		value, err := r.plus(sum[at])
		if err != nil {
			return nil, err
		}
		sum[at].value = value
	}
	return sum, nil
}

// plus returns the sum of two values of the same row.
func (r row) plus(other row) (string, error) {
	if r.what == "seeds" {
		return other.value + ", " + r.value, nil
	}
	a, errA := strconv.Atoi(r.value)
	b, errB := strconv.Atoi(other.value)
	if err := cmp.Or(errA, errB); err == nil {
		return strconv.Itoa(a + b), nil
	}
	first, errA := time.ParseDuration(r.value)
	second, errB := time.ParseDuration(other.value)
	if err := cmp.Or(errA, errB); err != nil {
		return "", fmt.Errorf("row %q: %w", r.what, err)
	}
	if r.what == longest {
		return max(first, second).String(), nil
	}
	return (first + second).String(), nil
}
