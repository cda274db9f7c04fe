package doctor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"preauth"
	"preauth/consumer"
)

// Each right of the role in deploy/nats is tried, or another check needs it, and no other is.
func TestEveryRightOfTheRoleIsTried(t *testing.T) {
	conf, err := os.ReadFile("../../deploy/nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	_, role, _ := strings.Cut(string(conf), "{ nkey: $NKEY_PREAUTH, permissions: {")
	role, _, _ = strings.Cut(role, "{ nkey: $NKEY_ADMIN }")
	role = regexp.MustCompile(`#.*`).ReplaceAllString(role, "")
	publish, subscribe, found := strings.Cut(role, "subscribe:")
	if !found {
		t.Fatal("accounts.conf has no such role")
	}
	cfg := consumer.Config{
		Subjects: preauth.DefaultSubjects(), TokenStream: "COMPONENT_TOKENS", AuthorizationStream: "COMPONENT_AUTHORIZED",
		UpdateStream: "PREAUTH", FailureStream: "PREAUTH_FAILED", AuthorizedStream: "PREAUTH_AUTHORIZED", Bucket: "preauth",
	}
	published := slices.Concat(announcements(cfg.Subjects), uses("$JS.API.", "COMPONENT_TOKENS", "COMPONENT_AUTHORIZED", "PREAUTH"), nowhere,
		[]string{"$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*", accountSubject, othersFare})
	for _, r := range consumer.Roles(cfg) {
		published = append(published, "$JS.API.STREAM.CREATE."+r.Wanted().Name)
	}
	compare(t, publish, published)
	compare(t, subscribe, slices.Concat(requests(cfg), shown(cfg.Subjects), []string{"_INBOX.preauth.>"}))
}

func compare(t *testing.T, granted string, tried []string) {
	t.Helper()
	var patterns []string
	for _, found := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(granted, -1) {
		patterns = append(patterns, found[1])
	}
	slices.Sort(patterns)
	slices.Sort(tried)
	if !slices.Equal(patterns, tried) {
		t.Errorf("the role has\n%s\nand tried are\n%s", strings.Join(patterns, "\n"), strings.Join(tried, "\n"))
	}
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{"2.10.29": false, "2.11.0": true, "2.15.2": true, "3.0.0-beta": true, "1.99.0": false, "": false} {
		if got := atLeast(version, 2, 11); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
