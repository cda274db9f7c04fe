package main

import (
	"syscall"
	"testing"

	"preauth/internal/app/apptest"
)

func TestServeIsConfiguredByItsEnvironmentAndEndsOnSIGTERM(t *testing.T) {
	t.Parallel()
	server, stand := newNATS(t), newWeChat(t, "")
	p := apptest.StartProcess(t, t.TempDir(), []string{
		"NATS_URL=" + server.URL(), "MYSQL_DSN=" + apptest.NewDatabase(t), "PREAUTH_WECHAT_URL=" + stand.URL(), "PREAUTH_SCHEMA_APPLY=true",
		"PREAUTH_ADMIN_LISTEN=127.0.0.1:0", "PREAUTH_SUBJECT_UPDATED=codes", "PREAUTH_LOG_LEVEL=", "PREAUTH_LOG_FORMAT=text",
	}, "serve", "--log-format=json")
	awaitReady(t, p.Out.Await(t, `"admin":"([^"]+)"`)[1])
	nc := connect(t, server.URL())
	sub := subscribe(t, nc, "codes")
	if err := nc.Publish("component.token.updated", tokenEvent("wx1", "first")); err != nil {
		t.Fatal(err)
	}
	nextUpdate(t, sub, "wx1")
	if ended := p.Signal(t, syscall.SIGTERM); ended.ExitCode() != 0 {
		t.Errorf("ended with %v, want status 0", ended)
	}
	p.Out.Await(t, `"msg":"stopped"`)
}
