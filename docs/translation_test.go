package docs_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// translations has the Chinese page, or picture, of each English one that has one.
var translations = map[string]string{
	"README.md":         "README.zh-CN.md",
	"docs/adopt.md":     "docs/zh/adopt.md",
	"docs/bridge.md":    "docs/zh/bridge.md",
	"docs/contract.md":  "docs/zh/contract.md",
	"docs/entry.md":     "docs/zh/entry.md",
	"docs/gateway.md":   "docs/zh/gateway.md",
	"docs/install.md":   "docs/zh/install.md",
	"docs/migrate.md":   "docs/zh/migrate.md",
	"docs/operation.md": "docs/zh/operation.md",
	"docs/runbooks.md":  "docs/zh/runbooks.md",

	"docs/pictures/page-light.png": "docs/pictures/page-chinese.png",
}

// A Chinese page says what its English page says. Sentences are free. What they are about is not:
// code blocks, names, numbers, tables, lists and links are the same in each section.
func TestTranslationsHaveTheSameFacts(t *testing.T) {
	for english, chinese := range translations {
		if filepath.Ext(english) != ".md" {
			continue
		}
		t.Run(filepath.Base(chinese), func(t *testing.T) {
			for _, d := range differences(t, english, read(t, english), chinese, read(t, chinese)) {
				t.Error(d)
			}
		})
	}
}

// The comparison notices what is missing, wrong or too much in a translation.
func TestTranslationsAreCompared(t *testing.T) {
	const english, chinese = "docs/contract.md", "docs/zh/contract.md"
	original, translated := read(t, english), read(t, chinese)
	if len(differences(t, english, original, chinese, translated)) > 0 {
		t.Skip("they differ already")
	}
	for name, change := range map[string][2]string{
		"a code in a table":     {"| 429 |", "| 430 |"},
		"a row":                 {"\n| `quota` |", "\n`quota`"},
		"a cell":                {"| 入 |", "|"},
		"a member":              {"`min_revision`", "`min_version`"},
		"a setting":             {"`PREAUTH_RETENTION`", "保留期"},
		"a subject":             {"`preauth.failed._`", "`preauth.failed`"},
		"a number":              {"65,536", "65,535"},
		"code":                  {`"expires_in": 7200`, `"expires_in": 7201`},
		"a command":             {"nats micro ls", "nats micro list"},
		"a heading":             {"\n## ", "\n### "},
		"a link":                {"(operation.md#nats)", "(operation.md#mysql)"},
		"a link to English":     {"(operation.md#nats)", "(../operation.md#nats)"},
		"an item of a list":     {"\n- ", "\n"},
		"a name outside of all": {"CloudEvent", "Event"},
	} {
		if strings.Count(translated, change[0]) == 0 {
			t.Errorf("%s: %s has no %q", name, chinese, change[0])
			continue
		}
		spoilt := strings.ReplaceAll(translated, change[0], change[1])
		if len(differences(t, english, original, chinese, spoilt)) == 0 {
			t.Errorf("%s: nobody notices %q for %q", name, change[1], change[0])
		}
	}
}

// section is what a page has below one heading, up to the next.
type section struct {
	heading string // "" before the first
	level   int
	code    []string // "lang\ntext", without comments
	units   []unit
}

// unit is a paragraph, an item of a list or a row of a table.
type unit struct {
	kind, text string
	names      []string // what is quoted as code; of a row, for each cell
	links      []string // "file" or "file#heading", of translations those of the English page
	words      []string // names that are not quoted
	numbers    []string
}

