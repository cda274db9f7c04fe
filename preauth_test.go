package preauth_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"preauth"
)

func TestCheckAppID(t *testing.T) {
	good := []string{"w", "0", appID, "a-b_c", "A_", "AZaz09", strings.Repeat("w", 64)}
	for _, appid := range good {
		if err := preauth.CheckAppID(appid); err != nil {
			t.Errorf("CheckAppID(%q) = %v", appid, err)
		}
	}
	bad := []string{
		"_", "-", "_wx", ".", "wx.1", "*", ">", "wx*", "wx>", "wx 1", " wx", "wx ", "wx\n", "wx\x00", "wx\xff", "wé",
		"wx/1", "$SRV", "wx\t", "wx@", "wx[", "wx`", "wx{", "wx:", strings.Repeat("w", 65), marker + ".", marker + strings.Repeat("x", 1<<20),
	}
	for _, appid := range bad {
		checkRefused(t, preauth.CheckAppID(appid), "must be 1 to 64 letters, digits, '_' or '-'")
	}
	checkRefused(t, preauth.CheckAppID(""), "name the component")
	checkRefused(t, preauth.CheckAppID(preauth.NoAppID), "begin with a letter or digit")
}

func TestSubjects(t *testing.T) {
	s := preauth.DefaultSubjects()
	for _, subject := range []string{s.TokenUpdated, s.Authorization, s.Updated, s.Failed, s.Authorized, s.Lookup} {
		if got := preauth.AppIDFromSubject(subject, preauth.SubjectFor(subject, appID)); got != appID {
			t.Errorf("below %s: got %q", subject, got)
		}
		if got := preauth.AppIDFromSubject(subject, subject); got != "" {
			t.Errorf("on %s itself: got %q", subject, got)
		}
	}
	if got := preauth.SubjectFor(s.Updated, appID); got != "preauth.updated."+appID {
		t.Errorf("SubjectFor() = %q", got)
	}
	tests := map[string]string{
		"preauth.lookup.a.b":    "a.b",
		"preauth.lookup.":       "",
		"preauth.lookupwx1":     "",
		"preauth.updated.wx1":   "",
		"x.preauth.lookup.wx1":  "",
		".wx1":                  "",
		"preauth.lookup..":      ".",
		"preauth.lookup.lookup": "lookup",
	}
	for message, want := range tests {
		if got := preauth.AppIDFromSubject(s.Lookup, message); got != want {
			t.Errorf("AppIDFromSubject(%q, %q) = %q, want %q", s.Lookup, message, got, want)
		}
	}
}

func TestSubjectsWithPrefix(t *testing.T) {
	defaults := preauth.DefaultSubjects()
	if got := defaults.WithPrefix(""); got != defaults {
		t.Errorf("without a prefix: %+v, want %+v", got, defaults)
	}
	want := preauth.Subjects{
		TokenUpdated: "acme.component.token.updated", Authorization: "acme.component.authorized",
		Updated: "acme.preauth.updated", Failed: "acme.preauth.failed", Authorized: "acme.preauth.authorized",
		Lookup: "acme.preauth.lookup", Claim: "acme.preauth.claim", Resolve: "acme.preauth.resolve",
		Status: "acme.preauth.status", Renew: "acme.preauth.renew",
	}
	if got := defaults.WithPrefix("acme"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Classes has every constant of the type.
func TestClassesAreComplete(t *testing.T) {
	source, err := os.ReadFile("class.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared []preauth.Class
	for _, constant := range regexp.MustCompile(`(?m)^\tClass\w+ Class = "(\w+)"$`).FindAllStringSubmatch(string(source), -1) {
		declared = append(declared, preauth.Class(constant[1]))
	}
	if got := preauth.Classes(); !slices.Equal(got, declared) || len(got) == 0 {
		t.Errorf("got %q, declared are %q", got, declared)
	}
}
