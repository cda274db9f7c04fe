package entry

import (
	"regexp"
	"strings"
	"testing"
)

// Each text is there in all languages, and is used.
func TestTextsAreComplete(t *testing.T) {
	used := map[string]bool{}
	for _, match := range regexp.MustCompile(`\.T "([a-z.]+)"`).FindAllStringSubmatch(source, -1) {
		used[match[1]] = true
	}
	for _, kind := range []string{"computer", "phone", "done", "forged", "expired", "conflict", "wrong", "unready", "busy", "broken", "away"} {
		used[kind], used[kind+".said"] = true, true
		if kind == "computer" || kind == "phone" {
			used[kind+".go"] = true
		}
	}
	for name := range used {
		for column, text := range texts[name] {
			if strings.TrimSpace(text) == "" {
				t.Errorf("%s: no text in %s", name, pageLanguages[column].Label)
			}
		}
	}
	for name := range texts {
		if !used[name] {
			t.Errorf("nothing says %q", name)
		}
	}
}
