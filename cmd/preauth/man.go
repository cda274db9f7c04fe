package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"preauth/internal/app"
)

// manCommand prints the man page, which has the words of the help.
type manCommand struct{}

// Run prints the page as roff.
func (manCommand) Run(to app.Stdio, command *kong.Context) error {
	date := app.ReadBuild().Date
	if date.IsZero() {
		date = time.Now().UTC()
	}
	_, err := to.Out.Write(manual(command.Model, date))
	return err
}

// manual returns the man page of a command line as it was at a date.
func manual(model *kong.Application, date time.Time) []byte {
	m := &manPage{}
	fmt.Fprintf(m, ".TH %s 1 %s \"%s %s\"\n", strings.ToUpper(model.Name), date.Format(time.DateOnly), model.Name, app.Version())
	paragraphs := strings.Split(model.Help, "\n\n")
	summary := strings.TrimSuffix(paragraphs[0], ".")
	m.macro("SH", "NAME")
	m.text(model.Name + " - " + strings.ToLower(summary[:1]) + summary[1:])
	m.macro("SH", "SYNOPSIS")
	m.macro("B", model.Name)
	m.macro("I", "command")
	m.text("[options]")
	m.macro("SH", "DESCRIPTION")
	for i, paragraph := range paragraphs {
		if i > 0 {
			m.macro("PP")
		}
		m.text(paragraph)
	}

	m.macro("SH", "COMMANDS")
	var groups []*kong.Group // each once, with the flags of all commands
	grouped := map[string][]*kong.Flag{}
	for _, leaf := range model.Leaves(true) {
		m.macro("SS", leaf.Summary())
		m.text(leaf.Help)
		for _, argument := range leaf.Positional {
			m.entry(argument.Summary(), argument.Help)
		}
		var also []string
		for _, flag := range leaf.Flags {
			switch group := flag.Group; {
			case flag.Hidden:
			case group == nil:
				m.option(flag)
			default:
				if !slices.Contains(also, group.Title) {
					also = append(also, group.Title)
				}
				if grouped[group.Key] == nil {
					groups = append(groups, group)
				}
				if !slices.ContainsFunc(grouped[group.Key], func(other *kong.Flag) bool { return other.Name == flag.Name }) {
					grouped[group.Key] = append(grouped[group.Key], flag)
				}
			}
		}
		if also != nil {
			m.macro("PP")
			m.text("It also takes the options of " + strings.Join(also, ", ") + ".")
		}
	}

	m.macro("SH", "OPTIONS")
	for _, flag := range model.Flags {
		m.option(flag)
	}
	for _, group := range groups {
		m.macro("SS", group.Title)
		m.text(group.Description)
		for _, flag := range grouped[group.Key] {
			m.option(flag)
		}
	}
	for _, section := range manSections {
		m.macro("SH", section.title)
		for _, entry := range section.entries {
			m.entry(entry[0], entry[1])
		}
	}
	return m.Bytes()
}

// manSections are what the model does not know.
var manSections = []struct {
	title   string
	entries [][2]string
}{
	{"ENVIRONMENT", [][2]string{
		{"", "Each variable that an option above names sets this option, unless it is empty or the option is given. " +
			"An unknown variable that begins with PREAUTH_ is an error."},
		{"NO_COLOR", "If it is not empty, a terminal gets no colors."},
		{"COLUMNS", "The width of tables where there is no terminal."},
		{"XDG_CONFIG_HOME", "The directory with the contexts of the nats CLI, in nats/context. By default it is ~/.config."},
	}},
	{"FILES", [][2]string{
		{"~/.config/nats/context/NAME.json", "What --context NAME stands for."},
	}},
	{"EXIT STATUS", [][2]string{
		{"0", "Success."},
		{"1", "A failure, such as a code that there is not."},
		{"2", "An option or variable has to be changed. The error says how."},
	}},
	{"EXAMPLES", [][2]string{
		{"preauth status --watch", "Show how all components fare, until Ctrl-C."},
		{"preauth status --json --state failing | jq -r '.components[].component_appid'", "List the components that fail."},
		{"preauth announce wx0123456789abcdef < token", "Announce a token. It is never an argument, which other users could see."},
		{"preauth claim wx0123456789abcdef --claim-id visitor-1 --reveal", "Claim a code for a visitor."},
		{"preauth replay --dry-run", "Show which stored tokens would be worked on again."},
		{"preauth man | man -l -", "Show this page."},
	}},
	{"SEE ALSO", [][2]string{
		{"", "The pages contract.md, operation.md and configuration.md in the directory docs of the source code."},
	}},
}

// manPage is a page in the macros of man(7).
type manPage struct{ bytes.Buffer }

// macro writes a request of man(7).
func (m *manPage) macro(name string, arguments ...string) {
	fmt.Fprintf(m, ".%s", name)
	for _, argument := range arguments {
		fmt.Fprintf(m, " \"%s\"", strings.ReplaceAll(roff(argument), `"`, `\(dq`))
	}
	fmt.Fprintln(m)
}

// text writes text, with each sentence on lines of its own.
func (m *manPage) text(text string) {
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return
	}
	for sentence := range strings.SplitSeq(strings.ReplaceAll(text, ". ", ".\n"), "\n") {
		for _, line := range wrapped(sentence, 70) {
			fmt.Fprintln(m, roff(line))
		}
	}
}

// option writes a flag as the help describes it.
func (m *manPage) option(flag *kong.Flag) {
	if !flag.Hidden {
		m.entry(flag.String(), app.Describe(flag.Value))
	}
}

// entry writes a term and the text about it, or a paragraph if there is no term.
func (m *manPage) entry(term, text string) {
	if term != "" {
		m.macro("TP")
		m.macro("B", term)
	}
	m.text(text)
}

// roff escapes what roff would not print as it is.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "~", `\(ti`, "^", `\(ha`, "'", `\(aq`, "`", `\(ga`).Replace(text)
	if strings.HasPrefix(text, ".") {
		return `\&` + text
	}
	return text
}
