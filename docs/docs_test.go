// Package docs holds the project's pages. Its tests keep them true: what they show is read by the code
// that it is meant for, and what they name exists.
package docs_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// messages returns the messages that README shows below a heading, compact. A block has one over several
// lines, or one in each line.
func messages(t *testing.T, heading string) [][]byte {
	t.Helper()
	var all [][]byte
	for _, shown := range blocks(t, "README.md", "json") {
		if shown.heading != heading {
			continue
		}
		for decoder := json.NewDecoder(strings.NewReader(shown.text)); decoder.More(); {
			var body json.RawMessage
			if err := decoder.Decode(&body); err != nil {
				t.Fatalf("%s: %v", heading, err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, body); err != nil {
				t.Fatal(err)
			}
			all = append(all, compact.Bytes())
		}
	}
	return all
}

// What README shows of a message is what the code writes, member for member and in its order; what
// others write is what the code takes.
func TestMessagesOfREADME(t *testing.T) {
	type encoder interface{ Encode() []byte }
	parsed := func(e encoder, err error) ([]byte, error) { return e.Encode(), err }
	var (
		lookup preauth.LookupRequest
		claim  preauth.ClaimRequest
	)
	written := map[string][]func(body []byte) ([]byte, error){
		"Token event": slices.Repeat([]func([]byte) ([]byte, error){func(body []byte) ([]byte, error) {
			received := time.Date(2026, time.March, 14, 9, 0, 1, 0, time.UTC)
			_, err := preauth.ParseTokenEvent(appID, nil, body, received)
			return body, err // a publisher may write it in another way than the client does
		}}, 2),
		"Update": {func(body []byte) ([]byte, error) { return parsed(preauth.ParseUpdate(body)) }},
		"Failure": slices.Repeat([]func([]byte) ([]byte, error){
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseFailure(body)) },
		}, 3),
		"Claim": {
			func(body []byte) (_ []byte, err error) {
				claim, err = preauth.ParseClaimRequest("", body)
				return claim.Encode(), err
			},
			func(body []byte) ([]byte, error) {
				c, err := preauth.ParseClaim(body)
				c.Links = wechat.AuthorizationLinks(c.AppID, c.PreAuthCode, claim.LinkOptions)
				return c.Encode(), err
			},
		},
		"Resolve": {
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseResolveRequest(body)) },
			func(body []byte) ([]byte, error) { return parsed(preauth.ParseResolved(body)) },
		},
		"Look-up": {
			func(body []byte) (_ []byte, err error) {
				lookup, err = preauth.ParseLookupRequest("", body)
				return lookup.Encode(), err
			},
			func(body []byte) ([]byte, error) {
				l, err := preauth.ParseLookup(body)
				l.Links = wechat.AuthorizationLinks(l.AppID, l.PreAuthCode, lookup.LinkOptions)
				return l.Encode(), err
			},
		},
		"Errors": slices.Repeat([]func([]byte) ([]byte, error){func(body []byte) ([]byte, error) {
			shown := struct {
				Error struct{ Code int }
			}{}
			if err := json.Unmarshal(body, &shown); err != nil {
				return nil, err
			}
			return preauth.ParseError(func(string) string { return strconv.Itoa(shown.Error.Code) }, body).Encode(), nil
		}}, 13),
	}
	shown := 0
	for heading, writers := range written {
		bodies := messages(t, heading)
		shown += len(bodies)
		if len(bodies) != len(writers) {
			t.Errorf("%s: README shows %d messages, want %d", heading, len(bodies), len(writers))
			continue
		}
		for i, body := range bodies {
			if again, err := writers[i](body); err != nil {
				t.Errorf("%s: %v", heading, err)
			} else if !bytes.Equal(again, body) {
				t.Errorf("%s: README shows\n%s\nthe code writes\n%s", heading, body, again)
			}
		}
	}
	for _, block := range blocks(t, "README.md", "json") {
		if written[block.heading] == nil {
			t.Errorf("no message is known below the heading %q", block.heading)
		}
	}
}

// command is one of the nats CLI that sends a message.
type command struct {
	name, subject, body string
	header              nats.Header
}

// commands returns those that README shows.
func commands(t *testing.T) []command {
	t.Helper()
	word := regexp.MustCompile(`'[^']*'|\S+`)
	var all []command
	for _, shown := range blocks(t, "README.md", "sh") {
		for line := range strings.Lines(shown.text) {
			words := word.FindAllString(line, -1)
			if len(words) < 3 || words[0] != "nats" || words[1] != "pub" && words[1] != "req" {
				continue
			}
			c := command{name: words[1], header: nats.Header{}}
			for i := 2; i < len(words); i++ {
				switch {
				case words[i] == "-H":
					i++
					name, value, _ := strings.Cut(words[i], ":")
					c.header.Add(name, value)
				case strings.HasPrefix(words[i], "-"):
				case c.subject == "":
					c.subject = words[i]
				default:
					c.body = strings.Trim(words[i], "'")
				}
			}
			all = append(all, c)
		}
	}
	return all
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
	named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(read(t, "docs/architecture.md")+read(t, "docs/operation.md")+read(t, "SECURITY.md"), -1)
	if len(named) == 0 {
		t.Fatal("none is named")
	}
	for _, name := range named {
		if !strings.Contains(tests, "\nfunc "+name+"(t *testing.T)") {
			t.Errorf("a page names %s, which does not exist", name)
		}
	}
}

func TestSettingsThatAreNamedExist(t *testing.T) {
	command := sources(t, func(name string) bool {
		return (strings.HasPrefix(name, "cmd") || strings.HasPrefix(name, filepath.Join("internal", "app"))) && strings.HasSuffix(name, ".go")
	})
	elsewhere := read(t, "Makefile") + read(t, "internal/mysqlserver/mysqlserver.go") + read(t, "consumer/service.go")
	variable := regexp.MustCompile(`\b(?:PREAUTH|NATS|MYSQL)_[A-Z_]+\b`)
	flag := regexp.MustCompile(`--([a-z][a-z-]+)`)
	ours := regexp.MustCompile(`preauth (?:serve|schema|check|lookup)|preauth-dev|make dev`)
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
