package main

import (
	"context"
	"flag"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/silenceper/wechat/v2/openplatform"
	openconfig "github.com/silenceper/wechat/v2/openplatform/config"
	"github.com/silenceper/wechat/v2/util"
)

// runMicro answers look-ups with a fixed reply, from a bare endpoint of a micro service.
func runMicro(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("micro", flag.ContinueOnError)
	size := flags.Int("size", 300, "bytes of a reply")
	if err := flags.Parse(args); err != nil {
		return err
	}
	reply := []byte(strings.Repeat("x", *size))
	return respond(ctx, func(nc *nats.Conn) error {
		service, err := micro.AddService(nc, micro.Config{Name: "micro", Version: "1.0.0"})
		if err != nil {
			return err
		}
		return service.AddEndpoint("lookup", micro.HandlerFunc(func(req micro.Request) { _ = req.Respond(reply) }),
			micro.WithEndpointSubject(lookupSubject+".>"))
	})
}

// runSDK answers look-ups as a platform does that has an SDK and no preauth: it asks WeChat for a
// new code each time.
func runSDK(ctx context.Context, _ []string) error {
	stand, err := url.Parse(os.Getenv("PREAUTH_WECHAT_URL"))
	if err != nil {
		return err
	}
	util.SetURIModifier(func(uri string) string {
		u, err := url.Parse(uri)
		if err != nil {
			return uri
		}
		u.Scheme, u.Host = stand.Scheme, stand.Host
		return u.String()
	})
	util.DefaultHTTPClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: manyRequests}}
	return respond(ctx, func(nc *nats.Conn) error {
		_, err := nc.QueueSubscribe(lookupSubject+".>", "q", func(msg *nats.Msg) {
			go func() {
				appid := strings.TrimPrefix(msg.Subject, lookupSubject+".")
				code, err := openplatform.NewOpenPlatform(&openconfig.Config{AppID: appid, Cache: oneToken{}}).GetPreCode()
				if err != nil {
					_ = msg.RespondMsg(&nats.Msg{Header: nats.Header{micro.ErrorCodeHeader: {"500"}, micro.ErrorHeader: {err.Error()}}})
					return
				}
				_ = msg.Respond([]byte(`{"component_appid":"` + appid + `","pre_auth_code":"` + code + `"}`))
			}()
		})
		return err
	})
}

// oneToken is the SDK's store of tokens, which another program fills.
type oneToken struct{}

func (oneToken) Get(string) any                       { return "61_a-token-that-another-program-has-put-there" }
func (oneToken) Set(string, any, time.Duration) error { return nil }
func (oneToken) IsExist(string) bool                  { return true }
func (oneToken) Delete(string) error                  { return nil }

// respond answers as subscribed until ctx ends.
func respond(ctx context.Context, subscribe func(*nats.Conn) error) error {
	nc, err := connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := subscribe(nc); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	ready("")
	<-ctx.Done()
	return nil
}
