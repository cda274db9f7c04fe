package preauth

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"
)

// contentMode is where a message carries the attributes of a CloudEvent.
type contentMode int

const (
	// unstatedMode: no header tells. The body is plain event data, or a structured CloudEvent from a
	// publisher that sets no headers, as the NATS binding allowed before NATS had them.
	unstatedMode contentMode = iota
	// binaryMode: in the headers; the body is the event data.
	binaryMode
	// structuredMode: in the body, around the event data.
	structuredMode
)

// contentModeOf reads the headers of a message, whose names NATS leaves in the case they came in.
func contentModeOf(header nats.Header) (contentMode, error) {
	mode := unstatedMode
	for name, values := range header {
		switch strings.ToLower(name) {
		case "ce-specversion":
			if err := checkSpecVersion(strings.Join(values, ",")); err != nil {
				return 0, err
			}
			mode = max(mode, binaryMode)
		case "content-type":
			for _, value := range values {
				mediaType := strings.ToLower(value)
				if strings.HasPrefix(mediaType, "application/cloudevents-batch") {
					return 0, invalid("CloudEvents batches are not taken: publish each event as a message of its own")
				}
				if strings.HasPrefix(mediaType, "application/cloudevents") {
					mode = structuredMode
				}
			}
		}
	}
	return mode, nil
}

// cloudEvent is what matters here of a CloudEvent in structured mode, JSON format.
type cloudEvent struct {
	specVersion, dataBase64 *string
	data                    *json.RawMessage
}

func (c *cloudEvent) members() []member {
	return []member{
		{name: "specversion", into: &c.specVersion, anyCase: true},
		{name: "data", into: &c.data, anyCase: true},
		{name: "data_base64", into: &c.dataBase64, anyCase: true},
	}
}

// payload returns the event data, a JSON object.
func (c *cloudEvent) payload() ([]byte, error) {
	if c.specVersion == nil {
		return nil, invalid("the CloudEvent has no specversion: it must be 1.0")
	}
	if err := checkSpecVersion(*c.specVersion); err != nil {
		return nil, err
	}
	switch {
	case (c.data == nil) == (c.dataBase64 == nil):
		return nil, invalid("the CloudEvent must have either data or data_base64")
	case c.data != nil:
		if (*c.data)[0] != '{' {
			return nil, invalid("data of the CloudEvent must be a JSON object, not a text that holds one")
		}
		return *c.data, nil
	}
	data, err := base64.StdEncoding.DecodeString(*c.dataBase64)
	if err != nil {
		return nil, invalid("data_base64 of the CloudEvent must be base64 with padding")
	}
	return data, nil
}

func checkSpecVersion(version string) error {
	if version != "1.0" {
		return invalid("specversion of the CloudEvent must be 1.0")
	}
	return nil
}
