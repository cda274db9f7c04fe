package preauth

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// member is one member that decodeObject looks for.
type member struct {
	name string
	into any
	// anyCase matches the name in any case.
	anyCase bool
	seen    bool
}

func (m *member) is(name string) bool {
	return m.name == name || m.anyCase && strings.EqualFold(m.name, name)
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// decodeObject reads a body that must be one JSON object, and stores the given members of it. A null
// counts as an absent member; members that are not given are ignored. It is stricter than
// encoding/json where two readers could understand a body differently: a given member that stands
// twice, a name in another case, invalid UTF-8 and anything after the object are not taken.
//
// The error, which wraps [ErrInvalid], is about the first fault. What can be read is stored
// nonetheless.
func decodeObject(body []byte, members []member) error {
	switch {
	case len(body) > MaxBody:
		return invalid("the body has %d bytes: the limit is %d", len(body), MaxBody)
	case !utf8.Valid(body):
		return invalid("the body is not UTF-8: encode it as JSON in UTF-8")
	case bytes.HasPrefix(body, byteOrderMark):
		return invalid("the body begins with a byte order mark: leave it out")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return invalid("the body must be a JSON object")
	}
	var (
		first  error
		unread json.RawMessage
	)
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return cmp.Or(first, malformed(err))
		}
		name, _ := key.(string) // which it is: inside an object the decoder takes nothing else here
		i := slices.IndexFunc(members, func(m member) bool { return m.is(name) })
		var into any = &unread
		if i >= 0 {
			into = members[i].into
		}
		switch err := dec.Decode(into); {
		case isSyntax(err):
			return cmp.Or(first, malformed(err))
		case i < 0:
		case members[i].seen:
			first = cmp.Or(first, invalid("%s stands twice: leave one out", members[i].name))
		case err != nil:
			first = cmp.Or(first, invalid("%s must be %s", members[i].name, wanted(into)))
		}
		if i >= 0 {
			members[i].seen = true
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return cmp.Or(first, malformed(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return cmp.Or(first, invalid("the body goes on after the JSON object: send the object alone"))
	}
	return first
}

// isSyntax tells a body that is no JSON from a member of the wrong type.
func isSyntax(err error) bool {
	_, ok := errors.AsType[*json.SyntaxError](err)
	return ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// malformed keeps of a decoder's error what cannot repeat the body.
func malformed(err error) error {
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return invalid("the body is not JSON: it is malformed near byte %d", s.Offset)
	}
	return invalid("the body is not JSON: it ends too early")
}

// wanted says in the contract's words what a member has to be.
func wanted(into any) string {
	switch into.(type) {
	case *int, *int64, **int64:
		return "a whole number"
	case *uint64:
		return "a whole number, 0 or more"
	case *instant:
		return "a time as in 2006-01-02T15:04:05Z"
	case *string, **string:
		return "a string"
	default:
		return "an object as in the contract"
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
