// Package monitor asks a nats-server's monitoring endpoint for what the server tells no ordinary
// client: whether it syncs each message to disk, and what time it has.
package monitor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// timeout bounds a question, and maxAnswer its answer in bytes.
const timeout, maxAnswer = 3 * time.Second, 1 << 20

// Server is the monitoring endpoint of a nats-server. Make it with [New].
type Server struct {
	url  string
	http *http.Client
}

// New returns the endpoint at a URL such as http://127.0.0.1:8222. authorities are those that
// signed the certificate of an https one; nil stands for the system's.
func New(url string, authorities *x509.CertPool) *Server {
	return &Server{
		url: strings.TrimRight(url, "/"),
		// It is asked directly, and seldom. A redirect would lead to something else.
		http: &http.Client{
			Timeout: timeout,
			Transport: &http.Transport{
				DisableKeepAlives: true,
				TLSClientConfig:   &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12},
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// JetStream is what a server says of its JetStream.
type JetStream struct {
	// ServerID is the id that a client's connection to the same server has.
	ServerID string
	// Enabled means that the server has JetStream.
	Enabled bool
	// SyncAlways means that it syncs each message to disk before it acknowledges it.
	SyncAlways bool
	// Now is the server's time.
	Now time.Time
}

var errOther = errors.New("no nats-server answers there: name the address of its http_port or https_port")

// JetStream asks the server.
func (s *Server) JetStream(ctx context.Context) (JetStream, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/jsz", nil)
	if err != nil {
		return JetStream{}, fmt.Errorf("monitoring of NATS: %w", err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return JetStream{}, fmt.Errorf("monitoring of NATS: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		ServerID string    `json:"server_id"`
		Now      time.Time `json:"now"`
		Disabled bool      `json:"disabled"`
		Config   struct {
			SyncAlways bool `json:"sync_always"`
		} `json:"config"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer)
	if resp.StatusCode != http.StatusOK || err != nil || answer.ServerID == "" {
		return JetStream{}, fmt.Errorf("monitoring of NATS: HTTP %d: %w", resp.StatusCode, errOther)
	}
	return JetStream{answer.ServerID, !answer.Disabled, answer.Config.SyncAlways, answer.Now}, nil
}
