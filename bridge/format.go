package main

import (
	"strconv"
	"strings"

	"preauth"
)

// preset is how a token service keeps its tokens in Redis.
type preset struct {
	key    string
	decode func(value string) (token string, err error)
}

// presets are the token services that are known. docs/bridge.md says where their keys come from.
var presets = map[string]preset{
	"wxjava":     {"wechat_component_access_token:" + placeholder, decodeText},
	"easywechat": {"open_platform.component_access_token." + placeholder, decodePHP},
	"plain":      {"component_access_token:" + placeholder, decodeText},
}

// maxValue is the longest value that may be a token, in bytes: with what PHP puts around it.
const maxValue = preauth.MaxToken + 16

// decodeText returns a value that is the token itself. A quotation mark or a byte that is no text
// comes from a serialiser: such a token would be announced and refused by WeChat.
func decodeText(value string) (string, error) {
	if strings.ContainsAny(value, `"{}`) || !isPrintable(value) {
		return "", unusable("the value is not a bare token: it was written by a serialiser, so have the token service write strings, or use the preset easywechat for PHP's")
	}
	return value, nil
}

// decodePHP returns a string that PHP's serialize wrote, such as s:5:"token"; with its semicolon.
func decodePHP(value string) (string, error) {
	if strings.HasPrefix(value, "\x00\x00\x00\x02") {
		return "", unusable("the value was written by igbinary: give the cache new DefaultMarshaller(false)")
	}
	length, rest, ok := strings.Cut(strings.TrimPrefix(value, "s:"), ":")
	token, begins := strings.CutPrefix(rest, `"`)
	token, ends := strings.CutSuffix(token, `";`)
	if n, err := strconv.Atoi(length); !strings.HasPrefix(value, "s:") || !ok || !begins || !ends || err != nil || n != len(token) {
		return "", unusable("the value is not a string that PHP's serialize wrote: use another preset, or another cache in EasyWeChat")
	}
	return decodeText(token)
}

func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}
