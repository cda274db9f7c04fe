// Package contract_test holds docs/contract.md, docs/asyncapi.yaml, the schemas of docs/schemas and
// the code against each other.
package contract_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"preauth"
)

const (
	docs  = "../../docs"
	appID = "wx0123456789abcdef" // of the examples
)

// go test -C test/contract -run Examples -update . writes the examples of the schemas anew.
var update = flag.Bool("update", false, "write the examples of the schemas anew")

// reference is a $ref. Where a type has other fields too, it is either.
type reference struct {
	Ref string `yaml:"$ref"`
}

// name returns the last part of what is referred to.
func (r reference) name() string { return r.Ref[strings.LastIndexByte(r.Ref, '/')+1:] }

type channel struct {
	Address    string               `yaml:"address"`
	Parameters map[string]any       `yaml:"parameters"`
	Messages   map[string]reference `yaml:"messages"`
}

// covers reports whether messages on a subject are the channel's.
func (c channel) covers(subject string) bool {
	above, ok := strings.CutSuffix(c.Address, ".{appid}")
	return subject == c.Address || ok && preauth.AppIDFromSubject(above, subject) != ""
}

// asyncapi is docs/asyncapi.yaml, as far as the tests look at it.
type asyncapi struct {
	Channels   map[string]channel `yaml:"channels"`
	Operations map[string]struct {
		Action   string      `yaml:"action"`
		Channel  reference   `yaml:"channel"`
		Security []reference `yaml:"security"`
		Reply    *struct {
			Messages []reference `yaml:"messages"`
		} `yaml:"reply"`
	} `yaml:"operations"`
	Components struct {
		SecuritySchemes map[string]any `yaml:"securitySchemes"`
		Messages        map[string]struct {
			Headers *reference `yaml:"headers"`
			Payload *struct {
				reference `yaml:",inline"`

				AllOf []reference `yaml:"allOf"`
			} `yaml:"payload"`
			Examples []struct {
				Payload reference `yaml:"payload"`
			} `yaml:"examples"`
		} `yaml:"messages"`
	} `yaml:"components"`
}

// document is docs/asyncapi.yaml with the schemas that it refers to.
type document struct {
	asyncapi

	compiler *jsonschema.Compiler
	url      string
}

func open(t *testing.T) *document {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(docs, "asyncapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &document{url: "file://" + filepath.ToSlash(path), compiler: jsonschema.NewCompiler()}
	if err := yaml.Unmarshal(text, &d.asyncapi); err != nil {
		t.Fatal(err)
	}
	var whole any
	if err := yaml.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(d.url, resource); err != nil {
		t.Fatal(err)
	}
	return d
}

// schema returns a schema by its place: one in the document, as a JSON pointer that begins with "#",
// or a file of docs/schemas by its name without the ending.
func (d *document) schema(t *testing.T, place string) *jsonschema.Schema {
	t.Helper()
	url := d.url + place
	if place[0] != '#' {
		url = strings.TrimSuffix(d.url, "asyncapi.yaml") + "schemas/" + place + ".json"
	}
	schema, err := d.compiler.Compile(url)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func (d *document) payload(t *testing.T, message string) *jsonschema.Schema {
	t.Helper()
	return d.schema(t, "#/components/messages/"+message+"/payload")
}

// validate returns what a schema has against a body.
func validate(schema *jsonschema.Schema, body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("no JSON: it is not UTF-8")
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

func schemas(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(docs, "schemas", "*.json"))
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	var names []string
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".json"))
	}
	return names
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(docs, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block is a fenced block of the contract, below its nearest heading.
type block struct{ heading, lang, text string }

func blocks(t *testing.T) (all []block) {
	t.Helper()
	var heading string
	part := regexp.MustCompile("(?m)^#+ (.*)$|^```(\\w+)\n((?s:.*?))^```$")
	for _, found := range part.FindAllStringSubmatch(read(t, "contract.md"), -1) {
		if found[1] != "" {
			heading = found[1]
			continue
		}
		all = append(all, block{heading, found[2], found[3]})
	}
	return all
}

// values returns the JSON values in a text, compact.
func values(t *testing.T, text string) (all []string) {
	t.Helper()
	for decoder := json.NewDecoder(strings.NewReader(text)); decoder.More(); {
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			t.Fatal(err)
		}
		all = append(all, compact(t, value))
	}
	return all
}

