// Package docs holds the project's pages. Its tests keep them true: what they show is read by the code
// that it is meant for, and what they name exists.
package docs_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/wechat"
)

const (
	root  = ".."
	appID = "wx0123456789abcdef" // in all examples
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

// find returns the names of the project's files that match.
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

// block is a fenced block of a page.
type block struct {
	heading, lang, text string
}

// split parts a page into its fenced blocks and what is outside of them.
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

// blocks returns the blocks of a language.
func blocks(t *testing.T, page, lang string) []block {
	t.Helper()
	all, _ := split(read(t, page))
	found := slices.DeleteFunc(all, func(b block) bool { return b.lang != lang })
	if len(found) == 0 {
		t.Fatalf("no %s in %s", lang, page)
	}
	return found
}

// anchor is what a heading is linked by.
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
				t.Errorf("%s links to %s, which is not there", page, found[1])
				continue
			}
			if fragment != "" && !slices.Contains(anchors(read(t, target)), fragment) {
				t.Errorf("%s links to %s: no such heading", page, found[1])
			}
		}
	}
}

// What README shows of a message is what the code writes, member for member and in its order; what
// others write is what the code takes.
func TestMessagesOfREADME(t *testing.T) {
	var request preauth.LookupRequest
	seen := map[string]int{}
	for _, shown := range blocks(t, "README.md", "json") {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(shown.text)); err != nil {
			t.Fatalf("%s: %v", shown.heading, err)
		}
		body := compact.Bytes()
		kind := shown.heading
		var (
			written []byte
			err     error
		)
		switch {
		case kind == "Token event":
			received := time.Date(2026, time.March, 14, 9, 0, 1, 0, time.UTC)
			_, err = preauth.ParseTokenEvent(appID, nil, body, received)
		case kind == "Update":
			var u preauth.Update
			u, err = preauth.ParseUpdate(body)
			written = u.Encode()
		case kind == "Failure":
			var f preauth.Failure
			f, err = preauth.ParseFailure(body)
			written = f.Encode()
		case kind == "Look-up" && bytes.Contains(body, []byte(`"error"`)):
			kind = "error"
			e := preauth.ParseError(func(string) string { return "503" }, body)
			written = e.Encode()
		case kind == "Look-up" && bytes.Contains(body, []byte(`"pre_auth_code"`)):
			kind = "answer"
			var l preauth.Lookup
			l, err = preauth.ParseLookup(body)
			l.Links = wechat.AuthorizationLinks(l.AppID, l.PreAuthCode, request.LinkOptions)
			written = l.Encode()
		case kind == "Look-up":
			request, err = preauth.ParseLookupRequest("", body)
			written = request.Encode()
		default:
			t.Errorf("no message is known below the heading %q", kind)
		}
		seen[kind]++
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		} else if written != nil && !bytes.Equal(written, body) {
			t.Errorf("%s: README shows\n%s\nthe code writes\n%s", kind, body, written)
		}
	}
	want := map[string]int{"Token event": 2, "Update": 1, "Failure": 1, "Look-up": 1, "answer": 1, "error": 1}
	if !maps.Equal(seen, want) {
		t.Errorf("README shows %v", seen)
	}
}

// The messages in the commands for the nats CLI are good ones.
func TestCommandsOfREADME(t *testing.T) {
	word := regexp.MustCompile(`'[^']*'|\S+`)
	subjects := preauth.DefaultSubjects()
	seen := map[string]int{}
	for _, shown := range blocks(t, "README.md", "sh") {
		for line := range strings.Lines(shown.text) {
			words := word.FindAllString(line, -1)
			if len(words) < 3 || words[0] != "nats" {
				continue
			}
			var (
				subject, body string
				header        = nats.Header{}
			)
			for i := 2; i < len(words); i++ {
				switch {
				case words[i] == "-H":
					i++
					name, value, _ := strings.Cut(words[i], ":")
					header.Add(name, value)
				case strings.HasPrefix(words[i], "-"):
				case subject == "":
					subject = words[i]
				default:
					body = strings.Trim(words[i], "'")
				}
			}
			var (
				named string
				err   error
			)
			switch words[1] {
			case "pub":
				var e preauth.TokenEvent
				e, err = preauth.ParseTokenEvent(preauth.AppIDIn(subjects.TokenUpdated, subject), header, []byte(body), time.Now())
				named = e.AppID
			case "req":
				var r preauth.LookupRequest
				r, err = preauth.ParseLookupRequest(preauth.AppIDIn(subjects.Lookup, subject), []byte(body))
				named = r.AppID
			default:
				continue
			}
			seen[words[1]]++
			if err != nil || named != appID {
				t.Errorf("%s: component %q, %v", strings.TrimSpace(line), named, err)
			}
		}
	}
	if seen["pub"] != 4 || seen["req"] != 3 {
		t.Errorf("README shows %v", seen)
	}
}

// The Go code in README is that of the examples, which compile.
func TestGoOfREADME(t *testing.T) {
	examples := strings.ReplaceAll(read(t, "example_test.go"), "\n\t", "\n")
	for _, shown := range blocks(t, "README.md", "go") {
		if !strings.Contains(examples, shown.text) {
			t.Errorf("not in example_test.go:\n%s", shown.text)
		}
	}
}

// sources returns the text of the files that match.
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
	named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(read(t, "docs/architecture.md"), -1)
	if len(named) == 0 {
		t.Fatal("none is named")
	}
	for _, name := range named {
		if !strings.Contains(tests, "\nfunc "+name+"(t *testing.T)") {
			t.Errorf("architecture.md names %s, which does not exist", name)
		}
	}
}

func TestSettingsThatAreNamedExist(t *testing.T) {
	command := sources(t, func(name string) bool {
		return strings.HasPrefix(name, filepath.Join("cmd", "preauth")) && strings.HasSuffix(name, ".go")
	})
	elsewhere := read(t, "Makefile") + read(t, "internal/mysqlserver/mysqlserver.go") + read(t, "consumer/service.go")
	variable := regexp.MustCompile(`\b(?:PREAUTH|NATS|MYSQL)_[A-Z_]+\b`)
	flag := regexp.MustCompile(`--([a-z][a-z-]+)`)
	ours := regexp.MustCompile(`preauth (?:serve|dev|schema|check|lookup)|make dev`)
	target := regexp.MustCompile(`\bmake (dev|test|[a-z]+$)`)
	for _, page := range pages(t) {
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
			for _, name := range target.FindAllStringSubmatch(strings.TrimSpace(line), -1) {
				if !strings.Contains(elsewhere, "\n"+name[1]+":") {
					t.Errorf("%s names the target %s, which the Makefile lacks", page, name[1])
				}
			}
		}
	}
}

// README and operation.md have a row for each class of failure.
func TestClassesAreDocumented(t *testing.T) {
	classes := regexp.MustCompile(`Class = "(\w+)"`).FindAllStringSubmatch(read(t, "class.go"), -1)
	if len(classes) == 0 {
		t.Fatal("class.go has none")
	}
	for _, page := range []string{"README.md", "docs/operation.md"} {
		text := read(t, page)
		for _, class := range classes {
			if !regexp.MustCompile("(?m)^\\| [^|]*`" + class[1] + "`").MatchString(text) {
				t.Errorf("%s has no row for the class %s", page, class[1])
			}
		}
	}
}
