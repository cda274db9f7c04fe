package page

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"preauth"
)

// Each text is there in all languages with the same arguments, and is used.
func TestTextsAreComplete(t *testing.T) {
	verb := regexp.MustCompile(`%(\[\d\])?[ds]`)
	for name, both := range texts {
		for i, text := range both {
			if strings.TrimSpace(text) == "" {
				t.Errorf("%s: no text in %s", name, locales[i].Lang)
			}
		}
		if en, zh := verb.FindAllString(both[0], -1), verb.FindAllString(both[1], -1); len(en) != len(zh) {
			t.Errorf("%s: arguments %q in English, %q in Chinese", name, en, zh)
		}
	}
	source, err := templates.ReadFile("page.html")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, match := range regexp.MustCompile(`\bt "([a-z_.]+)"`).FindAllStringSubmatch(string(source), -1) {
		used[match[1]] = true
		if texts[match[1]][0] == "" {
			t.Errorf("the page says %q, which no text is", match[1])
		}
	}
	composed := []string{"headline.", "state.", "class.", "cause.", "events.", "language.", "title", "refused", "unknown"}
	for name := range texts {
		if !used[name] && !slices.ContainsFunc(composed, func(part string) bool { return strings.HasPrefix(name, part) }) {
			t.Errorf("nothing says %q", name)
		}
	}
}

// What the contract may say of a component has its words in both languages.
func TestContractHasItsWords(t *testing.T) {
	var names []string
	for _, class := range preauth.Classes() {
		names = append(names, "class."+string(class))
		if chinese[class] == "" || class.Advice() == "" {
			t.Errorf("%s: no advice", class)
		}
	}
	if len(chinese) != len(preauth.Classes()) {
		t.Errorf("advice for %d classes, of %d", len(chinese), len(preauth.Classes()))
	}
	if len(shown) != len(preauth.States()) {
		t.Errorf("%d states are shown, of %d", len(shown), len(preauth.States()))
	}
	for _, state := range preauth.States() {
		names = append(names, "state."+string(state), "state."+string(state)+".said", "headline."+string(state))
	}
	for _, cause := range []preauth.Cause{preauth.CauseToken, preauth.CauseRenewal, preauth.CauseDemand, preauth.CauseSpent} {
		names = append(names, "cause."+string(cause))
	}
	for _, name := range names {
		for column := range locales {
			if texts[name][column] == "" {
				t.Errorf("%s: no text in %s", name, locales[column].Lang)
			}
		}
	}
	// A newer service may say more.
	if said := locales[1].text("class.moon_phase"); said != "moon_phase" {
		t.Errorf("a class without a text is called %q", said)
	}
}
