package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"preauth"
	"preauth/internal/app/apptest"
	"preauth/internal/natsserver"
)

// The rights that docs/bridge.md gives are enough, and nothing that a bridge does is refused.
func TestRightsAreEnough(t *testing.T) {
	rules, err := filepath.Abs("../deploy/nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.d")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for the compiler, on a busy machine
	defer cancel()
	command := exec.CommandContext(ctx, "go", "run", ".", "-rules", rules, keys)
	command.Dir = "../deploy/nats/keys"
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	env, err := os.ReadFile(filepath.Join(keys, "nkeys.env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(env)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		t.Setenv(name, value)
	}
	accounts, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	server, err := natsserver.Start(natsserver.Options{Config: string(accounts)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	login := func(role string) nats.Option {
		option, err := nats.NkeyOptionFromSeed(filepath.Join(keys, role+".nk"))
		if err != nil {
			t.Fatal(err)
		}
		return option
	}
	b := &broker{Server: server}
	b.use(t, connect(t, server.URL(), login("admin")))

	redisServer := startRedis(t)
	db := redisServer.client(t)
	for _, line := range aclOfDocs(t) {
		do(t, db, line...)
	}
	do(t, db, "CONFIG", "SET", "notify-keyspace-events", "KA")
	as := func(user string) string {
		return "redis://" + user + ":" + aclPassword + "@" + redisServer.address + "/0"
	}
	nkey := func(role string) []string {
		return []string{"--nats-nkey=" + filepath.Join(keys, role+".nk"), "--nats-inbox-prefix=_INBOX." + role}
	}

	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("before"), Revision: 3})
	tokens := startBridge(t, server.URL(), as("bridge-tokens"), "tokens", append(nkey("tokens"), "--preset=wxjava", "--poll=5m")...)
	named := startBridge(t, server.URL(), as("bridge-tokens"), "tokens", append(nkey("tokens"), "--preset=wxjava", "--component=wx2")...)
	codes := startBridge(t, server.URL(), as("bridge-codes"), "codes", append(nkey("subscriber"), "--poll=5m")...)
	awaitCode(t, db, "wx1", code("before").Reveal())
	for _, bridge := range []*bridge{tokens, named, codes} {
		bridge.awaitReady(t, true)
	}
	apptest.Eventually(t, "both subscribe", func() bool {
		const channel = "__keyspace@0__:wechat_component_access_token:wx2"
		patterns, err := db.PubSubNumPat(t.Context()).Result()
		channels := db.PubSubNumSub(t.Context(), channel).Val()
		return err == nil && patterns == 1 && channels[channel] == 1
	})
	do(t, db, "SET", "wechat_component_access_token:wx1", "one", "EX", 7000)
	b.await(t, "wx1", "one", 1)
	do(t, db, "SET", "wechat_component_access_token:wx2", "two", "EX", 7000)
	b.await(t, "wx2", "two", 2)
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("after"), Revision: 4})
	awaitCode(t, db, "wx1", code("after").Reveal())
	page, err := os.ReadFile("../docs/bridge.md")
	if err != nil {
		t.Fatal(err)
	}
	metric, all := regexp.MustCompile(`(?m)^# HELP (preauth_\w+)`), ""
	for _, bridge := range []*bridge{tokens, named, codes} {
		_, metrics := bridge.get(t, "/metrics")
		all += metrics
		for _, found := range metric.FindAllStringSubmatch(metrics, -1) {
			if !strings.Contains(string(page), "| `"+found[1]+"{") && !strings.Contains(string(page), "| `"+found[1]+"`") {
				t.Errorf("docs/bridge.md does not have %s", found[1])
			}
		}
		if log := bridge.Err.String(); strings.Contains(log, "ermission") || strings.Contains(log, "NOPERM") {
			t.Errorf("a bridge is refused something:\n%s", log)
		}
	}
	for _, named := range regexp.MustCompile(`\bpreauth_bridge_\w+`).FindAllString(string(page), -1) {
		if !strings.Contains(all, "# HELP "+named+" ") {
			t.Errorf("docs/bridge.md names %s, which no bridge has", named)
		}
	}
}

// A bridge without the right to hear notifications says so, and polls.
func TestRedisThatRefusesNotifications(t *testing.T) {
	b, server := startBroker(t, natsserver.Options{}), startRedis(t)
	db := server.client(t)
	do(t, db, "ACL", "SETUSER", "me", "on", ">"+aclPassword, "~*", "+@read", "+multi", "+exec", "+ping")
	bridge := startBridge(t, b.URL(), "redis://me:"+aclPassword+"@"+server.address+"/0", "tokens")
	bridge.Err.Await(t, `"level":"WARN","msg":"keyspace notifications are not heard, so changes are found by polling","error":"NOPERM`)
	do(t, db, "SET", "component_access_token:wx1", "one", "EX", 7000)
	b.await(t, "wx1", "one", 1)
	bridge.awaitReady(t, true)
	// And one that may not read says that.
	do(t, db, "ACL", "SETUSER", "me", "-@read")
	bridge.awaitReady(t, false)
	if _, body := bridge.get(t, "/readyz"); !strings.Contains(body, "Redis: ") || !strings.Contains(body, "NOPERM") {
		t.Errorf("it is not ready because of %s", body)
	}
	do(t, db, "ACL", "SETUSER", "me", "on", ">other"+aclPassword, "<"+aclPassword)
	if n, err := db.ClientKillByFilter(t.Context(), "USER", "me").Result(); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	apptest.Eventually(t, "it says that the login fails", func() bool {
		_, body := bridge.get(t, "/readyz")
		return strings.Contains(body, "WRONGPASS")
	})
}

// A subscriber that may not read the bucket says so.
func TestBucketThatMayNotBeRead(t *testing.T) {
	server, err := natsserver.Start(natsserver.Options{Config: `
		accounts: { A: { jetstream: enabled, users: [
			{user: admin, password: admin}
			{user: me, password: "` + secret + `", permissions: {publish: "preauth.lookup.*", subscribe: ["preauth.updated", "_INBOX.>"]}}
		] } }`})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	b := &broker{Server: server}
	b.use(t, connect(t, server.URL(), nats.UserInfo("admin", "admin")))
	redisServer := startRedis(t)
	bridge := startBridge(t, server.URL(), redisServer.url(), "codes", "--nats-user=me", "--nats-password="+secret)
	bridge.Err.Await(t, `"NATS reports an error","error":"nats: permissions violation: .*STREAM.INFO.KV_preauth`)
	b.update(t, preauth.Update{AppID: "wx1", PreAuthCode: code("one"), Revision: 1})
	awaitCode(t, redisServer.client(t), "wx1", code("one").Reveal())
	bridge.awaitReady(t, false)
}

// aclPassword is what the tests log in with.
const aclPassword = secret

// aclOfDocs returns the ACL commands of docs/bridge.md.
func aclOfDocs(t *testing.T) (commands [][]any) {
	t.Helper()
	page, err := os.ReadFile("../docs/bridge.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "redis-cli ACL SETUSER ") {
			continue
		}
		var command []any
		for _, word := range strings.Fields(line)[1:] {
			word = strings.Trim(word, "'")
			if strings.HasPrefix(word, ">") {
				word = ">" + aclPassword
			}
			command = append(command, word)
		}
		commands = append(commands, command)
	}
	if len(commands) != 2 {
		t.Fatalf("%d ACL commands in docs/bridge.md, want 2", len(commands))
	}
	return commands
}
