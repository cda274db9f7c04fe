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

// member is a member of an object that decodeObject looks for.
type member struct {
	name string
	into any
	// anyCase matches the name in any case.
	anyCase bool
	seen    bool
}

// find returns the member with a name, and nil if nobody looks for it.
func find(members []member, name string) *member {
	for i := range members {
		if m := &members[i]; m.name == name || m.anyCase && strings.EqualFold(m.name, name) {
			return m
		}
	}
	return nil
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// decodeObject parses a body, which must be a single JSON object, and stores its values in the
// given members. It ignores other members, and a null counts as an absent member. Where two readers
// could understand a body differently it is stricter than encoding/json: it refuses a member that
// appears twice, invalid UTF-8 and data after the object, and it does not match names in another
// case.
//
// The error wraps [ErrInvalid] and is about the first fault. Members that can be parsed are stored
// even so. A member that appears twice is stored each time.
func decodeObject(body []byte, members []member) error {
	switch {
	case len(body) > MaxBody:
		return invalid("the body has %d bytes: the limit is %d", len(body), MaxBody)
	case !utf8.Valid(body):
		return invalid("the body is not UTF-8: encode it as JSON in UTF-8")
	case bytes.HasPrefix(body, byteOrderMark):
		return invalid("the body begins with a byte order mark: remove it")
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
		name, _ := key.(string) // inside an object, the decoder accepts nothing else as a key
		m := find(members, name)
		if m == nil {
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
			err = invalid("%s appears twice: remove one", m.name)
		case err != nil:
			err = invalid("%s must be %s", m.name, expected(m.into))
		}
		m.seen = true
		fault = cmp.Or(fault, err)
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return cmp.Or(fault, malformed(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return cmp.Or(fault, invalid("the body has data after the JSON object: send the object alone"))
	}
	return fault
}

// isMalformed reports whether a decoder's error is about the JSON itself, not about the type of a
// value.
func isMalformed(err error) bool {
	_, ok := errors.AsType[*json.SyntaxError](err)
	return ok || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// malformed returns an error for a body that is not JSON. The decoder's own text may repeat parts
// of the body, so it is left out.
func malformed(err error) error {
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return invalid("the body is malformed JSON near byte %d", s.Offset)
	}
	return invalid("the body is truncated JSON")
}

// expected describes the values that decode into the given type.
func expected(into any) string {
	switch into.(type) {
	case *int, *int64, **int64:
		return "a whole number"
	case *uint64:
		return "a whole number, 0 or more"
	case *instant:
		return "an RFC 3339 time such as 2006-01-02T15:04:05Z, in the years 1970 to 9999"
	case *bool:
		return "true or false"
	case *string, **string, *bodyAppID:
		return "a string"
	case *[]string:
		return "a list of strings"
	case *[]json.RawMessage:
		return "a list of objects"
	default:
		return "an object as the contract defines it"
	}
}

// object is a JSON object under construction: begin with newObject, add the members in order,
// finish with end. The methods leave out a member whose value is zero, which means that it is
// unknown.
type object []byte

// newObject begins an object. size is the capacity to start with, in bytes.
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
	o = o.name(name)
	for i := range len(value) {
		if c := value[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return o.escaped(value)
		}
	}
	return append(append(append(o, '"'), value...), '"')
}

// escaped appends a string of any characters.
func (o object) escaped(value string) object {
	var quoted bytes.Buffer
	enc := json.NewEncoder(&quoted)
	enc.SetEscapeHTML(false) // keeps links and messages readable
	if err := enc.Encode(value); err != nil {
		panic("preauth: a string does not marshal: " + err.Error())
	}
	return append(o, bytes.TrimSuffix(quoted.Bytes(), []byte("\n"))...)
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

func (o object) flag(name string, value bool) object {
	if !value {
		return o
	}
	return append(o.name(name), "true"...)
}

// time appends a time in RFC 3339, in UTC with microseconds.
func (o object) time(name string, value time.Time) object {
	if value.IsZero() {
		return o
	}
	o = append(o.name(name), '"')
	return append(microseconds(value).AppendFormat(o, time.RFC3339Nano), '"')
}

// count appends a number that is never left out: 0 is known too.
func (o object) count(name string, value int64) object {
	return strconv.AppendInt(o.name(name), value, 10)
}

// expiresIn appends the member expires_in: how much of a life is left, in whole seconds rounded down.
// It is never left out, and a negative duration becomes 0.
func (o object) expiresIn(value time.Duration) object {
	return o.count("expires_in", int64(max(value, 0)/time.Second))
}

// texts appends strings. It leaves out an empty list.
func (o object) texts(name string, values []string) object {
	if len(values) == 0 {
		return o
	}
	o = append(o.name(name), '[')
	for i, value := range values {
		if i > 0 {
			o = append(o, ',')
		}
		o = o.escaped(value)
	}
	return append(o, ']')
}

// objects appends a list of objects, which it ends. It is never left out.
func (o object) objects(name string, values []object) object {
	o = append(o.name(name), '[')
	for i, value := range values {
		if i > 0 {
			o = append(o, ',')
		}
		o = append(o, value.end()...)
	}
	return append(o, ']')
}

// object appends an object, which it ends. It leaves out a nil one.
func (o object) object(name string, value object) object {
	if value == nil {
		return o
	}
	return append(o.name(name), value.end()...)
}
