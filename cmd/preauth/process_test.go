package main

import (
	"strings"
	"syscall"
	"testing"

	"preauth/internal/app/apptest"
)

func TestServeIsConfiguredByItsEnvironmentAndEndsOnSIGTERM(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	p := apptest.StartProcess(t, t.TempDir(), []string{
		"NATS_URL=" + server.URL(), "MYSQL_DSN=" + apptest.NewDatabase(t), "PREAUTH_WECHAT_URL=" + stand.URL(), "PREAUTH_SCHEMA_APPLY=true",
		"PREAUTH_ADMIN_LISTEN=127.0.0.1:0", "PREAUTH_SUBJECT_PREFIX=acme", "PREAUTH_LOG_LEVEL=", "PREAUTH_LOG_FORMAT=text",
	}, "serve", "--log-format=json")
	started := p.Out.Await(t, `"msg":"starting".*\n`)[0]
	for _, want := range []string{
		`"nats":"` + server.URL() + `","mysql":"` + apptest.MySQL.Addr() + `/command_`, `"wechat":"` + stand.URL() + `"`,
		`"settings":{"nats-url":"set","mysql-dsn":"set","wechat-url":"set","subject-prefix":"acme","admin-listen":"127.0.0.1:0","log-format":"json","schema-apply":true}`,
	} {
		if !strings.Contains(started, want) {
			t.Errorf("the first line is %s, want %s in it", started, want)
		}
	}
	awaitReady(t, p.Out.Await(t, `"admin":"([^"]+)"`)[1])
	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "acme.preauth.updated")
	if err := nc.Publish("acme.component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	update := nextUpdate(t, sub, "wx1")
	if status, out, stderr := do(t, "lookup", "--nats-url="+server.URL(), "--subject-prefix=acme", "--timeout=1m", "--reveal", "wx1"); status != 0 || !strings.HasPrefix(out, update.PreAuthCode.Reveal()+"\n") {
		t.Errorf("look-up below the prefix: status %d, %q", status, stderr)
	}
	if ended := p.Signal(t, syscall.SIGTERM); ended.ExitCode() != 0 {
		t.Errorf("ended with %v, want status 0", ended)
	}
	p.Out.Await(t, `"msg":"stopped"`)
}
