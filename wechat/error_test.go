package wechat_test

import (
	"context"
	"io"
	"testing"

	"preauth"
	"preauth/wechat"
)

func TestErrorText(t *testing.T) {
	for _, test := range []struct {
		name string
		err  wechat.Error
		want string
	}{
		{
			"WeChat's own",
			wechat.Error{Class: preauth.ClassQuota, ErrCode: 45009, ErrMsg: "reach max api daily quota limit rid: 1-2-3", RID: "1-2-3", Host: "api.weixin.qq.com", Status: 200},
			"wechat: no pre_auth_code: quota: HTTP 200 from api.weixin.qq.com: errcode 45009: reach max api daily quota limit rid: 1-2-3",
		},
		{
			"errcode without errmsg",
			wechat.Error{Class: preauth.ClassTransient, ErrCode: -1, Host: "127.0.0.1:8080", Status: 200},
			"wechat: no pre_auth_code: transient: HTTP 200 from 127.0.0.1:8080: errcode -1",
		},
		{
			"a gateway's",
			wechat.Error{Class: preauth.ClassTransient, Host: "api.weixin.qq.com", Status: 502},
			"wechat: no pre_auth_code: transient: HTTP 502 from api.weixin.qq.com",
		},
		{
			"an unusable answer with an errmsg",
			wechat.Error{Class: preauth.ClassBadReply, ErrMsg: "ok", Host: "api.weixin.qq.com", Status: 200, Err: io.ErrUnexpectedEOF},
			"wechat: no pre_auth_code: bad_reply: HTTP 200 from api.weixin.qq.com: ok: unexpected EOF",
		},
		{
			"no answer",
			wechat.Error{Class: preauth.ClassTransient, Err: context.Canceled},
			"wechat: no pre_auth_code: transient: context canceled",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.err.Error(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if got := test.err.ErrorType(); got != string(test.err.Class) {
				t.Errorf("type %q, want the class %s", got, test.err.Class)
			}
		})
	}
}