var (
	quotedCode = regexp.MustCompile("`([^`]+)`")
	number     = regexp.MustCompile(`\d+(?:\.\d+)*`)
	bareName   = regexp.MustCompile(`[A-Z][A-Z_]{3,}[A-Z]|Preauth[A-Z]\w+|[a-z-]+\.(?:go|conf|yml|sql)\b|[A-Z][a-z]+(?:[A-Z][a-z]+)+`)
	listItem   = regexp.MustCompile(`^ *(?:-|\d+\.) `)
	indented   = regexp.MustCompile(`(?m)(?:^|\n)\n {4}(\S.*)\n`)
	markLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	pictured   = regexp.MustCompile(`[A-Za-z]+(?:[._][A-Za-z]+)+|[A-Z_]{3,}`)
	comments   = map[string]*regexp.Regexp{
		"sh":   regexp.MustCompile(`(?m)(?:^|[ \t]+)# .*$`),
		"yaml": regexp.MustCompile(`(?m)(?:^|[ \t]+)# .*$`),
		"go":   regexp.MustCompile(`(?m)(?:^|[ \t]+)// .*$`),
		"js":   regexp.MustCompile(`(?m)(?:^|[ \t]+)// .*$`),
		"sql":  regexp.MustCompile(`(?m)(?:^|[ \t]+)-- .*$`),
	}
)

// differences compares a page and its translation.
func differences(t *testing.T, english, original, chinese, translated string) []string {
	t.Helper()
	e, c := sections(t, english, original), sections(t, chinese, translated)
	for i := range min(len(e), len(c)) {
		name := bareName.FindString(e[i].heading) == e[i].heading
		if e[i].level != c[i].level || name && e[i].heading != c[i].heading {
			return []string{fmt.Sprintf("the heading %q stands for %q", c[i].heading, e[i].heading)}
		}
	}
	if len(e) != len(c) {
		headings := func(all []section) (names []string) {
			for _, s := range all {
				names = append(names, s.heading)
			}
			return names
		}
		return []string{fmt.Sprintf("the headings %q stand for %q", headings(c), headings(e))}
	}
	var all []string
	for i := range e {
		differ := func(where, what string, missing, extra []string) {
			if len(missing)+len(extra) > 0 {
				all = append(all, fmt.Sprintf("%s, %s: %s: missing %q, too much %q", c[i].heading, where, what, missing, extra))
			}
		}
		if !slices.Equal(e[i].code, c[i].code) {
			differ("all blocks", "code", minus(e[i].code, c[i].code), minus(c[i].code, e[i].code))
		}
		for k, e := range e[i].units {
			if k == len(c[i].units) || c[i].units[k].kind != e.kind {
				differ(fmt.Sprintf("after %d", k), e.kind, []string{e.text}, nil)
				break
			}
			c := c[i].units[k]
			differ(c.text, "names", minus(e.names, c.names), minus(c.names, e.names))
			differ(c.text, "links", minus(e.links, c.links), minus(c.links, e.links))
			differ(c.text, "words", minus(e.words, c.words), nil)
			// English writes small numbers as words.
			differ(c.text, "numbers", minus(e.numbers, c.numbers), slices.DeleteFunc(minus(c.numbers, e.numbers), func(n string) bool { return len(n) < 3 }))
		}
		if len(c[i].units) > len(e[i].units) {
			differ("at the end", "text", nil, []string{c[i].units[len(e[i].units)].text})
		}
	}
	return all
}

// minus returns what is in a and not in b.
func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// sections takes a page apart.
func sections(t *testing.T, page, text string) []section {
	t.Helper()
	text = outdent(text)
	fenced, prose := split(text)
	for _, code := range indented.FindAllStringSubmatch(prose, -1) {
		prose = strings.Replace(prose, "    "+code[1], "`"+code[1]+"`", 1)
	}
	all := []section{{}}
	texts := []string{""}
	for line := range strings.Lines(prose) {
		if level := len(line) - len(strings.TrimLeft(line, "#")); level > 0 {
			all = append(all, section{heading: strings.TrimSpace(line[level:]), level: level})
			texts = append(texts, "")
			continue
		}
		texts[len(texts)-1] += line
	}
	for _, b := range fenced {
		i := slices.IndexFunc(all, func(s section) bool { return s.heading == b.heading })
		code := b.text
		if comment := comments[b.lang]; comment != nil {
			code = comment.ReplaceAllString(code, "")
		}
		if strings.Contains(code, "──►") { // a picture has sentences, too
			code = strings.Join(pictured.FindAllString(code, -1), " ")
		}
		all[i].code = append(all[i].code, b.lang+"\n"+strings.Join(strings.FieldsFunc(code, func(r rune) bool { return r == '\n' }), "\n"))
	}
	for i := range all {
		all[i].units = units(t, page, texts[i])
	}
	return all
}

