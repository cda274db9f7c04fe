package wechattest_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"preauth"
	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// The first call gets a code. The second gets an error. The answer to the third is lost, although
// WeChat issued a code.
func Example() {
	server, err := wechattest.Start(wechattest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := wechat.New(wechat.Config{BaseURLs: []string{server.URL()}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	const appid = "wx0123456789abcdef"
	token := preauth.NewSecret("61_W3mEQkP0VbZc5x5vJ8F1G7kPOq2yq0TtX8mZ9nRk4sLw7uYh1dCf3gAeBi6jVo2N")
	server.SetToken(appid, token)
	server.Next(appid,
		wechattest.Fault{},
		wechattest.Error(45009, ""),
		wechattest.Fault{Reset: wechattest.ResetAfter},
	)
	for range 3 {
		code, err := client.CreatePreAuthCode(context.Background(), appid, token)
		if failure, ok := errors.AsType[*wechat.Error](err); ok {
			fmt.Println("no code:", failure.Class)
			continue
		}
		fmt.Println("a code of", len(code.PreAuthCode.Reveal()), "characters for", code.ExpiresIn)
	}
	fmt.Println(server.Count(appid), "calls,", len(server.Issued(appid)), "codes issued")
	// Output:
	// a code of 100 characters for 30m0s
	// no code: quota
	// no code: transient
	// 3 calls, 2 codes issued
}
