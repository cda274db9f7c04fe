package wechat

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// startSpan begins the span of a request to one host, below the span in ctx. If that one is not
// recorded, neither is this one. u has no query yet: the query has the token. Nor does WeChat get the
// trace context, which is none of its business.
func startSpan(ctx context.Context, u *url.URL) (end func(status int, err error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return func(int, error) {}
	}
	port := map[string]int{"http": 80, "https": 443}[u.Scheme]
	if u.Port() != "" {
		port, _ = strconv.Atoi(u.Port())
	}
	_, span := parent.TracerProvider().Tracer("preauth/wechat").Start(ctx, http.MethodPost+" "+u.Path,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			semconv.HTTPRequestMethodPost, semconv.URLFull(u.String()), semconv.ServerAddress(u.Hostname()), semconv.ServerPort(port),
		))
	return func(status int, err error) {
		defer span.End()
		if status != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		}
		// Without the error's text, which has not been searched for the token yet.
		var failed string
		switch {
		case err == nil && status < http.StatusBadRequest:
			return
		case err == nil:
			failed = strconv.Itoa(status)
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
			failed = "timeout"
		default:
			failed = semconv.ErrorType(err).Value.AsString()
		}
		span.SetAttributes(semconv.ErrorTypeKey.String(failed))
		span.SetStatus(codes.Error, "")
	}
}
