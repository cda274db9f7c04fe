package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"preauth"
	"preauth/internal/app"
)

//go:embed completion
var completionScripts embed.FS

// completionCommand prints a script for a shell.
type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints the script.
func (c completionCommand) Run(to app.Stdio) error {
	script, err := completionScripts.ReadFile("completion/preauth." + c.Shell)
	if err != nil {
		return err
	}
	_, err = to.Out.Write(script)
	return err
}

// completeCommand prints what the last word of a command line may become. The scripts call it.
type completeCommand struct {
	Words []string `arg:"" optional:"" help:"The words behind preauth. The last one is to be completed, and may be empty."`
}

// files is the line that has the shell complete the name of a file.
const files = ":files"

// Run prints the candidates, one a line, each with a tab and its description if there is one.
func (c completeCommand) Run(ctx context.Context, to app.Stdio, command *kong.Context) error {
	line := commandLine{node: command.Model.Node}
	current := ""
	if last := len(c.Words) - 1; last >= 0 {
		for _, word := range c.Words[:last] {
			line.take(word)
		}
		current = c.Words[last]
	}
	_, err := io.WriteString(to.Out, strings.Join(append(line.candidates(ctx, current), ""), "\n"))
	return err
}

// commandLine is what the words before the last one say.
type commandLine struct {
	node        *kong.Node
	positionals int        // arguments of the node so far
	flag        *kong.Flag // the flag whose value is next, nil if that is not so
	given       []string   // the flags so far
}

// take takes the next word. bash hands over --flag=value as three words.
func (l *commandLine) take(word string) {
	if word == "=" {
		return
	}
	if l.flag != nil {
		l.given[len(l.given)-1] += "=" + word
		l.flag = nil
		return
	}
	if name, value, ok := strings.Cut(word, "="); strings.HasPrefix(word, "-") {
		for _, flag := range l.flags() {
			if name != "--"+flag.Name && name != "-"+string(flag.Short) {
				continue
			}
			l.given = append(l.given, "--"+flag.Name)
			switch {
			case ok:
				l.given[len(l.given)-1] += "=" + value
			case !flag.IsBool():
				l.flag = flag
			}
		}
		return
	}
	for _, child := range l.node.Children {
		if child.Name == word {
			l.node, l.positionals = child, 0
			return
		}
	}
	l.positionals++
}

// flags returns the flags that may be given here.
func (l *commandLine) flags() []*kong.Flag { return slices.Concat(l.node.AllFlags(true)...) }

// candidates returns what the current word may become.
func (l *commandLine) candidates(ctx context.Context, current string) []string {
	if l.flag == nil && strings.HasPrefix(current, "-") {
		name, value, ok := strings.Cut(current, "=")
		if !ok {
			return l.flagNames(current)
		}
		l.take(name)
		current = value
	}
	current = strings.TrimPrefix(current, "=")
	if l.flag != nil {
		return valuesOf(l.flag.Value, current)
	}
	var found []string
	for _, child := range l.node.Children {
		if !child.Hidden && strings.HasPrefix(child.Name, current) {
			found = append(found, child.Name+"\t"+firstSentence(child.Help))
		}
	}
	if l.positionals >= len(l.node.Positional) {
		return found
	}
	switch next := l.node.Positional[l.positionals]; next.Name {
	case "component":
		return append(found, l.appids(ctx, current)...)
	default:
		return append(found, valuesOf(next, current)...)
	}
}

// flagNames returns the flags that begin so and are not given yet.
func (l *commandLine) flagNames(beginning string) (found []string) {
	for _, flag := range l.flags() {
		name := "--" + flag.Name
		isGiven := func(given string) bool { return given == name || strings.HasPrefix(given, name+"=") }
		if strings.HasPrefix(name, beginning) && !slices.ContainsFunc(l.given, isGiven) {
			found = append(found, name+"\t"+firstSentence(flag.Help))
		}
	}
	return found
}

// valuesOf returns the values that begin so of a flag or an argument.
func valuesOf(value *kong.Value, beginning string) (found []string) {
	if value.Flag != nil && value.Flag.PlaceHolder == "FILE" {
		return []string{files}
	}
	for among := range strings.SplitSeq(value.Tag.Get("values")+","+value.Enum, ",") {
		if among != "" && strings.HasPrefix(among, beginning) {
			found = append(found, among)
		}
	}
	return found
}

func firstSentence(help string) string {
	sentence, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(sentence, ".")
}

// appids asks the service for the components that begin so, with the settings that the command line
// and the environment have. It finds none if that takes longer than a person waits.
func (l *commandLine) appids(ctx context.Context, beginning string) []string {
	asking := app.Program{Name: "preauth", CLI: new(cli)}
	known := map[string]bool{}
	for _, flag := range kong.Must(new(appidsCommand)).Model.Flags {
		known[flag.Name] = true
	}
	for _, own := range []string{"help", "json", "prefix"} {
		delete(known, own)
	}
	args := slices.DeleteFunc(slices.Clone(l.given), func(given string) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(given, "--"), "=")
		return !known[name]
	})
	var out strings.Builder
	asking.Run(ctx, append([]string{"appids", "--timeout=1s", "--prefix=" + beginning}, args...), &out, io.Discard)
	return strings.Fields(out.String())
}

// appidsCommand prints components.
type appidsCommand struct {
	client

	Prefix string `name:"prefix"`
}

// Run prints the first components that begin with the prefix, one a line.
func (c appidsCommand) Run(ctx context.Context, to app.Stdio) error {
	return c.do(ctx, func(s preauth.Subjects) string { return s.Status }, func(ctx context.Context, s *session) error {
		page, err := s.StatusPage(ctx, preauth.StatusRequest{Prefix: c.Prefix})
		for _, status := range page.Components {
			fmt.Fprintln(to.Out, status.AppID)
		}
		return err
	})
}
