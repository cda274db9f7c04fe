package preauth

import (
	"strings"

	"github.com/nats-io/nats.go"
)

// traceParentHeader has the trace context of a message (https://www.w3.org/TR/trace-context/).
const traceParentHeader = "traceparent"

// TraceParent returns the W3C trace context in the headers of a message. It is "" if they have none,
// or several, or one that is not valid: a trace is never a reason to refuse a message. Programs write
// the header's name in several cases.
func TraceParent(header nats.Header) string {
	var found []string
	for name, values := range header {
		if strings.EqualFold(name, traceParentHeader) {
			found = append(found, values...)
		}
	}
	if len(found) != 1 || !isTraceParent(found[0]) {
		return ""
	}
	return found[0]
}

// AddTraceParent adds a W3C trace context to the headers of a message, unless it is empty or not
// valid, and returns them.
func AddTraceParent(header nats.Header, value string) nats.Header {
	if isTraceParent(value) {
		if header == nil {
			header = nats.Header{}
		}
		header[traceParentHeader] = []string{value}
	}
	return header
}

// isTraceParent reports whether text is a traceparent of version 00, or one of a later version that
// has no more fields: version, trace id, parent id and flags, in lower-case hexadecimal digits.
func isTraceParent(text string) bool {
	parts := strings.Split(text, "-")
	if len(parts) != 4 {
		return false
	}
	for i, length := range []int{2, 32, 16, 2} {
		if len(parts[i]) != length || strings.Trim(parts[i], "0123456789abcdef") != "" {
			return false
		}
	}
	return parts[0] != "ff" && strings.Trim(parts[1], "0") != "" && strings.Trim(parts[2], "0") != ""
}
