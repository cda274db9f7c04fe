package doctor

import (
	"context"
	"fmt"
	"time"

	"preauth"
	"preauth/wechat"
)

// examineWeChat calls each host without a token, which costs nothing.
func (e *examination) examineWeChat(ctx context.Context) {
	e.group = "WeChat"
	ctx, cancel := context.WithTimeout(ctx, 2*limit)
	defer cancel()
	var works bool
	asked := now(e.Config)
	answers := e.WeChat.Reach(ctx)
	answered := now(e.Config)
	for _, a := range answers {
		works = works || a.Err == nil
		if !a.Date.IsZero() { // it is cut to the second
			e.noteClock("WeChat", asked, answered, a.Date.Add(time.Second/2), wechatClock)
		}
	}
	for _, a := range answers {
		e.check(ctx, a.Host, func(context.Context) verdict { return reached(a, works) })
	}
	e.check(ctx, "address", func(context.Context) verdict { return e.address(answers) })
}

// reached judges the answer of one host. works says that some host answered as it should.
func reached(a wechat.Reach, works bool) verdict {
	if a.Err == nil {
		return ok("answers")
	}
	switch a.Err.Class {
	case preauth.ClassAddressNotAllowed:
		return problem(a.Err.Error(), "add the address to the component's IP allow-list on WeChat's open platform")
	case preauth.ClassBadReply:
		return problem(a.Err.Error(), "something else than WeChat answers: correct --wechat-url ($PREAUTH_WECHAT_URL), or look for a proxy on the way")
	case preauth.ClassTransient:
		if a.Err.Status != 0 {
			return warning(a.Err.Error(), "wait: WeChat says that it passes by itself")
		}
		return fault(!works, a.Err.Err.Error(), networkRemedy(a.Err, reach{
			"let firewalls pass connections to it", "--wechat-url ($PREAUTH_WECHAT_URL) or HTTPS_PROXY", "this machine's certificate store (SSL_CERT_FILE)", "a certificate",
		}))
	default:
		return warning(a.Err.Error(), fmt.Sprintf("look up errcode %d in WeChat's documentation", a.Err.ErrCode))
	}
}

// address says from which address calls leave.
func (e *examination) address(answers []wechat.Reach) verdict {
	for _, a := range answers {
		if a.Err != nil && a.Err.RequestIP != "" {
			return ok("WeChat sees calls from " + a.Err.RequestIP)
		}
	}
	for _, a := range answers {
		switch {
		case a.Local == "":
		case e.Proxy != "":
			return ok("calls leave through the proxy " + e.Proxy + ": its address has to be on WeChat's allow-list")
		default:
			return ok("calls leave from " + a.Local + " as this machine sees it; WeChat may see that of a router")
		}
	}
	return skipped("needs a host that answers")
}
