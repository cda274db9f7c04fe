package preauth_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"preauth"
	"preauth/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// marker is part of every token, code, link and invented value in the bad input of these tests. No
// error may repeat it.
const marker = "N0tToBeRepeated"

const (
	appID = "wx0123456789abcdef"
	token = "64_" + marker + "-vq3hX1TqTsmvMVtQ_jEAAZJ"
	code  = "preauthcode@@@" + marker + "KDxYwL6rV1kq9sZ0mJ4uT7bN2cF5gH8eP3aQwXyRtUiO"
)

// at is a time in the form of the contract: in UTC with microseconds.
var at = time.Date(2026, time.March, 14, 9, 26, 53, 589793000, time.UTC)

// checkRefused requires an ErrInvalid that says what to change and repeats nothing of the message.
func checkRefused(t *testing.T, err error, says string) {
	t.Helper()
	switch {
	case !errors.Is(err, preauth.ErrInvalid):
		t.Errorf("the error is %v, want one that wraps ErrInvalid", err)
	case !strings.Contains(err.Error(), says):
		t.Errorf("the error is %q, want it to say %q", err, says)
	case strings.Contains(err.Error(), marker):
		t.Errorf("the error repeats the message: %q", err)
	case strings.ContainsAny(err.Error(), "\n\r"):
		t.Errorf("the error has more than one line: %q", err)
	}
}

// malformedBodies returns bodies that every parser refuses.
func malformedBodies() map[string]struct{ body, says string } {
	return map[string]struct{ body, says string }{
		"nothing but white space":  {" \n", "must be a JSON object"},
		"a bare token":             {token, "must be a JSON object"},
		"a JSON string":            {`"` + token + `"`, "must be a JSON object"},
		"a number":                 {`7200`, "must be a JSON object"},
		"null":                     {`null`, "must be a JSON object"},
		"an array of objects":      {`[{"component_access_token":"` + token + `"}]`, "must be a JSON object"},
		"a form":                   {"component_appid=" + appID + "&component_access_token=" + token, "must be a JSON object"},
		"cut off in a name":        {`{"component_acc`, "truncated JSON"},
		"cut off after a name":     {`{"component_access_token"`, "truncated JSON"},
		"cut off in a value":       {`{"component_access_token":"` + marker, "truncated JSON"},
		"cut off after a value":    {`{"component_access_token":"` + token + `"`, "truncated JSON"},
		"a name without quotes":    {`{component_access_token:"` + token + `"}`, "malformed JSON near byte"},
		"single quotes":            {`{'component_access_token':'` + token + `'}`, "malformed JSON near byte"},
		"no colon":                 {`{"component_access_token" "` + token + `"}`, "malformed JSON near byte"},
		"no comma":                 {`{"a":"` + token + `" "b":1}`, "malformed JSON near byte"},
		"a comma too many":         {`{"a":"` + token + `",}`, "malformed JSON near byte"},
		"a comma first":            {`{,"a":"` + token + `"}`, "malformed JSON near byte"},
		"a number as a name":       {`{1:"` + token + `"}`, "malformed JSON near byte"},
		"an object as a name":      {`{{"a":1}:"` + token + `"}`, "malformed JSON near byte"},
		"the wrong bracket":        {`{"a":"` + token + `"]`, "malformed JSON near byte"},
		"a comment":                {`{/* ` + token + ` */}`, "malformed JSON near byte"},
		"NaN":                      {`{"a":NaN,"b":"` + token + `"}`, "malformed JSON near byte"},
		"a control character":      {"{\"a\":\"" + token + "\x00\"}", "malformed JSON near byte"},
		"an unknown escape":        {`{"a":"` + token + `\x"}`, "malformed JSON near byte"},
		"a second object":          {`{}{"component_access_token":"` + token + `"}`, "has data after"},
		"text after the object":    {`{} ` + token, "has data after"},
		"a bracket after it":       {`{}}`, "has data after"},
		"a byte order mark":        {"\ufeff" + `{"a":"` + token + `"}`, "remove it"},
		"invalid UTF-8 in a value": {"{\"a\":\"" + token + "\xff\"}", "UTF-8"},
		"invalid UTF-8 in a name":  {"{\"" + token + "\xc3\x28\":1}", "UTF-8"},
		"invalid UTF-8 after it":   {"{}\xff", "UTF-8"},
		"an overlong encoding":     {"{\"a\":\"\xc0\xaf" + token + "\"}", "UTF-8"},
		"a surrogate in UTF-8":     {"{\"a\":\"\xed\xa0\x80" + token + "\"}", "UTF-8"},
		"UTF-16":                   {"\xff\xfe{\x00}\x00", "UTF-8"},
		"one byte more than allowed": {
			`{"a":"` + strings.Repeat("x", preauth.MaxBody-7) + `"}`, "the limit is 65536",
		},
		"deeper than JSON readers go": {
			`{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, "malformed JSON near byte",
		},
	}
}