// outdent puts the fenced blocks of lists at the margin.
func outdent(text string) string {
	var all strings.Builder
	indent, inside := "", false
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimLeft(line, " "); strings.HasPrefix(trimmed, "```") {
			if inside = !inside; inside {
				indent = line[:len(line)-len(trimmed)]
			} else {
				line = trimmed
			}
		}
		if inside {
			line = strings.TrimPrefix(line, indent)
		}
		all.WriteString(line)
	}
	return all.String()
}

// units takes the text of a section apart, which has no fenced blocks any more.
func units(t *testing.T, page, text string) []unit {
	t.Helper()
	var all []unit
	open := false
	for line := range strings.Lines(text) {
		switch row := strings.HasPrefix(line, "|"); {
		case strings.TrimSpace(line) == "":
			open = false
		case row:
			all, open = append(all, unit{kind: "row", text: line}), false
		case listItem.MatchString(line):
			all, open = append(all, unit{kind: "item", text: listItem.ReplaceAllString(line, "")}), true
		case open:
			all[len(all)-1].text += line
		default:
			all, open = append(all, unit{kind: "paragraph", text: line}), true
		}
	}
	for i := range all {
		u := &all[i]
		u.text = strings.TrimSpace(u.text)
		for _, found := range markLink.FindAllStringSubmatch(u.text, -1) {
			if link := target(t, page, found[1]); link != "" {
				u.links = append(u.links, link)
			}
		}
		cells := []string{u.text}
		if u.kind == "row" {
			cells = strings.Split(strings.ReplaceAll(strings.Trim(u.text, "|"), `\|`, "¦"), "|")
			u.kind = fmt.Sprintf("row of %d cells", len(cells))
		}
		for n, cell := range cells {
			var names []string
			for _, found := range quotedCode.FindAllStringSubmatch(cell, -1) {
				names = append(names, strings.Join(strings.Fields(found[1]), " "))
			}
			slices.Sort(names)
			for _, name := range slices.Compact(names) {
				u.names = append(u.names, fmt.Sprintf("%d: %s", n, name))
			}
		}
		bare := quotedCode.ReplaceAllString(markLink.ReplaceAllString(u.text, "]"), " ")
		u.words = bareName.FindAllString(strings.ReplaceAll(bare, "WeChat", ""), -1)
		u.numbers = number.FindAllString(strings.ReplaceAll(bare, ",", ""), -1)
	}
	return all
}

// target returns where a link leads, in terms of the English pages: "file", or "file#3" for a heading
// of a page that is translated. It returns "" for pages that are Chinese only.
func target(t *testing.T, page, link string) string {
	t.Helper()
	if strings.Contains(link, "://") {
		return link
	}
	file, fragment, _ := strings.Cut(link, "#")
	name := page
	if file != "" {
		name = filepath.ToSlash(filepath.Join(filepath.Dir(page), file))
	}
	original := name
	for english, chinese := range translations {
		if name == chinese {
			original = english
		}
	}
	fromChinese := slices.Contains(slices.Collect(maps.Values(translations)), page)
	switch toChinese := original != name; {
	case translations[page] == name || translations[name] == page:
		return "the other language"
	case !fromChinese && toChinese:
		return name
	case fromChinese && !toChinese && strings.HasPrefix(name, "docs/zh/"):
		return ""
	case fromChinese && !toChinese && translations[name] != "":
		return name + " in English"
	case fragment == "":
		return original
	case translations[original] != "":
		return fmt.Sprintf("%s#%d", original, slices.Index(anchors(read(t, name)), fragment))
	}
	return original + "#" + fragment
}
