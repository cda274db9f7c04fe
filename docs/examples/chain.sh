#!/usr/bin/env bash
# The whole chain, once: WeChat pushes a ticket, the token service gets a token with it and announces
# it, preauth gets codes, a visitor claims one and authorizes, WeChat pushes that, the token service
# announces it, and preauth says whose code it was. `make example` builds the programs and runs this.
set -eu
cd "$(dirname "$0")/../.."

port=$((10000 + 3 * $$ % 20000)) # 3 ports that another run does not take
export NATS_URL=nats://127.0.0.1:$port
export LISTEN=127.0.0.1:$((port + 1)) WECHAT_URL=http://127.0.0.1:$((port + 2))
# preauth-dev prints these.
export WECHAT_APPID=wx0123456789abcdef WECHAT_APPSECRET=made-up-appsecret
export WECHAT_PUSH_TOKEN=made-up-token WECHAT_ENCODING_AES_KEY=abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG

dev='' tokenservice='' visitor=''
log=$(mktemp)
stop() {
	trap '' INT TERM
	kill $visitor $tokenservice $dev 2>/dev/null || true
	wait
	rm "$log"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Job control, because Ctrl-C is for this script alone: a second signal ends preauth-dev at once, and
# then its files stay.
set -m
echo "chain: starting preauth-dev (NATS, a database, a stand-in for WeChat, preauth), tokenservice and visitor"
bin/preauth-dev --nats-listen "${NATS_URL#nats://}" --wechat-listen "${WECHAT_URL#http://}" --push-to "http://$LISTEN/" \
	--components 1 --every 0s --code-life 30m >"$log" 2>&1 &
dev=$!
bin/tokenservice &
tokenservice=$!
bin/visitor &
visitor=$!
# The visitor waits for the others for two minutes: in vain if one of them ends.
{
	while sleep 0.1 && kill -0 $dev && kill -0 $tokenservice && kill -0 $visitor; do :; done
	kill -0 $dev && kill -0 $tokenservice || kill $visitor
} 2>/dev/null || true
wait $visitor || {
	cat "$log"
	exit 1
}
