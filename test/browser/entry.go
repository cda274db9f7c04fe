package main

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"preauth"
	"preauth/internal/entry"
	"preauth/internal/gateway"
)

// entryKey signs the links to the entry page.
var entryKey = preauth.NewSecret("5f4dcc3b5aa765d61d8327deb882cf99")

// gateway returns a gateway with the entry page.
func (s *system) gateway(log *slog.Logger) (http.Handler, error) {
	g := gateway.New(gateway.Options{
		Client: s.client, NATS: s.nc, Subjects: preauth.DefaultSubjects(), Tokens: func() gateway.Tokens { return gateway.Tokens{} },
		Rate: 100, Timeout: patience, Registry: prometheus.NewRegistry(), Log: log,
	})
	page, err := entry.New(entry.Source{
		Keys: func() []preauth.Secret { return []preauth.Secret{entryKey} }, RedirectURI: platform + "/done",
		Rate: 100, Claim: g.Claim, Resolve: g.Resolve,
	}, log)
	if err != nil {
		return nil, err
	}
	g.ServeEntry(page)
	return g, nil
}

// entryLink returns a visitor's link to the entry page.
func entryLink(appid, claimID string, life time.Duration) (string, error) {
	return preauth.EntryLink{AppID: appid, ClaimID: claimID, Reference: "order 7", ExpiresAt: time.Now().Add(life)}.Sign(platform, entryKey)
}

// wechatAgent is what WeChat's browser says it is.
const wechatAgent = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/116.0.0.0 Mobile Safari/537.36 MicroMessenger/8.0.47"

// entryPictures are those of the entry page. WeChat's pages are empty answers here, after which a
// browser stays where it is.
func (s *system) entryPictures(outside *internet, appid string) ([]picture, error) {
	handler, err := s.gateway(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	outside.connect(handler, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	link, err := entryLink(appid, "visitor-4f1c", time.Hour)
	ready := `document.querySelector("#go") !== null`
	return []picture{
		{"entry-computer", link, look{width: 640, height: 680}, ready},
		{"entry-phone", link, look{width: 320, height: 330, scale: 2, agent: wechatAgent, language: "zh-CN"}, ready},
	}, err
}
