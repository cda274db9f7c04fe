package main

import (
	"math"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[len(hundred)-1-i] = float64(i + 1)
	}
	for _, test := range []struct {
		name   string
		values []float64
		q      float64
		want   float64
	}{
		{"median of an odd number", []float64{3, 1, 2}, 0.5, 2},
		{"median of one", []float64{7}, 0.5, 7},
		{"p99 of a hundred is the largest", hundred, 0.99, 100},
		{"p90 of a hundred", hundred, 0.9, 91},
		{"the largest", []float64{5, 9, 1}, 1, 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := quantile(test.values, test.q); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	if !math.IsNaN(median(nil)) {
		t.Error("no values have a median")
	}
}

func TestAmount(t *testing.T) {
	for _, test := range []struct {
		value float64
		unit  string
		want  string
	}{
		{1, "×", "1 ×"},
		{0.95, "×", "0.95 ×"},
		{1.4567, "×", "1.46 ×"},
		{0.0123456, "%", "0.0123 %"},
		{12345.6, "events/s", "12346 events/s"},
		{20, "", "20"},
		{0, "B", "0 B"},
		{-3.21, "KiB", "-3.21 KiB"},
	} {
		if got := amount(test.value, test.unit); got != test.want {
			t.Errorf("%v: got %q, want %q", test.value, got, test.want)
		}
	}
}

func TestTableSaysWhetherTheGoalIsMet(t *testing.T) {
	for _, test := range []struct {
		name   string
		figure figure
		want   string
	}{
		{"at most, and less", figure{bound: 1, atMost: true, values: []float64{0.9, 2, 0.8}}, "| ≤ 1 | 0.9 | 0.8 to 2 | met |"},
		{"at most, and more", figure{bound: 1, atMost: true, values: []float64{1.1}}, "| ≤ 1 | 1.1 | 1.1 to 1.1 | **missed** |"},
		{"at least, and exactly", figure{bound: 4, values: []float64{4}}, "| ≥ 4 | 4 | 4 to 4 | met |"},
		{"at least, and less", figure{bound: 4, values: []float64{3.9, 5, 1}}, "| ≥ 4 | 3.9 | 1 to 5 | **missed** |"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var text strings.Builder
			r := report{figures: []figure{test.figure}}
			r.write(&text)
			if !strings.Contains(text.String(), test.want) {
				t.Errorf("no %q in\n%s", test.want, text.String())
			}
		})
	}
}

func TestTableComparesVersions(t *testing.T) {
	r := report{against: "v1"}
	r.add(figure{row: "a", what: "faster", unit: "s"}, []float64{1, 2, 3}, []float64{2, 4, 12})
	r.add(figure{row: "b", what: "of one version"}, []float64{1})
	var text strings.Builder
	r.write(&text)
	for _, want := range []string{"| at v1 | change |\n", "| 1 s to 3 s | met | 4 s | 0.5 × |\n", "| 1 to 1 | met | | |\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

func TestRatiosAreOfOneRound(t *testing.T) {
	got := ratios([]float64{2, 9}, []float64{1, 3})
	if len(got) != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("got %v", got)
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose([]string{"idle", "event"})
	if err != nil || len(chosen) != 2 || chosen[0].name != "idle" || chosen[1].name != "event" {
		t.Errorf("the rows named, in that order: got %v, %v", chosen, err)
	}
	if chosen, err := choose([]string{"all"}); err != nil || len(chosen) != len(rows) {
		t.Errorf("all: got %d rows, %v", len(chosen), err)
	}
	for _, names := range [][]string{nil, {"events"}} {
		if _, err := choose(names); err == nil || !strings.Contains(err.Error(), "event, throughput") {
			t.Errorf("%v: the error does not name the rows: %v", names, err)
		}
	}
}
