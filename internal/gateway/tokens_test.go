package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"preauth/internal/gateway"
	"preauth/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// What is wrong with a tokens file is said with its line, and without its content.
func TestTokensFilesThatAreRefused(t *testing.T) {
	other := strings.Replace(hash, "9f", "00", 1)
	for file, says := range map[string]string{
		"":                               "the file has no token",
		"# shop\n\n":                     "the file has no token",
		"shop":                           "line 1: a line must have a name, a hash, operations and components, separated by spaces; this one has 1 fields",
		"\nshop " + hash + " claim * *":  "line 2: a line must have a name",
		"shop s3cret claim *":            "line 1: the hash must be sha256: and 64 hexadecimal digits",
		"shop " + hash + "00 claim *":    "line 1: the hash must be sha256:",
		"shop " + hash[:70] + " claim *": "line 1: the hash must be sha256:",
		"shop sha256: claim *":           "line 1: the hash must be sha256:",
		"-shop " + hash + " claim *":     "line 1: the name must be 1 to 64 letters",
		"shop " + hash + " renew *":      "line 1: operations must be some of announce,authorized,claim,lookup,resolve,status, separated by commas, or *",
		"shop " + hash + " claim, *":     "line 1: operations must be",
		"shop " + hash + " claim wx[1]":  "line 1: components must be appids separated by commas, in which * stands for any characters and ? for one",
		"shop " + hash + " claim wx1,":   "line 1: components must be",
		"shop " + hash + " claim *\nshop " + other + " claim *": "line 2: the name shop is that of a line above",
		"shop " + hash + " claim *\nsite " + hash + " claim *":  "line 2: the token site has the hash of shop",
	} {
		_, err := gateway.ParseTokens([]byte(file))
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v, want %q", file, err, says)
		}
	}
	_, err := gateway.ParseTokens([]byte("a\nshop " + hash + " claim *\nb\n"))
	if want := "line 1: a line must have a name, a hash, operations and components, separated by spaces; this one has 1 fields"; err == nil ||
		err.Error() != want+"\n"+strings.Replace(want, "line 1", "line 3", 1) {
		t.Errorf("two wrong lines: %v", err)
	}
}

// A token that is made has a line that can be read, and neither is made of what cannot.
func TestTokensThatAreMade(t *testing.T) {
	token, line, err := gateway.NewToken("shop", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(line, token.Reveal()) || !strings.HasPrefix(token.Reveal(), "preauth_") || !strings.HasSuffix(line, " claim,lookup,resolve *") {
		t.Errorf("the line is %s", line)
	}
	if _, err := gateway.ParseTokens([]byte(line)); err != nil {
		t.Error(err)
	}
	if again, _, err := gateway.NewToken("shop", nil, nil); err != nil || again.Equal(token) {
		t.Errorf("a second token is the first: %v", err)
	}
	for _, wrong := range [][3]string{{"a b", "claim", "*"}, {"", "claim", "*"}, {"a", "claim lookup", "*"}, {"a", "claim", "wx 1"}, {"a", "claim", "wx1\n"}, {"a\n", "claim", "*"}} {
		if _, line, err := gateway.NewToken(wrong[0], wrong[1:2], wrong[2:]); err == nil {
			t.Errorf("%q makes the line %q", wrong, line)
		}
	}
}

// A file that is taken says the same in the order of its lines, and a line that NewToken makes of
// anything is taken.
func FuzzParseTokens(f *testing.F) {
	f.Add("shop " + hash + " claim,lookup wx*\n")
	f.Add("# comment\n\nshop\t" + hash + " *  *")
	f.Add("shop " + hash + " claim *\nshop " + hash + " claim *")
	f.Fuzz(func(t *testing.T, file string) {
		tokens, err := gateway.ParseTokens([]byte(file))
		if err != nil {
			if strings.Contains(err.Error(), "sha256:9f") {
				t.Errorf("the error repeats a hash: %v", err)
			}
			return
		}
		if again, err := gateway.ParseTokens([]byte("\n#\n" + file + "\n")); err != nil || fmt.Sprint(again) != fmt.Sprint(tokens) {
			t.Errorf("with other lines around: %v", err)
		}
	})
}
