package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"preauth/wechat/wechattest"
)

// runWeChat is the stand-in for WeChat, which takes any token. At a second address the measuring
// command asks for the number of calls and sets how long each takes.
func runWeChat(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("wechat", flag.ContinueOnError)
	life := flags.Duration("code-life", 30*time.Minute, "life of a code")
	delay := flags.Duration("delay", 0, "duration of a call")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// It would otherwise remember hundreds of thousands of calls.
	stand, err := wechattest.Start(wechattest.Options{AnyToken: true, CodeLife: *life, KeepCalls: 1000})
	if err != nil {
		return err
	}
	defer stand.Close()
	var current atomic.Int64
	current.Store(int64(*delay))
	stand.Every(func(wechattest.Call) wechattest.Fault {
		return wechattest.Fault{Delay: time.Duration(current.Load())}
	})

	mux := http.NewServeMux()
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, stand.Count("")) })
	mux.HandleFunc("GET /delay", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		current.Store(int64(d))
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	ready(stand.URL() + " " + listener.Addr().String())
	<-ctx.Done()
	return nil
}
