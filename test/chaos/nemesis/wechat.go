package nemesis

import (
	"context"
	"math/rand/v2"
	"time"

	"preauth/test/chaos/history"
	"preauth/wechat/wechattest"
)

// spoilers are what can go wrong at WeChat, by kind.
var spoilers = []struct {
	kind   string
	faults []wechattest.Fault
}{
	{"transient", []wechattest.Fault{wechattest.Error(-1, "")}},
	{"throttled", []wechattest.Fault{wechattest.Error(45011, "")}},
	{"quota", []wechattest.Fault{wechattest.Error(45009, ""), wechattest.Error(48006, "")}},
	{"token rejected", []wechattest.Fault{wechattest.Error(40001, ""), wechattest.Error(42001, ""), wechattest.Error(61005, "")}},
	{"address not allowed", []wechattest.Fault{wechattest.Error(61004, ""), wechattest.Error(40164, "")}},
	{"configuration", []wechattest.Fault{wechattest.Error(40013, ""), wechattest.Error(48001, ""), wechattest.Error(61024, "")}},
	{"our fault", []wechattest.Fault{wechattest.Error(47001, ""), wechattest.Error(41002, "")}},
	{"unknown", []wechattest.Fault{wechattest.Error(99999, "no such thing"), wechattest.Error(-42, "")}},
	{"HTTP 5xx, 429", []wechattest.Fault{
		wechattest.HTTPStatus(500), wechattest.HTTPStatus(502), wechattest.HTTPStatus(503), wechattest.HTTPStatus(504), wechattest.HTTPStatus(429),
	}},
	{"redirect", []wechattest.Fault{wechattest.Redirect("http://127.0.0.1:1/"), wechattest.HTTPStatus(302)}},
	{"HTML", []wechattest.Fault{wechattest.HTML()}},
	{"garbage", []wechattest.Fault{
		wechattest.Garbage(), wechattest.TruncatedJSON(), wechattest.Huge(), wechattest.EmptyCode(), wechattest.WithoutExpiresIn(),
		wechattest.ExpiresIn("0"), wechattest.ExpiresIn("-5"), wechattest.ExpiresIn(`"never"`),
	}},
	{"slow", []wechattest.Fault{{Delay: 500 * time.Millisecond}, {Delay: 1500 * time.Millisecond}, {Delay: 2700 * time.Millisecond}}},
	{"hangs", []wechattest.Fault{{Delay: 5 * time.Second}}},
	{"resets, no code issued", []wechattest.Fault{{Reset: wechattest.ResetBefore}}},
	{"resets, code issued", []wechattest.Fault{{Reset: wechattest.ResetAfter}}},
	{"cuts the body", []wechattest.Fault{{CutBody: true}}},
}

// wechat faults happen to WeChat itself: to every call, to every second or to every fifth.
func (n *Nemesis) wechat() []fault {
	return []fault{{1, func(ctx context.Context, rng *rand.Rand) {
		spoiler := spoilers[rng.IntN(len(spoilers))]
		every := one(rng, 1, 2, 5)
		n.during(ctx, rng, 6*time.Second, history.Event{Fault: "WeChat: " + spoiler.kind, Target: "WeChat"}, func() func() error {
			n.System.WeChat.SetFault(func(call int) wechattest.Fault {
				if call%every != 0 {
					return wechattest.Fault{}
				}
				return spoiler.faults[call/every%len(spoiler.faults)]
			})
			return func() error {
				n.System.WeChat.SetFault(nil)
				return nil
			}
		})
	}}}
}
