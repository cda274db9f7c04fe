package preauth

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"
)

// contentMode says where a message has the attributes of a CloudEvent.
type contentMode int

const (
	// unknownMode is a message whose headers do not say. Its body is plain event data, or a
	// structured CloudEvent from a publisher without headers: the NATS binding predates NATS
	// headers.
	unknownMode contentMode = iota
	// binaryMode has the attributes in the headers and the event data in the body.
	binaryMode
	// structuredMode has both in the body, the event data as the member data or data_base64.
	structuredMode
)

// contentModeOf returns the content mode of a message with the given headers. NATS keeps header
// names in the case in which they were sent, so it compares them in any case.
func contentModeOf(header nats.Header) (contentMode, error) {
	mode := unknownMode
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
					return 0, invalid("CloudEvents batches are not supported: publish each event as its own message")
				}
				if strings.HasPrefix(mediaType, "application/cloudevents") {
					mode = structuredMode
				}
			}
		}
	}
	return mode, nil
}

// cloudEvent has the attributes of a structured CloudEvent that the service uses.
type cloudEvent struct {
	specVersion, data *json.RawMessage
	dataBase64        *string
}

func (c *cloudEvent) members() []member {
	return []member{
		{name: "specversion", into: &c.specVersion, anyCase: true},
		{name: "data", into: &c.data, anyCase: true},
		{name: "data_base64", into: &c.dataBase64, anyCase: true},
	}
}

// payload returns the event data, which is a JSON object if it was not in base64.
func (c *cloudEvent) payload() ([]byte, error) {
	if c.specVersion == nil {
		return nil, invalid("the CloudEvent has no specversion: set it to 1.0")
	}
	var version string
	_ = json.Unmarshal(*c.specVersion, &version) // what is no string is not 1.0
	if err := checkSpecVersion(version); err != nil {
		return nil, err
	}
	switch {
	case (c.data == nil) == (c.dataBase64 == nil):
		return nil, invalid("the CloudEvent must have either data or data_base64")
	case c.data != nil:
		if (*c.data)[0] != '{' {
			return nil, invalid("data of the CloudEvent must be a JSON object, not a string that contains one")
		}
		return *c.data, nil
	}
	data, err := base64.StdEncoding.DecodeString(*c.dataBase64)
	if err != nil {
		return nil, invalid("data_base64 of the CloudEvent must be standard base64 with padding")
	}
	return data, nil
}

// decodeEvent finds the event data in a message and parses it into fields, whose members are given.
func decodeEvent[F any](fields *F, members func(*F) []member, header nats.Header, body []byte) error {
	mode, err := contentModeOf(header)
	if err != nil {
		return err
	}
	var envelope cloudEvent
	switch mode {
	case binaryMode:
		return decodeObject(body, members(fields))
	case structuredMode:
		err = decodeObject(body, envelope.members())
	case unknownMode:
		err = decodeObject(body, append(members(fields), envelope.members()...))
		if envelope.specVersion == nil {
			return err
		}
		*fields = *new(F) // a CloudEvent's members beside the data are attributes, which do not count
	}
	if err != nil {
		return err
	}
	data, err := envelope.payload()
	if err != nil {
		return err
	}
	return decodeObject(data, members(fields))
}

func checkSpecVersion(version string) error {
	if version != "1.0" {
		return invalid("specversion of the CloudEvent must be 1.0")
	}
	return nil
}
