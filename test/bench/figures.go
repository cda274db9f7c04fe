package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// figure is one line of the table: what was measured in each round, held against the goal.
type figure struct {
	row  string
	what string
	// bound is the goal: the median may be at most, or must be at least, this.
	bound  float64
	atMost bool
	// unit follows the values, "×" for a ratio.
	unit   string
	values []float64
	// before are the values of the other version of the service in the same rounds, if there is one.
	before []float64
	// given says what the figure is made of, in absolute terms.
	given string
}

func (f figure) median() float64 { return median(f.values) }

func (f figure) passed() bool {
	if f.atMost {
		return f.median() <= f.bound
	}
	return f.median() >= f.bound
}

// report is what the rows have found.
type report struct {
	// against names the version that the service is compared with, if any.
	against string
	figures []figure
	notes   []string
}

// add adds a figure, with its values for each version of the service.
func (r *report) add(f figure, byVersion ...[]float64) {
	f.values = byVersion[0]
	if len(byVersion) > 1 {
		f.before = byVersion[1]
	}
	r.figures = append(r.figures, f)
}

func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// write prints the table in Markdown.
func (r *report) write(out io.Writer) {
	if len(r.figures) > 0 {
		head, line := "| row | what | goal | measured | spread | |", "|---|---|---|---|---|---|"
		if r.against != "" {
			head, line = head+" at "+r.against+" | change |", line+"---|---|"
		}
		fmt.Fprintf(out, "%s\n%s\n", head, line)
	}
	for _, f := range r.figures {
		sign, verdict := "≥", "**missed**"
		if f.atMost {
			sign = "≤"
		}
		if f.passed() {
			verdict = "met"
		}
		fmt.Fprintf(out, "| %s | %s | %s %s | %s | %s to %s | %s |", f.row, f.what, sign, amount(f.bound, f.unit),
			amount(f.median(), f.unit), amount(slices.Min(f.values), f.unit), amount(slices.Max(f.values), f.unit), verdict)
		switch {
		case r.against == "":
		case f.before == nil:
			fmt.Fprint(out, " | |")
		default:
			fmt.Fprintf(out, " %s | %s |", amount(median(f.before), f.unit), amount(median(ratios(f.values, f.before)), "×"))
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out)
	for _, f := range r.figures {
		if f.given != "" {
			fmt.Fprintf(out, "- %s, %s: %s\n", f.row, f.what, f.given)
		}
	}
	for _, note := range r.notes {
		fmt.Fprintf(out, "- %s\n", note)
	}
}

// amount prints a value with three significant digits.
func amount(v float64, unit string) string {
	digits := 0
	if v != 0 && math.Abs(v) < 100 {
		digits = min(4, max(0, 2-int(math.Floor(math.Log10(math.Abs(v))))))
	}
	text := fmt.Sprintf("%.*f", digits, v)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	if unit == "" {
		return text
	}
	return text + " " + unit
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the value below which the part q of all values lies, by the nearest rank.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// milliseconds returns durations as numbers.
func milliseconds(durations []time.Duration) []float64 {
	values := make([]float64, len(durations))
	for i, d := range durations {
		values[i] = float64(d) / float64(time.Millisecond)
	}
	return values
}

// ratios divides what was measured in the same round.
func ratios(a, b []float64) []float64 {
	values := make([]float64, len(a))
	for i := range a {
		values[i] = a[i] / b[i]
	}
	return values
}
