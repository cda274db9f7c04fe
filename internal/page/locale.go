package page

import (
	"cmp"
	"embed"
	"html/template"
	"net/http"
	"strings"

	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"preauth"
)

// locale is a language of the page.
type locale struct {
	// Name is what links call it, and Lang what HTML does.
	Name, Lang string
	// column is where its texts are.
	column    int
	printer   *message.Printer
	templates *template.Template
}

//go:embed *.html
var templates embed.FS

// locales are the languages. The first one is for those who ask for none of them.
var locales = []*locale{
	newLocale(0, "en", "en", language.English),
	newLocale(1, "zh", "zh-Hans", language.SimplifiedChinese),
}

var matcher = language.NewMatcher([]language.Tag{language.English, language.SimplifiedChinese})

func newLocale(column int, name, lang string, tag language.Tag) *locale {
	l := &locale{Name: name, Lang: lang, column: column, printer: message.NewPrinter(tag)}
	l.templates = template.Must(template.New("").Funcs(template.FuncMap{"t": l.text, "number": l.number}).ParseFS(templates, "*.html"))
	return l
}

// localeOf returns the language that a request names, and otherwise the one its browser prefers.
func localeOf(r *http.Request) *locale {
	for _, l := range locales {
		if l.Name == r.URL.Query().Get("lang") {
			return l
		}
	}
	_, index := language.MatchStrings(matcher, r.Header.Get("Accept-Language"))
	return locales[index]
}

// text returns a text of the page. A name that a newer service may send and that has no text is its
// own, without the part that says what it is.
func (l *locale) text(name string, args ...any) string {
	text := texts[name][l.column]
	if text == "" {
		_, after, _ := strings.Cut(name, ".")
		return cmp.Or(after, name)
	}
	return l.printer.Sprintf(text, args...)
}

// number returns a number as people write it: 10,000.
func (l *locale) number(n int) string { return l.printer.Sprintf("%d", n) }

// advice says what a failure asks for. The contract has it in English.
func (l *locale) advice(class preauth.Class) string {
	if said := chinese[class]; said != "" && l.column == 1 {
		return said
	}
	return class.Advice()
}