func compact(t *testing.T, value []byte) string {
	t.Helper()
	var text bytes.Buffer
	if err := json.Compact(&text, value); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// command is one of the nats CLI in the contract that sends a body.
var command = regexp.MustCompile(`(?m)^nats (?:pub|req) (?:--jetstream )?(\S+) (.*)'(\{.*\})'$`)

// examples returns the messages that the contract shows, by the schema of each.
func examples(t *testing.T) map[string][]string {
	t.Helper()
	below := map[string][]string{
		"Token event":   {"token-event", "token-event"},
		"Update":        {"update", "update"},
		"Failure":       {"failure", "failure", "failure"},
		"Claim":         {"claim-request", "claim"},
		"Authorization": {"authorization"},
		"Authorized":    {"authorized", "authorized"},
		"Resolve":       {"resolve-request", "resolved", "resolved"},
		"Look-up":       {"lookup-request", "lookup"},
		"Status":        {"status", "status-request", "status-page", "replica"},
		"Errors":        slices.Repeat([]string{"error"}, 14),
	}
	all := map[string][]string{}
	for _, block := range blocks(t) {
		switch block.lang {
		case "json":
			for _, value := range values(t, block.text) {
				if len(below[block.heading]) == 0 {
					t.Fatalf("this test knows no schema for a message below %q", block.heading)
				}
				schema := below[block.heading][0]
				below[block.heading] = below[block.heading][1:]
				all[schema] = append(all[schema], value)
			}
		case "sh":
			for _, found := range command.FindAllStringSubmatch(block.text, -1) {
				if strings.Contains(found[2], "application/cloudevents+json") {
					all["cloudevent"] = append(all["cloudevent"], found[3])
				}
			}
		}
	}
	for heading, rest := range below {
		if len(rest) > 0 {
			t.Fatalf("the contract shows no message for %v below %q", rest, heading)
		}
	}
	return all
}

// The examples of the schemas are the messages that the contract shows, and valid.
func TestExamplesAreTheContracts(t *testing.T) {
	shown, document := examples(t), open(t)
	for _, name := range schemas(t) {
		text := read(t, "schemas/"+name+".json")
		if *update {
			text = withExamples(t, text, shown[name])
			if err := os.WriteFile(filepath.Join(docs, "schemas", name+".json"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var file struct{ Examples []json.RawMessage }
		if err := json.Unmarshal([]byte(text), &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, example := range file.Examples {
			got = append(got, compact(t, example))
			if err := validate(document.schema(t, name), example); err != nil {
				t.Errorf("%s: %s\n%v", name, example, err)
			}
		}
		if !slices.Equal(got, shown[name]) {
			t.Errorf("%s has not the examples of the contract: run go test -C test/contract -run Examples -update .", name)
		}
		delete(shown, name)
	}
	for name := range shown {
		t.Errorf("there is no schema %s", name)
	}
}

// withExamples returns the text of a schema with other examples, which stand at its end.
func withExamples(t *testing.T, text string, examples []string) string {
	t.Helper()
	text, _, _ = strings.Cut(strings.TrimSuffix(text, "\n}\n"), ",\n  \"examples\": ")
	if len(examples) == 0 {
		return text + "\n}\n"
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte("["+strings.Join(examples, ",")+"]"), "  ", "  "); err != nil {
		t.Fatal(err)
	}
	return text + ",\n  \"examples\": " + indented.String() + "\n}\n"
}

// A message of the document has all examples of its schema that are valid for it.
func TestExamplesOfMessages(t *testing.T) {
	document, shown := open(t), examples(t)
	for name, message := range document.Components.Messages {
		if message.Payload == nil {
			continue
		}
		of := message.Payload.reference
		if of.Ref == "" && len(message.Payload.AllOf) > 0 {
			of = message.Payload.AllOf[0]
		}
		schema := strings.TrimSuffix(of.name(), ".json")
		var got, want []string
		for _, example := range message.Examples {
			got = append(got, example.Payload.Ref)
		}
		for i, example := range shown[schema] {
			if validate(document.payload(t, name), []byte(example)) == nil {
				want = append(want, of.Ref+"#/examples/"+strconv.Itoa(i))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has the examples %q, want %q", name, got, want)
		}
	}
}

// AsyncAPI's tools read a schema as one of draft 7, where nothing counts beside a $ref.
func TestNothingCountsBesideReferences(t *testing.T) {
	var look func(name string, value any)
	look = func(name string, value any) {
		switch value := value.(type) {
		case []any:
			for _, each := range value {
				look(name, each)
			}
		case map[string]any:
			if _, ok := value["$ref"]; ok {
				for member := range value {
					if member != "$ref" && member != "description" {
						t.Errorf("%s: %s beside a $ref: %v", name, member, value)
					}
				}
			}
			for _, each := range value {
				look(name, each)
			}
		}
	}
	for _, name := range schemas(t) {
		var file any
		if err := json.Unmarshal([]byte(read(t, "schemas/"+name+".json")), &file); err != nil {
			t.Fatal(err)
		}
		look(name, file)
	}
}

// messagesOn returns the names of the messages that the document has for a subject.
func (d *document) messagesOn(subject string) (names []string) {
	for _, channel := range d.Channels {
		if channel.covers(subject) {
			for _, message := range channel.Messages {
				names = append(names, message.name())
			}
		}
	}
	return names
}

// answersOn returns the names of the messages that answer a request on a subject, nil if none does.
func (d *document) answersOn(subject string) (names []string) {
	for _, operation := range d.Operations {
		if operation.Reply != nil && d.Channels[operation.Channel.name()].covers(subject) {
			for _, message := range operation.Reply.Messages {
				names = append(names, message.name())
			}
		}
	}
	return names
}

// fit returns which of the messages one is like. The error says why it is like none.
func (d *document) fit(t *testing.T, messages []string, header map[string]any, body []byte) (string, error) {
	t.Helper()
	fault := errors.New("the document has no such message")
	for _, name := range messages {
		message := d.Components.Messages[name]
		var err error
		if message.Headers != nil {
			err = d.schema(t, "#/components/messages/"+name+"/headers").Validate(header)
		}
		if err == nil && message.Payload != nil {
			err = validate(d.payload(t, name), body)
		}
		if err == nil {
			return name, nil
		}
		fault = fmt.Errorf("%w\nas %s: %w", fault, name, err)
	}
	return "", fault
}

// The commands of the contract send messages of the document.
func TestCommandsOfTheContract(t *testing.T) {
	document, sent := open(t), 0
	header := regexp.MustCompile(`-H (\S+?):(\S+)`)
	for _, block := range blocks(t) {
		for _, found := range command.FindAllStringSubmatch(block.text, -1) {
			sent++
			headers := map[string]any{}
			for _, each := range header.FindAllStringSubmatch(found[2], -1) {
				headers[each[1]] = each[2]
			}
			if _, err := document.fit(t, document.messagesOn(found[1]), headers, []byte(found[3])); err != nil {
				t.Errorf("%s: %v", found[0], err)
			}
		}
	}
	if sent < 10 {
		t.Errorf("only found %d commands", sent)
	}
}

// The values that newer services may add to are those of the code, and so are the states.
func TestValuesAreTheCodes(t *testing.T) {
	var file struct {
		Defs map[string]struct {
			Enum  []any
			Known []string `json:"x-extensible-enum"` //nolint:tagliatelle // the keyword's name
		} `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(read(t, "schemas/definitions.json")), &file); err != nil {
		t.Fatal(err)
	}
	expect := func(name string, want ...string) {
		var got []string
		for _, value := range file.Defs[name].Enum {
			got = append(got, fmt.Sprint(value))
		}
		got = append(got, file.Defs[name].Known...)
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s is one of %q, want %q", name, got, want)
		}
	}
	var classes, states []string
	for _, class := range preauth.Classes() {
		classes = append(classes, string(class))
	}
	for _, state := range preauth.States() {
		states = append(states, string(state))
	}
	expect("class", classes...)
	expect("state", states...)
	expect("cause", string(preauth.CauseToken), string(preauth.CauseRenewal), string(preauth.CauseDemand), string(preauth.CauseSpent))
	expect("info_type", preauth.InfoAuthorized, preauth.InfoUpdateAuthorized)
}

// The subjects of the document are those of the code.
func TestSubjectsAreTheCodes(t *testing.T) {
	s := preauth.DefaultSubjects()
	want := map[string]bool{s.Resolve: true}
	for _, subject := range []string{s.TokenUpdated, s.Authorization, s.Updated, s.Failed, s.Authorized, s.Lookup, s.Claim, s.Status, s.Renew} {
		want[subject], want[preauth.SubjectFor(subject, "{appid}")] = true, true
	}
	got := map[string]bool{}
	for name, channel := range open(t).Channels {
		if channel.Address != "" && channel.Address[0] != '$' {
			got[channel.Address] = true
		}
		if strings.Contains(channel.Address, "{appid}") != (channel.Parameters["appid"] != nil) {
			t.Errorf("the channel %s has %s and the parameters %v", name, channel.Address, channel.Parameters)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the document has the subjects %v, want %v", got, want)
	}
}
