package contract_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
)

// The reasons for which a schema and the code may differ. Those of the first group are what a schema
// permits and the code refuses, those of the second what the code takes and a schema refuses. The
// contract has a row for each.
const (
	inBytes        = "a limit in bytes"
	notation       = "a whole number with a point, an exponent, or as -0"
	edgeOfTime     = "a zone that leads out of the years 1970 to 9999"
	together       = "two members that do not go together"
	twice          = "a member that appears twice"
	size           = "a body of more than 65,536 bytes"
	inSubject      = "a subject and a body that name different components"
	rareCharacters = "rare unprintable characters in `redirect_uri`"
	encoded        = "the body in `data_base64`"

	absent     = "`null`, `\"\"`, a zero or the year 1 for a member that is absent"
	ignored    = "`expires_in` beside `expires_at`"
	nearlyTime = "a time that is nearly RFC 3339: an hour of one digit, a comma before the fraction, a zone of 24 hours"
	otherCase  = "a CloudEvent's `specversion`, `data` or `data_base64` in another case, or `specversion` within `data`"
	revisions  = "a `min_revision` above 2^53 − 1"
)

var (
	permitted = []string{inBytes, notation, edgeOfTime, together, twice, size, inSubject, rareCharacters, encoded}
	taken     = []string{absent, ignored, nearlyTime, otherCase, revisions}
)

// change is something else for a member, and why schema and code may differ about it: "" if they may
// not.
type change struct{ value, reason string }

// changes are for any member.
func changes() []change {
	all := []change{
		{`null`, absent},
		{`""`, absent},
		{`0`, absent},
		{`false`, absent},
		{`{}`, absent},
		{`"0001-01-01T00:00:00Z"`, absent},
		{`7200.0`, notation},
		{`1e1`, notation},
		{`3.0`, notation},
		{`0.0`, notation},
		{`1e400`, notation},
		{`"1970-01-01T00:00:00+01:00"`, edgeOfTime},
		{`"9999-12-31T23:59:59-00:01"`, edgeOfTime},
		{`"2026-03-15T09:00:01Z"`, together},
		{`"1970-01-01T00:00:00Z"`, together},
		{`"9999-12-31T23:59:59.9999999Z"`, together},
		{`"2026-03-14T17:00:00.123456789+08:00"`, together},
		{`"2026-03-14T09:00:00Z"`, together},
		{`"2026-03-14T09:26:53-23:59"`, together},
		{`"2026-03-14T9:00:00Z"`, nearlyTime},
		{`"2026-03-14T09:00:00,5Z"`, nearlyTime},
		{`"2026-03-14T09:00:00+24:00"`, nearlyTime},
		{`9007199254740992`, revisions},
		{`9223372036854775808`, revisions},
		{`18446744073709551615`, revisions},
		{`"https://a.example/` + "\u0378" + `"`, rareCharacters},
		{`"https://a.example/` + "\U000e0001" + `"`, rareCharacters},
	}
	for _, value := range []string{
		`true`, `-1`, `0.5`, `1`, `3`, `7`, `8`, `9`, `86400`, `86401`, `18446744073709551616`, `"7200"`, `[]`, `[1]`, `"1"`, `"true"`,
		`" "`, `"a b"`, `"a\tb"`, `"a\u0000b"`, `"a\u001fb"`, `"a\u007fb"`, `"a\u0085b"`, `"a\u009fb"`, `"a\u00a0b"`, `"a\u2028b"`, `"a\u3000b"`, `"a\ufffdb"`, `"a\ud800b"`, `"a\u0000"`, `"a\n"`,
		`"_"`, `"-a"`, `"a."`, `"*"`, `"预"`, `"valid"`, `"unknown"`, `"authorized"`, `"unauthorized"`, `"1|17|99"`, `"1||2"`, `"|"`, `"1|"`, `"１"`,
		`"2026-02-30T00:00:00Z"`, `"2026-03-14T24:00:00Z"`, `"2026-06-30T23:59:60Z"`, `"2026-03-14 09:00:00Z"`, `"2026-03-14t09:00:00z"`,
		`"2026-03-14T09:00:00"`, `"1969-12-31T23:59:59Z"`, `"10000-01-01T00:00:00Z"`,
		`"http://"`, `"https:///a"`, `"https://:80/"`, `"https://u@/"`, `"HTTPS://a.example:8080/b?c=d#e"`, `"https://u:p@a.example"`, `"https://[::1]/"`, `"https://[::1"`,
		`"//a.example"`, `"ftp://a.example"`, `"javascript:alert(1)"`, `"https://a.example/b c"`, `"https://a.example/\u0000"`, `"https://a.example/\u202e"`,
		`"https://a.example/\u200b"`, `"https://a.example/%zz"`, `"https://a.example/授权"`,
	} {
		all = append(all, change{value: value})
	}
	for _, limit := range []int{64, 128, 256, 512, 1024, 2048} {
		for n := limit; n <= limit+1; n++ {
			all = append(all, change{value: `"` + strings.Repeat("a", n) + `"`}, change{value: `"` + strings.Repeat("1", n) + `"`},
				change{`"` + strings.Repeat("预", n) + `"`, inBytes}, change{value: `"https://a.example/` + strings.Repeat("授", n-18) + `"`, reason: inBytes})
		}
	}
	return all
}

