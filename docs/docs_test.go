// Package docs holds the project's pages. Its tests keep them true: the messages and commands that a
// page shows are sent to the service, and the tests, settings and files that it names exist.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const (
	root  = ".."
	appID = "wx0123456789abcdef" // of the examples on all pages
)

// read returns a file of the project.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// find returns the names, relative to the root, of the project's files that match.
func find(t *testing.T, match func(name string) bool) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch base := entry.Name(); {
		case entry.IsDir() && name != "." && (strings.HasPrefix(base, ".") || base == "node_modules" || base == "testdata"):
			return fs.SkipDir
		case !entry.IsDir() && match(name):
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func pages(t *testing.T) []string {
	t.Helper()
	found := find(t, func(name string) bool { return strings.HasSuffix(name, ".md") })
	if len(found) < 4 {
		t.Fatalf("only found %v", found)
	}
	return found
}

// block is a fenced block of a page, below its nearest heading.
type block struct {
	heading, lang, text string
}

// split returns the fenced blocks of a page and the text outside of them.
func split(page string) (blocks []block, prose string) {
	var heading string
	var inside *block
	var outside strings.Builder
	for line := range strings.Lines(page) {
		fence, fenced := strings.CutPrefix(line, "```")
		switch {
		case fenced && inside == nil:
			inside = &block{heading: heading, lang: strings.TrimSpace(fence)}
		case fenced:
			blocks = append(blocks, *inside)
			inside = nil
		case inside != nil:
			inside.text += line
		default:
			if strings.HasPrefix(line, "#") {
				heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
			}
			outside.WriteString(line)
		}
	}
	return blocks, outside.String()
}

// blocks returns the blocks of a page in one language. There has to be one.
func blocks(t *testing.T, page, lang string) []block {
	t.Helper()
	all, _ := split(read(t, page))
	found := slices.DeleteFunc(all, func(b block) bool { return b.lang != lang })
	if len(found) == 0 {
		t.Fatalf("no %s in %s", lang, page)
	}
	return found
}

// shown returns the texts of those blocks that stand below a heading.
func shown(t *testing.T, page, lang, heading string) []string {
	t.Helper()
	var texts []string
	for _, b := range blocks(t, page, lang) {
		if b.heading == heading {
			texts = append(texts, b.text)
		}
	}
	return texts
}

// anchor returns the fragment that links to a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

func anchors(page string) []string {
	var all []string
	_, prose := split(page)
	for line := range strings.Lines(prose) {
		if strings.HasPrefix(line, "#") {
			all = append(all, anchor(strings.TrimSpace(strings.TrimLeft(line, "#"))))
		}
	}
	return all
}

func TestLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages(t) {
		_, prose := split(read(t, page))
		for _, found := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			file, fragment, _ := strings.Cut(found[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", page, found[1])
				continue
			}
			if fragment != "" && !slices.Contains(anchors(read(t, target)), fragment) {
				t.Errorf("%s links to %s: no such heading", page, found[1])
			}
		}
	}
}

// sources returns the text of the project's files that match.
func sources(t *testing.T, match func(name string) bool) string {
	t.Helper()
	var all strings.Builder
	for _, name := range find(t, match) {
		all.WriteString(read(t, name))
	}
	return all.String()
}

