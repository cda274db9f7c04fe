package gateway

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/gateway.md has a row for each kind of problem, and openapi.json names its type.
func TestProblemsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]{3}) \\|").FindAllStringSubmatch(string(page), -1) {
		got = append(got, row[1]+" "+row[2])
	}
	for _, k := range kinds {
		want = append(want, fmt.Sprint(k.name, " ", k.status))
		if !regexp.MustCompile(`\b[Tt]ype ` + k.name + `\b`).Match(description) {
			t.Errorf("openapi.json does not name the type %s", k.name)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/gateway.md has the problems\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