// member is a member of an object, which keeps their order.
type member struct {
	name  string
	value json.RawMessage
}

// object returns the members of an object, and false for any other value.
func object(value json.RawMessage) (members []member, ok bool) {
	if value[0] != '{' {
		return nil, false
	}
	var byName map[string]json.RawMessage
	if err := json.Unmarshal(value, &byName); err != nil {
		return nil, false
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		members = append(members, member{name, byName[name]})
	}
	return members, true
}

func encode(members ...member) string {
	texts := make([]string, len(members))
	for i, m := range members {
		texts[i] = fmt.Sprintf("%q:%s", m.name, m.value)
	}
	return "{" + strings.Join(texts, ",") + "}"
}

// mutants calls yield with each change of an object, and of those in it.
func mutants(value json.RawMessage, all []change, yield func(change)) {
	members, ok := object(value)
	if !ok {
		return
	}
	with := func(m ...member) string { return encode(slices.Concat(members, m)...) }
	yield(change{value: with(member{"unknown_member", json.RawMessage(`{"a":[null]}`)})})
	for i, m := range members {
		without := slices.Delete(slices.Clone(members), i, i+1)
		replaced := func(value string) string {
			return encode(append(slices.Clone(without), member{m.name, json.RawMessage(value)})...)
		}
		yield(change{encode(without...), together})
		yield(change{with(m), twice})
		yield(change{replaced(string(m.value)) + `{}`, ""})
		yield(change{encode(append(slices.Clone(without), member{strings.ToUpper(m.name), m.value})...), otherCase})
		for _, c := range all {
			yield(change{replaced(c.value), c.reason})
		}
		inner := m.value
		if inner[0] == '[' {
			var list []json.RawMessage
			if json.Unmarshal(inner, &list) != nil || len(list) == 0 {
				continue
			}
			mutants(list[0], all, func(c change) { yield(change{replaced("[" + c.value + "]"), c.reason}) })
			continue
		}
		mutants(inner, all, func(c change) { yield(change{replaced(c.value), c.reason}) })
	}
}

// bodies calls yield with changes of a whole message.
func bodies(schema, example string, all []change, yield func(change)) {
	yield(change{value: example})
	yield(change{value: "\ufeff" + example})
	yield(change{value: example + "x"})
	yield(change{value: example[:len(example)-1]})
	yield(change{value: strings.Replace(example, `":"`, "\":\"\xff", 1)})
	yield(change{value: "[" + example + "]"})
	yield(change{value: "null"})
	yield(change{example[:len(example)-1] + `,"unknown_member":"` + strings.Repeat("x", preauth.MaxBody) + `"}`, size})
	mutants(json.RawMessage(example), all, yield)
	for _, c := range extra[schema] {
		yield(c)
	}
}

const good = `"component_appid":"` + appID + `","component_access_token":"61_W3mEQkP0"`

// extra are messages of some schemas that no example leads to.
var extra = map[string][]change{
	"token-event": {
		{`{` + good + `,"expires_at":"2026-03-14T11:00:00Z","expires_in":0}`, ignored},
		{`{` + good + `,"issued_at":"2026-03-14T09:00:00Z","expires_at":"2026-03-15T09:00:00Z"}`, ""},
		{`{` + good + `,"issued_at":"2026-03-14T09:00:00Z","expires_at":"2026-03-15T09:00:00.000001Z"}`, together},
		{`{` + good + `,"SpecVersion":"1.0"}`, ""},
		{`{` + good + `,"specversions":"1.0"}`, ""},
	},
	"cloudevent": {
		{`{"specversion":"1.0","data":{` + good + `},"data_base64":"e30="}`, ""},
		{`{"specversion":"1.0","data":"{}"}`, ""},
		{`{"specversion":"1.0","data_base64":"e30="}`, encoded},
		{`{"specversion":"1.0","data_base64":"e30"}`, ""},
		{`{"specversion":"1.0"}`, ""},
		{`{"specversion":"0.3","data":{` + good + `}}`, ""},
		{`{"specversion":"1.0","data":{` + good + `,"specversion":1}}`, otherCase},
	},
	"lookup-request": {{`{"component_appid":"` + appID + `","min_revision":-0}`, notation}},
	"status-request": {
		{`{"component_appid":"` + appID + `"}`, ""},
		{`{"component_appid":"` + appID + `","state":"valid"}`, ""},
		{`{"component_appid":"` + appID + `","state":""}`, absent},
		{`{"prefix":"-"}`, ""},
	},
	"renew-request": {{`{}`, ""}, {`{"component_appid":"` + appID + `"}`, ""}, {`{"component_appid":"another"}`, ""}, {`{"component_appid":"a b"}`, ""}},
}