func TestTestsThatAreNamedExist(t *testing.T) {
	tests := sources(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	name := regexp.MustCompile(`\bTest[A-Z]\w+\b[^…]`) // "TestAllocations…" stands for several
	named := 0
	for _, page := range pages(t) {
		for _, found := range name.FindAllString(read(t, page), -1) {
			named++
			found = found[:len(found)-1]
			if !strings.Contains(tests, "\nfunc "+found+"(t *testing.T)") {
				t.Errorf("%s names %s, which does not exist", page, found)
			}
		}
	}
	if named == 0 {
		t.Error("no page names a test")
	}
}

func TestSettingsThatAreNamedExist(t *testing.T) {
	command := sources(t, func(name string) bool {
		ours := strings.HasPrefix(name, "cmd"+string(filepath.Separator)) || strings.HasPrefix(name, filepath.Join("internal", "app")) ||
			strings.HasPrefix(name, "bridge"+string(filepath.Separator))
		return ours && strings.HasSuffix(name, ".go")
	})
	makefile := read(t, "Makefile")
	elsewhere := makefile + sources(t, func(name string) bool { // names of streams among them
		return strings.HasSuffix(name, ".go") && (strings.HasPrefix(name, "consumer") || strings.HasPrefix(name, filepath.Join("internal", "mysqlserver")))
	})
	variable := regexp.MustCompile(`\b(?:PREAUTH|NATS|MYSQL)_[A-Z_]+\b`)
	flag := regexp.MustCompile(`--([a-z][a-z-]+)`)
	ours := regexp.MustCompile(`preauth (?:serve|schema|check|doctor|status|renew|watch|failures|lookup|claim|resolve|announce|authorized|replay|quota|gateway|completion|man|version)|preauth-dev|preauth-bridge|make dev`)
	target := regexp.MustCompile("(?:`|^ *)make ([a-z]+)(?: ARGS|`|$)")
	for _, page := range pages(t) {
		if page == "CHANGELOG.md" { // names settings that are gone
			continue
		}
		text := read(t, page)
		for _, name := range variable.FindAllString(text, -1) {
			if !strings.Contains(command, `"`+name+`"`) && !strings.Contains(elsewhere, name) {
				t.Errorf("%s names the variable %s, which does not exist", page, name)
			}
		}
		for line := range strings.Lines(text) {
			if ours.MatchString(line) {
				for _, name := range flag.FindAllStringSubmatch(line, -1) {
					if !strings.Contains(command, `name:"`+name[1]+`"`) && name[1] != "help" && name[1] != "version" {
						t.Errorf("%s names the flag --%s, which does not exist", page, name[1])
					}
				}
			}
			for _, name := range target.FindAllStringSubmatch(strings.TrimRight(line, "\n"), -1) {
				if !strings.Contains(makefile, "\n"+name[1]+":") {
					t.Errorf("%s names the target %s, which the Makefile lacks", page, name[1])
				}
			}
		}
	}
}

// The contract and the operation page have a row for each class of failure.
func TestClassesAreDocumented(t *testing.T) {
	classes := regexp.MustCompile(`Class = "(\w+)"`).FindAllStringSubmatch(read(t, "class.go"), -1)
	if len(classes) == 0 {
		t.Fatal("class.go has none")
	}
	for _, page := range []string{"docs/contract.md", "docs/operation.md"} {
		text := read(t, page)
		for _, class := range classes {
			if !regexp.MustCompile("(?m)^\\| [^|]*`" + class[1] + "`").MatchString(text) {
				t.Errorf("%s has no row for the class %s", page, class[1])
			}
		}
	}
}

// reliability.md has a row for each broken build that the fault harness has to find.
func TestBrokenBuildsAreDocumented(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "docs/reliability.md"), "\n| build | found as |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{}
	for line := range strings.Lines(table) {
		build, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		documented[strings.ReplaceAll(build, "`", "")] = true
	}
	for _, build := range regexp.MustCompile(`(?m)^\t\tname:\s+"(.*)",$`).FindAllStringSubmatch(read(t, "test/chaos/broken_test.go"), -1) {
		if !documented[build[1]] {
			t.Errorf("reliability.md has no row for %q", build[1])
		}
		delete(documented, build[1])
	}
	for build := range documented {
		t.Errorf("reliability.md has a row for %q, which is no broken build", build)
	}
}

// The words of the log and of /readyz that operation.md quotes are in the code.
func TestWordsThatAreQuotedExist(t *testing.T) {
	code := sources(t, func(name string) bool {
		return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "test")
	})
	others := []string{"permissions violation", "context deadline exceeded", "consumer deleted", "Access denied", "Error decrypting our stream metafile"}
	quote := regexp.MustCompile("`(?:\\w[\\w ]*: )?([A-Za-z]+(?: [A-Za-z-]+)+)`")
	outage := regexp.MustCompile(`^(?:MySQL|NATS|WeChat|trace collector)( away| still away| back)$`)
	command := regexp.MustCompile(`^(?:nats|preauth|make|docker|go|SHOW|CREATE) `)
	quotes := 0
	for _, quoted := range quote.FindAllStringSubmatch(read(t, "docs/operation.md"), -1) {
		words := quoted[1]
		if command.MatchString(words) || slices.Contains(others, words) {
			continue
		}
		quotes++
		if verb := outage.FindStringSubmatch(words); verb != nil { // package outage joins these
			words = `"` + verb[1] + `"`
		}
		if !strings.Contains(code, words) {
			t.Errorf("operation.md quotes %q, which the service does not say", words)
		}
	}
	if quotes < 15 {
		t.Errorf("operation.md quotes the service only %d times", quotes)
	}
}
