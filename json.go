package preauth

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
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

// find returns the member of a name, nil if none is wanted.
func find(members []member, name string) *member {
	for i := range members {
		if m := &members[i]; m.name == name || m.anyCase && strings.EqualFold(m.name, name) {
			return m
		}
	}
	return nil
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
		fault   error
		ignored json.RawMessage
	)
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return cmp.Or(fault, malformed(err))
		}
		name, _ := key.(string) // which it is: inside an object the decoder takes nothing else here
		m := find(members, name)
		if m == nil || m.seen {
			err = dec.Decode(&ignored)
		} else {
			err = dec.Decode(m.into)
		}
		switch {
		case isMalformed(err):
			return cmp.Or(fault, malformed(err))
		case m == nil:
			continue
		case m.seen:
			err = invalid("%s stands twice: leave one out", m.name)
		case err != nil:
			err = invalid("%s must be %s", m.name, wanted(m.into))
		}
		m.seen = true
		fault = cmp.Or(fault, err)
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return cmp.Or(fault, malformed(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return cmp.Or(fault, invalid("the body goes on after the JSON object: send the object alone"))
	}
	return fault
}

// isMalformed reports whether a decoder's error is about the JSON, and not about what a value is decoded into.
func isMalformed(err error) bool {
	_, ok := errors.AsType[*json.SyntaxError](err)
	return ok || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
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
		return "a time as in 2006-01-02T15:04:05Z, of the years 1970 to 9999"
	case *string, **string:
		return "a string"
	default:
		return "an object as in the contract"
	}
}

// object is a JSON object that is being written: newObject, its members in their order, end. A member
// whose value is zero is left out, because nothing is known of it.
type object []byte

// newObject begins an object for which size bytes will do.
func newObject(size int) object { return append(make(object, 0, size), '{') }

func (o object) end() []byte { return append(o, '}') }

// name begins a member.
func (o object) name(name string) object {
	if last := o[len(o)-1]; last != '{' {
		o = append(o, ',')
	}
	return append(append(append(o, '"'), name...), `":`...)
}

func (o object) text(name, value string) object {
	if value == "" {
		return o
	}
	return appendText(o.name(name), value)
}

func (o object) int(name string, value int64) object {
	if value == 0 {
		return o
	}
	return strconv.AppendInt(o.name(name), value, 10)
}

func (o object) uint(name string, value uint64) object {
	if value == 0 {
		return o
	}
	return strconv.AppendUint(o.name(name), value, 10)
}

// time is in RFC 3339, in UTC, with up to microseconds, which is what the database keeps.
func (o object) time(name string, value time.Time) object {
	if value.IsZero() {
		return o
	}
	o = append(o.name(name), '"')
	return append(microseconds(value).AppendFormat(o, time.RFC3339Nano), '"')
}

// left is how long something lives yet: whole seconds, rounded down, never negative, never left out.
func (o object) left(name string, value time.Duration) object {
	return strconv.AppendInt(o.name(name), int64(max(value, 0)/time.Second), 10)
}

// object is another object, which it ends; nil for none.
func (o object) object(name string, value object) object {
	if value == nil {
		return o
	}
	return append(o.name(name), value.end()...)
}

// appendText appends a JSON string.
func appendText[Bytes ~[]byte](b Bytes, text string) Bytes {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendEscaped(b, text)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

func appendEscaped[Bytes ~[]byte](b Bytes, text string) Bytes {
	var escaped bytes.Buffer
	enc := json.NewEncoder(&escaped)
	enc.SetEscapeHTML(false) // for the eyes of people
	if err := enc.Encode(text); err != nil {
		panic("preauth: a string does not marshal: " + err.Error())
	}
	return append(b, bytes.TrimSuffix(escaped.Bytes(), []byte("\n"))...)
}
