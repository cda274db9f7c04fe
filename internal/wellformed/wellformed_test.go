package wellformed_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"preauth/internal/wellformed"
)

// FuzzMembers holds what is read against encoding/json.
func FuzzMembers(f *testing.F) {
	for _, body := range []string{
		`{}`, ` { "a" : "b" , "c":[1, {"d":"]}"}] } `, `{"a":1.5e3,"a":null,"b":true,"c":""}`, `{"a":"\"","b":"\\"}`, `{"\u0061":1}`,
		`{"a":"b"`, `{"a":"b",}`, `{"a" "b"}`, `{,}`, `{"a":}`, `{"a":b}`, `{"a":01}`, `{"a":"b"}{}`, `{"a":{"b":1]}`, `[]`, `"a"`, ``, `{`, `{"a":"` + "\x00" + `"}`,
		`{"a":1 2}`, `{"a":"b""c":1}`, `{"a":{}}}`, `{"":[]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !utf8.Valid(body) {
			return
		}
		type member struct{ name, value string }
		var got []member
		read := wellformed.Members(body, func(name, value []byte) { got = append(got, member{string(name), string(value)}) })
		if !read {
			return
		}
		if !json.Valid(body) {
			t.Fatalf("%q is not JSON and is read", body)
		}
		decoder := json.NewDecoder(bytes.NewReader(body))
		if open, _ := decoder.Token(); open != json.Delim('{') {
			t.Fatalf("%q is no object and is read", body)
		}
		for decoder.More() {
			name, _ := decoder.Token()
			var value json.RawMessage
			if err := decoder.Decode(&value); err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 || got[0].name != name || got[0].value != string(value) {
				t.Fatalf("in %q, %v: %s is not among the first of %q", body, name, value, got)
			}
			got = got[1:]
		}
		if len(got) > 0 {
			t.Fatalf("%q has no members %q", body, got)
		}
	})
}

func TestText(t *testing.T) {
	for value, want := range map[string]string{`"a"`: "a", `""`: "", `"é"`: "é"} {
		if got, ok := wellformed.Text([]byte(value)); !ok || string(got) != want {
			t.Errorf("%s is %q, %v", value, got, ok)
		}
	}
	for _, value := range []string{``, `"`, `a`, `"a`, `1`, `null`, `"\n"`, "\"\n\"", `"a"b"`} {
		if got, ok := wellformed.Text([]byte(value)); ok {
			t.Errorf("%s is %q", value, got)
		}
	}
}
