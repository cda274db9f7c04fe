package app

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"preauth/internal/outage"
)

// collector takes spans, by OTLP over HTTP. OpenTelemetry's own client for it links gRPC.
type collector struct {
	url    string
	header http.Header // shared by all requests; nobody changes it
	gzip   bool
	client *http.Client
	outage *outage.Log
}

// exporterVariable returns OpenTelemetry's variable for what exports traces or, where that is not
// set, the one for all signals.
func exporterVariable(name string) string {
	return strings.TrimSpace(cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_"+name), os.Getenv("OTEL_EXPORTER_OTLP_"+name)))
}

// newCollector returns the collector that OpenTelemetry's variables name. [checkTraceVariables] must
// have found nothing.
func newCollector(log *slog.Logger) (*collector, error) {
	c := &collector{
		url:    os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
		header: http.Header{"Content-Type": {"application/x-protobuf"}, "User-Agent": {"preauth/" + Version()}},
		gzip:   exporterVariable("COMPRESSION") == "gzip",
		outage: outage.New(log, "trace collector", time.Now),
	}
	if c.url == "" {
		c.url = strings.TrimRight(cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "http://localhost:4318"), "/") + "/v1/traces"
	}
	if headers := exporterVariable("HEADERS"); headers != "" {
		for header := range strings.SplitSeq(headers, ",") {
			name, value, _ := strings.Cut(header, "=")
			value, _ = url.PathUnescape(value)
			c.header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	if c.gzip {
		c.header.Set("Content-Encoding", "gzip")
	}
	encryption, err := collectorEncryption()
	if err != nil {
		return nil, err
	}
	milliseconds, _ := strconv.Atoi(cmp.Or(exporterVariable("TIMEOUT"), "10000"))
	c.client = &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: encryption, ForceAttemptHTTP2: true},
		Timeout:   time.Duration(milliseconds) * time.Millisecond,
		// The headers may have a password, which is the collector's alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// collectorEncryption returns how to talk TLS to the collector.
func collectorEncryption() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := exporterVariable("CERTIFICATE"); file != "" {
		authorities, err := contentOf(file)
		if config.RootCAs = x509.NewCertPool(); err != nil || !config.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, UsageErrorf("$OTEL_EXPORTER_OTLP_CERTIFICATE names a file that contains no PEM certificate")
		}
	}
	certificate, key := exporterVariable("CLIENT_CERTIFICATE"), exporterVariable("CLIENT_KEY")
	if certificate != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, UsageErrorf("$OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and $OTEL_EXPORTER_OTLP_CLIENT_KEY must name PEM files with a certificate and its key")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Start does nothing: the first spans connect.
func (*collector) Start(context.Context) error { return nil }

// Stop closes idle connections.
func (c *collector) Stop(context.Context) error {
	c.client.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans, again if the collector asks for that. Spans that it does not take are
// lost. That is logged as an outage, and is no error: OpenTelemetry would log one for each batch.
func (c *collector) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans}) // which has the fields of OTLP's request
	if err != nil {
		return err
	}
	if c.gzip {
		var compressed bytes.Buffer
		w := gzip.NewWriter(&compressed)
		_, _ = w.Write(body)
		_ = w.Close()
		body = compressed.Bytes()
	}
	_, err = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, c.post(ctx, body) })
	if err != nil {
		c.outage.Away(err)
	} else {
		c.outage.Back()
	}
	return nil
}

// post sends one request. The error is a [backoff.PermanentError] unless the collector wants the
// request again.
func (c *collector) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	req.Header = c.header
	res, err := c.client.Do(req)
	if err != nil {
		return backoff.Permanent(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection is used again
	switch err := fmt.Errorf("it answers %s", res.Status); res.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if seconds, e := strconv.Atoi(res.Header.Get("Retry-After")); e == nil {
			return errors.Join(err, backoff.RetryAfter(seconds))
		}
		return err
	default:
		return backoff.Permanent(err)
	}
}
