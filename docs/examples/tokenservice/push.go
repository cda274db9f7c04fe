package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1" //nolint:gosec // WeChat signs with SHA-1
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"net/url"
	"slices"
	"strings"
)

// push is what WeChat pushes, of all kinds. Which fields are set depends on InfoType.
type push struct {
	InfoType        string `xml:"InfoType"`
	CreateTime      int64  `xml:"CreateTime"` // Unix seconds
	Ticket          string `xml:"ComponentVerifyTicket"`
	AuthorizerAppID string `xml:"AuthorizerAppid"`
	PreAuthCode     string `xml:"PreAuthCode"`
}

// opener checks and decrypts pushes.
type opener struct {
	appID string // of the platform
	token string // 消息校验Token
	key   []byte // 消息加解密Key, the 32 bytes
}

// open returns the push that a request carries. An error says why the request is not from WeChat,
// and repeats nothing of it.
func (o opener) open(query url.Values, body []byte) (p push, err error) {
	var envelope struct {
		Encrypt string `xml:"Encrypt"`
	}
	if xml.Unmarshal(body, &envelope) != nil {
		return p, errors.New("the body is not XML")
	}
	signed := signature(o.token, query.Get("timestamp"), query.Get("nonce"), envelope.Encrypt)
	if subtle.ConstantTimeCompare([]byte(signed), []byte(query.Get("msg_signature"))) != 1 {
		return p, errors.New("msg_signature is wrong")
	}
	text, err := base64.StdEncoding.DecodeString(envelope.Encrypt)
	if err != nil || len(text) == 0 || len(text)%aes.BlockSize != 0 {
		return p, errors.New("the encrypted text is not whole blocks in Base64")
	}
	block, err := aes.NewCipher(o.key)
	if err != nil {
		return p, err
	}
	cipher.NewCBCDecrypter(block, o.key[:aes.BlockSize]).CryptBlocks(text, text)

	// 16 random bytes, the length of the XML in 4, the XML, the appid, and padding, each byte of which
	// is the length of the padding.
	const head = aes.BlockSize + 4
	end := len(text) - int(text[len(text)-1])
	if end < head {
		return p, errors.New("the padding is wrong: is it another EncodingAESKey?")
	}
	length := uint64(binary.BigEndian.Uint32(text[aes.BlockSize:head]))
	if rest := text[head:end]; length > uint64(len(rest)) || string(rest[length:]) != o.appID {
		return p, errors.New("the push is for another appid")
	}
	if xml.Unmarshal(text[head:head+length], &p) != nil {
		return push{}, errors.New("the decrypted text is not the XML of a push")
	}
	return p, nil
}

// signature returns WeChat's signature of texts.
func signature(texts ...string) string {
	slices.Sort(texts)
	sum := sha1.Sum([]byte(strings.Join(texts, ""))) //nolint:gosec // WeChat signs with SHA-1
	return hex.EncodeToString(sum[:])
}
