package preauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// decodeObject reads a body that must be one JSON object, and stores the members that fields names
// in the places it gives. Member names are matched exactly unless fold is set. It is stricter than
// encoding/json where two readers could understand a body differently: a member that stands twice,
// invalid UTF-8 and anything after the object are errors. A null counts as an absent member.
func decodeObject(body []byte, fold bool, fields map[string]any) error {
	switch {
	case len(body) > MaxBody:
		return invalid("the body has %d bytes: the limit is %d", len(body), MaxBody)
	case !utf8.Valid(body):
		return invalid("the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return invalid("the body must be a JSON object")
	}
	seen := make(map[string]bool, len(fields))
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return invalid("the body is not JSON: %v", syntax(err))
		}
		name := key.(string) // between '{' and '}' the decoder yields nothing else
		if fold {
			name = strings.ToLower(name)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return invalid("the body is not JSON: %v", syntax(err))
		}
		field, known := fields[name]
		if !known {
			continue
		}
		if seen[name] {
			return invalid("%s stands twice", name)
		}
		seen[name] = true
		if err := json.Unmarshal(value, field); err != nil {
			return invalid("%s must be %s", name, wanted(field))
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return invalid("the body is not JSON: %v", syntax(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("the body goes on after the JSON object")
	}
	return nil
}

// syntax keeps of a decoder's error what cannot repeat the body.
func syntax(err error) string {
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "it is malformed"
	}
	return "it ends too early"
}

// wanted says in the contract's words what a member has to be.
func wanted(field any) string {
	switch field.(type) {
	case *int64, **int64, *uint64, *int:
		return "a whole number"
	case *instant:
		return "a time as in 2006-01-02T15:04:05Z"
	default:
		return "a string"
	}
}

// encode returns the JSON of one of this package's wire structs, which always marshal.
func encode(wire any) []byte {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // links are full of '&'
	if err := enc.Encode(wire); err != nil {
		panic("preauth: a wire struct does not marshal: " + err.Error())
	}
	return bytes.TrimSuffix(body.Bytes(), []byte("\n"))
}
