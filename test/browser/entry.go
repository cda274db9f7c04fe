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
	page, err := entry.New(entry.Source{
		Keys: func() []preauth.Secret { return []preauth.Secret{entryKey} }, RedirectURI: platform + "/done",
		Claim: s.client.Claim, Resolve: s.client.Resolve,
	}, log)
	if err != nil {
		return nil, err
	}
	return gateway.New(gateway.Options{
		Client: s.client, NATS: s.nc, Subjects: preauth.DefaultSubjects(), Tokens: func() gateway.Tokens { return gateway.Tokens{} },
		Rate: 1, Timeout: patience, Entry: page, Registry: prometheus.NewRegistry(), Log: log,
	}), nil
}

// entryLink returns a visitor's link to the entry page.
func entryLink(appid, claimID string, life time.Duration) (string, error) {
	return preauth.EntryLink{AppID: appid, ClaimID: claimID, Reference: "order 7", ExpiresAt: time.Now().Add(life)}.Sign(platform, entryKey)
}
