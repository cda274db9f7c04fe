package main

import (
	"regexp"
	"testing"

	"preauth"
	"preauth/internal/app/apptest"
)

// What WeChat said of a component is shown, and where it has said nothing, that.
func TestQuota(t *testing.T) {
	t.Parallel()
	server, stand, dsn := newNATS(t), newWeChat(t, ""), apptest.NewDatabase(t)
	stand.SetToken("wx1", preauth.NewSecret(secret+"-wx1"))
	stand.SetDailyQuota("wx1", 200)
	here := func(args ...string) []string { return append(args, "--timeout=1m", "--nats-url="+server.URL()) }
	for range 2 { // a replica knows what it was told, and any may answer
		_, admin := serve(t, "--nats-url="+server.URL(), "--mysql-dsn="+dsn, "--schema-apply", "--wechat-url="+stand.URL(), "--spares=0")
		awaitReady(t, admin)
	}
	matches(t, `^There is no component yet\.\n$`, here("quota")...)
	updates := subscribe(t, connect(t, server.URL()), "preauth.updated")
	for _, appid := range []string{"wx1", "wx2"} {
		matches(t, `stored`, here("announce", appid, "--token-file="+write(t, "token", secret+"-"+appid))...)
		nextUpdate(t, updates, appid)
	}
	for _, each := range []struct{ flag, want string }{
		{"--json=false", `(?s)^COMPONENT +LIMIT +REMAINING +LEFT\nwx1 +200 +(19\d|200) +\d+ %\nwx2 +- +- +WeChat has not said\n\n` +
			`WeChat begins to count anew at midnight UTC\+8, in .*2 replicas run\.\n$`},
		{"--json", `^\{"component_appid":"wx1","quota":\{"limit":200,"remaining":(19\d|200)\}\}\n\{"component_appid":"wx2"\}\n$`},
	} {
		apptest.Eventually(t, "what is left is shown as "+each.want, func() bool {
			status, out, _ := do(t, here("quota", each.flag)...)
			return status == 0 && regexp.MustCompile(each.want).MatchString(out)
		})
	}
}
