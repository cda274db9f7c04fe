package entry

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the parts of the page
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"golang.org/x/text/language"
)

var (
	//go:embed page.html
	source string
	//go:embed page.css
	style string
	//go:embed page.js
	script string
)

var page = template.Must(template.New("page").Parse(source))

// policy lets the page use the style and the script that are in it, ask its own address, and nothing
// else.
var policy = fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; img-src data:; connect-src 'self'; "+
	"form-action 'none'; base-uri 'none'; frame-ancestors 'none'", hashed(script), hashed(style))

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// answer is what the page says.
type answer struct {
	status int
	// Kind is computer, phone, done, or what is wrong.
	Kind string
	// Detail is for those who can mend what is wrong.
	Detail string
	// Go is the link to WeChat's page. It has the code.
	Go string
	QR *drawing
	// Left is after how long the page asks again, 0 for never.
	Left time.Duration
}

// Seconds returns the whole seconds that are left, at least one.
func (a answer) Seconds() int { return max(int(a.Left/time.Second), 1) }

// asks reports whether an open page that has shown a code goes on asking.
func (a answer) asks() bool { return a.Go != "" || a.Left > 0 || a.Kind == "expired" }

// Clock returns the time that is left as the page shows it.
func (a answer) Clock() string { return fmt.Sprintf("%d:%02d", a.Seconds()/60, a.Seconds()%60) }

// Refresh returns after how many seconds a browser without the script loads the page again: soon
// enough for the time that is left to be about right.
func (a answer) Refresh() int { return min(a.Seconds(), 60) }

// pageData is what the template shows.
type pageData struct {
	answer
	Host      string
	Style     template.CSS
	Script    template.JS
	Languages []pageLanguage
	// Asks is whether the page asks from time to time if somebody has authorized.
	Asks   bool
	column int
	path   string
}

// pageLanguage is a language of the page: its name in links, its tag, and what it calls itself.
type pageLanguage struct{ Name, Tag, Label string }

// pageLanguages are the languages, in the order of the texts. The first one is for those who ask for
// none of them.
var pageLanguages = []pageLanguage{{"en", "en", "English"}, {"zh", "zh-Hans", "中文"}}

var matcher = language.NewMatcher([]language.Tag{language.English, language.SimplifiedChinese})

// T returns a text of the page.
func (d *pageData) T(name string) string { return texts[name][d.column] }

// Lang returns the language of the page.
func (d *pageData) Lang() string { return pageLanguages[d.column].Tag }

// In returns the link to the same in another language.
func (d *pageData) In(l pageLanguage) template.URL {
	return template.URL(d.path + "&lang=" + l.Name) //nolint:gosec // it is the page's own, which begins with its path
}

// write writes the page in the visitor's language.
func (p *Page) write(w http.ResponseWriter, v visit, a answer) {
	_, column := language.MatchStrings(matcher, v.language, v.accept)
	data := &pageData{
		answer: a, Host: p.host, Style: template.CSS(style), Script: template.JS(script), //nolint:gosec // they are the page's own
		Languages: pageLanguages, Asks: a.asks() && len(v.shown) > 0, column: column, path: v.path,
	}
	var body bytes.Buffer
	if err := page.Execute(&body, data); err != nil {
		http.Error(w, "the page cannot be written", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Language", data.Lang())
	header.Set("Vary", "Accept-Language, User-Agent")
	retryAfter(header, a)
	w.WriteHeader(a.status)
	_, _ = w.Write(body.Bytes()) // who asked may be gone
}
