// Package wellformed reads JSON objects without a decoder, which for small ones costs a fraction of what encoding/json takes.
// Where it does not understand a body it says so, and leaves it to encoding/json.
package wellformed

import "encoding/json"

// Members calls take for each member of a body that is one JSON object in UTF-8, in order. It finds where names and
// values end and leaves it to encoding/json whether a value is well-formed, unless a look tells. A name and a value are
// parts of the body.
//
// It reports false for a body that is not well-formed, or has a name with an escape: then take may have been
// called for the members in front of what was not understood.
func Members(body []byte, take func(name, value []byte)) bool {
	rest, ok := cutByte(body, '{')
	if !ok {
		return false
	}
	rest, ended := cutByte(rest, '}')
	for !ended {
		quoted, value := cutValue(rest)
		name, ok := Text(quoted)
		if !ok {
			return false
		}
		if value, ok = cutByte(value, ':'); !ok {
			return false
		}
		value, rest = cutValue(value)
		if _, plain := Text(value); !plain && !json.Valid(value) {
			return false
		}
		take(name, value)
		var more bool
		if rest, more = cutByte(rest, ','); more {
			continue
		}
		if rest, ended = cutByte(rest, '}'); !ended {
			return false
		}
	}
	return len(rest) == 0
}

// Text returns what a JSON string says that has no escapes. ok is false for everything else.
func Text(value []byte) (text []byte, ok bool) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return nil, false
	}
	text = value[1 : len(value)-1]
	for _, c := range text {
		if c < ' ' || c == '"' || c == '\\' {
			return nil, false
		}
	}
	return text, true
}

// cutByte cuts one byte, with the white space around it, off the front of a text.
func cutByte(text []byte, c byte) (rest []byte, ok bool) {
	text = skipSpace(text)
	if len(text) == 0 || text[0] != c {
		return text, false
	}
	return skipSpace(text[1:]), true
}

func skipSpace(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\n' || text[0] == '\t' || text[0] == '\r') {
		text = text[1:]
	}
	return text
}

// cutValue cuts the value off with which a text begins, if the text is well-formed.
func cutValue(text []byte) (value, rest []byte) {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			if quoted = !quoted; !quoted && depth == 0 {
				return text[:i+1], text[i+1:]
			}
		case quoted:
			if c == '\\' {
				i++
			}
		case c == '{', c == '[':
			depth++
		case depth > 0:
			if c == '}' || c == ']' {
				if depth--; depth == 0 {
					return text[:i+1], text[i+1:]
				}
			}
		case c == ',', c == '}', c == ' ', c == '\n', c == '\t', c == '\r':
			return text[:i], text[i:]
		}
	}
	return text, nil
}
