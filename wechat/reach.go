package wechat

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"

	"preauth"
)

// Reach is how a host can be reached.
type Reach struct {
	// Host is the host's name, with the port if the base URL has one.
	Host string
	// Local is this machine's address on the connection, without the port. It is "" if there was no
	// connection. WeChat sees another one behind a proxy or a router that translates addresses.
	Local string
	// Date is the host's time in whole seconds, zero if it gave none.
	Date time.Time
	// Err is nil if WeChat answered as it does to such a call. Otherwise it is as of
	// [Client.CreatePreAuthCode].
	Err *Error
}

// Reach calls each host without a token. WeChat refuses that, so it costs no quota and makes no
// code. It may refuse the caller's address instead, which [Error].RequestIP then names.
func (c *Client) Reach(ctx context.Context) []Reach {
	var all []Reach
	for _, host := range c.hosts {
		reach := Reach{Host: host.name}
		traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(conn httptrace.GotConnInfo) {
			reach.Local, _, _ = net.SplitHostPort(conn.Conn.LocalAddr().String())
		}})
		reply, err := c.post(traced, host.base+c.path, "", []byte("{}"))
		if err != nil {
			reach.Err = &Error{what: "answer", Class: preauth.ClassTransient, Err: err}
		} else {
			reach.Date, _ = http.ParseTime(reply.date)
			reach.Err = reply.refusal(host.name)
		}
		all = append(all, reach)
	}
	return all
}

// refusal returns nil if the reply is WeChat's to a call without a token.
func (r reply) refusal(host string) *Error {
	answer, unusable := parseAnswer(r.body)
	e := r.failure(host, newRedactor(answer.code), answer.errCode, answer.errMsg, unusable)
	if r.ok() && (e.Class == preauth.ClassRequest || e.Class == preauth.ClassTokenRejected) {
		return nil
	}
	e.what = "answer"
	return e
}
