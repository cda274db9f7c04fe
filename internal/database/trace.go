package database

import (
	"context"
	"errors"
	"strconv"

	"github.com/go-sql-driver/mysql"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// startSpan begins the span of an operation below the span in ctx. If that one is not recorded,
// neither is this one. It has the operation's name and no value of a statement.
func startSpan(ctx context.Context, operation string) (context.Context, func(error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, func(error) {}
	}
	ctx, span := parent.TracerProvider().Tracer("preauth/internal/database").Start(ctx, operation,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(semconv.DBSystemNameMySQL, semconv.DBOperationName(operation)))
	return ctx, func(err error) {
		defer span.End()
		if err == nil || errors.Is(err, ErrDuplicate) { // which the caller asked about
			return
		}
		failed := semconv.ErrorType(err)
		if server, ok := errors.AsType[*mysql.MySQLError](err); ok {
			number := strconv.Itoa(int(server.Number))
			failed = semconv.ErrorTypeKey.String(number)
			span.SetAttributes(semconv.DBResponseStatusCode(number))
		}
		span.SetAttributes(failed)
		span.SetStatus(codes.Error, "")
	}
}