// parsers are those of the code, by the message of the document. Messages to the service name their
// component in the body or, if appid says so, in the subject.
type parser struct {
	read  func(appid string, body []byte) error
	appid string
	// toService means that the code takes no more than the schema, too, but for what has a reason.
	toService bool
}

func parsers() map[string]parser {
	received := time.Date(2026, time.March, 14, 9, 0, 1, 0, time.UTC)
	structured := nats.Header{"content-type": {"application/cloudevents+json"}}
	token := func(header nats.Header) func(appid string, body []byte) error {
		return func(appid string, body []byte) error {
			_, err := preauth.ParseTokenEvent(appid, header, body, received)
			return err
		}
	}
	authorization := func(appid string, body []byte) error {
		_, err := preauth.ParseAuthorizationEvent(appid, nil, body, received)
		return err
	}
	claim := request(preauth.ParseClaimRequest)
	lookup := request(preauth.ParseLookupRequest)
	status := request(preauth.ParseStatusRequest)
	renew := request(preauth.ParseRenewRequest)
	return map[string]parser{
		"tokenEvent": {token(nil), appID, true}, "tokenEventNaming": {token(nil), "", true},
		"tokenCloudEvent": {token(structured), appID, true}, "tokenCloudEventNaming": {token(structured), "", true},
		"authorization": {authorization, appID, true}, "authorizationNaming": {authorization, "", true},
		"claimRequest": {claim, appID, true}, "claimRequestNaming": {claim, "", true},
		"lookupRequest": {lookup, appID, true}, "lookupRequestNaming": {lookup, "", true},
		"renewRequest": {renew, appID, true}, "renewRequestNaming": {renew, "", true},
		"statusRequest": {status, "", true}, "statusOfRequest": {status, appID, true},
		"resolveRequest": {answer(preauth.ParseResolveRequest), "", true},
		"update":         {answer(preauth.ParseUpdate), "", false},
		"failure":        {answer(preauth.ParseFailure), "", false},
		"authorized":     {answer(preauth.ParseAuthorized), "", false},
		"claim":          {answer(preauth.ParseClaim), "", false},
		"resolved":       {answer(preauth.ParseResolved), "", false},
		"lookup":         {answer(preauth.ParseLookup), "", false},
		"status":         {answer(preauth.ParseStatus), "", false},
		"statusPage":     {answer(preauth.ParseStatusPage), "", false},
	}
}

func request[R any](parse func(string, []byte) (R, error)) func(string, []byte) error {
	return func(appid string, body []byte) error {
		_, err := parse(appid, body)
		return err
	}
}

func answer[A any](parse func([]byte) (A, error)) func(string, []byte) error {
	return func(_ string, body []byte) error {
		_, err := parse(body)
		return err
	}
}

// Of each change of an example, the schemas permit what the code takes, and the other way round, but
// for what the contract lists.
func TestSchemasAgreeWithTheCode(t *testing.T) {
	document, shown, all := open(t), examples(t), changes()
	used := map[string]bool{}
	for name, parser := range parsers() {
		payload := document.Components.Messages[name].Payload
		of := payload.reference
		if of.Ref == "" {
			of = payload.AllOf[0]
		}
		kind, schema, tried := strings.TrimSuffix(of.name(), ".json"), document.payload(t, name), 0
		check := func(c change) {
			tried++
			refused, permits := parser.read(parser.appid, []byte(c.value)), validate(schema, []byte(c.value))
			if refused != nil && !errors.Is(refused, preauth.ErrInvalid) {
				t.Errorf("%s: %v", name, refused)
			}
			if (refused == nil) == (permits == nil) || refused == nil && !parser.toService {
				return
			}
			list := permitted
			switch {
			case refused == nil:
				list = taken
			case strings.Contains(refused.Error(), "name different components"):
				c.reason = inSubject
			}
			if !slices.Contains(list, c.reason) {
				t.Errorf("%s: %.300s\nthe code says: %v\nthe schema says: %v", name, c.value, refused, permits)
			}
			used[c.reason] = true
		}
		if shown[kind] == nil {
			for _, c := range extra[kind] {
				check(c)
			}
			continue
		}
		for _, example := range shown[kind] {
			bodies(kind, example, all, check)
		}
		if tried < 100 {
			t.Errorf("%s: only %d messages were tried", name, tried)
		}
	}
	for _, reason := range slices.Concat(permitted, taken) {
		if !used[reason] {
			t.Errorf("schemas and code never differ about %s", reason)
		}
	}
}

// The contract lists what the schemas cannot say, and what they are stricter about.
func TestDifferencesAreDocumented(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "contract.md"), "\n## AsyncAPI and JSON Schema\n")
	var listed []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| [^|]+ \|$`).FindAllStringSubmatch(section, -1) {
		if !strings.Contains(row[1], " by the schema") && !strings.Contains(row[1], " by the service") { // the tables' heads
			listed = append(listed, row[1])
		}
	}
	if want := slices.Concat(permitted, taken); !slices.Equal(listed, want) {
		t.Errorf("the contract lists\n%q, want\n%q", listed, want)
	}
}
