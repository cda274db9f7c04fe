package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"preauth"
	"preauth/consumer"
	"preauth/internal/app"
	"preauth/internal/app/apptest"
	"preauth/internal/mysqlserver"
	"preauth/internal/natsserver"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// From a token in Redis to a code in Redis, by way of the service.
func TestTheWholeWay(t *testing.T) {
	mysql, err := mysqlserver.Start(t.Context(), mysqlserver.TestOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer mysql.Close()
	if err := mysql.CreateDatabase(t.Context(), "bridge"); err != nil {
		t.Fatal(err)
	}
	settings := app.MySQL{DSN: mysql.DSN("bridge"), Connections: 4}
	if err := settings.ApplySchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	api, err := wechattest.Start(wechattest.Options{AnyToken: true})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	store := t.TempDir()
	broker, err := natsserver.Start(natsserver.Options{StoreDir: store})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()

	service := app.Service{
		NATS: app.NATS{URL: broker.URL()}, MySQL: settings, Admin: app.Admin{Listen: "127.0.0.1:0"},
		WeChat: app.WeChat{URLs: []string{api.URL()}, Path: wechat.DefaultPath, Timeout: time.Minute, Calls: 4},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	serving.Go(func() {
		log := slog.New(slog.NewTextHandler(apptest.NewOutput(), nil))
		if err := service.Serve(ctx, log, consumer.Config{Version: "1.0.0", Calls: 4, Bucket: "preauth"}, func(net.Addr, *consumer.Service) {}); err != nil {
			t.Error(err)
		}
	})

	server := startRedis(t)
	db := server.client(t)
	startBridge(t, broker.URL(), server.url(), "tokens", "--preset=easywechat")
	codes := startBridge(t, broker.URL(), server.url(), "codes")
	do(t, db, "SET", "open_platform.component_access_token.wx1", `s:6:"token1";`, "EX", 7000)
	next := func(than string) (code string) {
		t.Helper()
		apptest.Eventually(t, "another code than before", func() bool {
			code = db.Get(t.Context(), "pre_auth_code:wx1").Val()
			return strings.HasPrefix(code, "preauthcode@@@") && code != than
		})
		return code
	}
	first := next("")

	client, err := preauth.NewClient(connect(t, broker.URL()))
	if err != nil {
		t.Fatal(err)
	}
	err = client.AnnounceAuthorization(t.Context(), preauth.AuthorizationEvent{AppID: "wx1", PreAuthCode: preauth.NewSecret(first), AuthorizerAppID: "wxa"})
	if err != nil {
		t.Fatal(err)
	}
	second := next(first) // somebody authorized with the first
	do(t, db, "SET", "open_platform.component_access_token.wx1", `s:6:"token2";`, "EX", 7000)
	third := next(second)

	// NATS loses everything, and Redis its codes.
	broker.Stop()
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	do(t, db, "DEL", "pre_auth_code:wx1", "pre_auth_code:wx1:revision")
	if err := broker.Restart(); err != nil {
		t.Fatal(err)
	}
	if code := next(""); code != third {
		t.Log("the service made another code") // it may, with the token that is announced again
	}
	codes.awaitReady(t, true)
	do(t, db, "SET", "open_platform.component_access_token.wx1", `s:6:"token3";`, "EX", 7000)
	next(db.Get(t.Context(), "pre_auth_code:wx1").Val())
}
