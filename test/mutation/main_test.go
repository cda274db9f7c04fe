package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// project writes a project of one package, and a list of survivors, and returns the arguments that
// name them.
func project(t *testing.T, survivors string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example\n\ngo 1.26\n",
		"price.go": `package price

import (
	"errors"
	"time"
)

var errNegative = errors.New("negative")

// Of returns the price of some pieces; from ten on, there is a discount.
func Of(pieces, each int) (int, error) {
	if pieces < 0 || each < 0 {
		return 0, errNegative
	}
	price := pieces * each
	if pieces >= 10 {
		price -= price / 10
	}
	return price, nil
}

func forgotten(n int) int { return n + 1 }

func runs() bool {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop() // at the end
	return timer.Stop()
}
`,
		"price_test.go": `package price

import "testing"

func TestOf(t *testing.T) {
	for _, test := range []struct{ pieces, each, want int }{{1, 7, 7}, {2, 7, 14}, {20, 10, 180}, {0, 5, 0}} {
		if got, err := Of(test.pieces, test.each); got != test.want || err != nil {
			t.Errorf("%d at %d: %d, %v", test.pieces, test.each, got, err)
		}
	}
	if _, err := Of(-1, 1); err == nil {
		t.Error("no error")
	}
	if !runs() {
		t.Error("stopped too early")
	}
}
`,
		"survivors.txt": survivors,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"-root", dir, "-survivors", filepath.Join(dir, "survivors.txt")}
}

var heading = regexp.MustCompile(`(?m)^price\.go:\d+: (survived|not covered)\n(.*)$`)

func TestSurvivorsAreFound(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), append(project(t, ""), "-least", "10", "."), &out, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, match := range heading.FindAllStringSubmatch(out.String(), -1) {
		got = append(got, match[1]+" "+match[2])
	}
	slices.Sort(got)
	want := []string{
		"not covered price.go forgotten: arithmetic: n + 1",
		"not covered price.go forgotten: one more: 1",
		"not covered price.go forgotten: result is zero: n + 1",
		// Nobody tries a negative price, nor the first number that has the discount.
		"survived price.go Of: boundary: each < 0",
		"survived price.go Of: boundary: pieces >= 10",
		"survived price.go Of: one more: 0 #2",
		"survived price.go Of: one more: 10",
		"survived price.go Of: operand is false: each < 0",
		// Nor does anybody wait for the timer.
		"survived price.go runs: a hundredth: time.Hour",
		"survived price.go runs: defer deleted: defer timer.Stop()",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, text := range []string{"\t- if pieces >= 10 {\n\t+ if pieces > 10 {\n", "| `.` | ", "| 25 | 15 | 0 | 0 | 7 | 3 | 60.0 % |"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("no %q in\n%s", text, out.String())
		}
	}
}

func TestListOfSurvivorsIsHeldToTheCode(t *testing.T) {
	const list = `# A comment.

price.go Of: boundary: pieces >= 10
	The reason,
	in two lines.
price.go Of: condition is true: pieces >= 10
	The tests find it.
price.go Of: boundary: pieces >= 11
	It was there once.
`
	var out strings.Builder
	err := run(t.Context(), append(project(t, list), "-only", "pieces >= 1", "-least", "0", "."), &out, io.Discard)
	if err == nil {
		t.Fatalf("no complaint:\n%s", out.String())
	}
	for _, text := range []string{
		"no such mutant: price.go Of: boundary: pieces >= 11", "the tests find this mutant: price.go Of: condition is true: pieces >= 10",
	} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q lacks %q", err, text)
		}
	}
	if strings.Contains(out.String(), "survived\n") || !strings.Contains(out.String(), "| `.` | 3 | 2 | 0 | 1 | 0 | 0 | 100.0 % |") {
		t.Errorf("the listed mutant counts:\n%s", out.String())
	}
}

func TestScoreTooLow(t *testing.T) {
	err := run(t.Context(), append(project(t, ""), "-only", "forgotten", "."), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "below 90 %") {
		t.Errorf("%v, want a score that is too low", err)
	}
}

func TestEverySampleOfASeedIsTheSame(t *testing.T) {
	sample := func() string {
		var out strings.Builder
		if err := run(t.Context(), append(project(t, ""), "-sample", "6", "-seed", "7", "-least", "0", "."), &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	first := sample()
	if !strings.Contains(first, "A sample of at most 6 mutants with -seed 7.") || !strings.Contains(first, "| `.` | 6 | ") {
		t.Errorf("no sample of 6:\n%s", first)
	}
	if second := sample(); second != first {
		t.Errorf("first\n%s\nthen\n%s", first, second)
	}
}

func TestReasonsAreDemanded(t *testing.T) {
	for name, test := range map[string]struct{ list, says string }{
		"none":            {"a.go F: one more: 1\n", "no reason"},
		"none in between": {"a.go F: one more: 1\na.go F: one more: 2\n\tbecause\n", "no reason"},
		"no mutant":       {"\tbecause\n", "without a mutant"},
		"twice":           {"a.go F: one more: 1\n\tbecause\na.go F: one more: 1\n\tbecause\n", "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "survivors.txt")
			if err := os.WriteFile(file, []byte(test.list), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readSurvivors(file); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}
