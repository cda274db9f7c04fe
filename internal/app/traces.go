package app

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"preauth/internal/outage"
)

// flushTime is how long the service waits at most until the collector has taken the last spans.
const flushTime = 5 * time.Second

// wantsTraces reports whether OpenTelemetry's variables name a collector.
func wantsTraces() bool {
	// The standard has otlp as the default, with a collector on this machine. Most have none.
	chosen := os.Getenv("OTEL_TRACES_EXPORTER")
	endpoint := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || chosen == "none" || chosen == "" && endpoint == "" {
		return false
	}
	return true
}

// traces returns where spans go by OpenTelemetry's variables, nil if these name no collector. stop
// sends the last spans.
func traces(ctx context.Context, log *slog.Logger) (spans trace.TracerProvider, stop func(), err error) {
	none := func() {}
	if err := checkTraceVariables(); err != nil || !wantsTraces() {
		return nil, none, err
	}
	// It reads the variables of the exporter. Its first wait of 5 s would outlast flushTime.
	sender, err := otlptracehttp.New(ctx, otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
		Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 10 * time.Second, MaxElapsedTime: time.Minute,
	}))
	if err != nil {
		return nil, none, UsageErrorf("the variables OTEL_EXPORTER_OTLP_… do not go together: %w", err)
	}
	described, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName("preauth"), semconv.ServiceVersion(Version())), resource.WithFromEnv())
	if err != nil {
		return nil, none, UsageErrorf("$OTEL_RESOURCE_ATTRIBUTES must be a list such as deployment.environment.name=test,team=a: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(described), sdktrace.WithBatcher(exporter{sender, outage.New(log, "trace collector", time.Now)}))
	return provider, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("last spans not sent", "error", err)
		}
	}, nil
}

// exporter logs as an outage that the collector takes no spans, which are then lost. OpenTelemetry
// would log each batch.
type exporter struct {
	sdktrace.SpanExporter

	outage *outage.Log
}

// ExportSpans sends spans.
func (e exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		e.outage.Away(err)
	} else {
		e.outage.Back()
	}
	return nil
}

// traceVariables are the variables of which OpenTelemetry would ignore an impossible value, and what
// each must be. %s stands for nothing and for TRACES_.
var traceVariables = []struct {
	name, must string
	possible   func(value string) bool
}{
	{"OTEL_TRACES_EXPORTER", "otlp or none", oneOf("otlp", "none")},
	{"OTEL_EXPORTER_OTLP_%sPROTOCOL", "http/protobuf: there is no gRPC here", oneOf("http/protobuf")},
	{"OTEL_EXPORTER_OTLP_%sENDPOINT", "a URL such as http://collector:4318", func(value string) bool {
		u, err := url.Parse(value)
		return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
	}},
	{"OTEL_EXPORTER_OTLP_%sHEADERS", "a list such as name=value,name=value, with special characters as %XX", func(value string) bool {
		return !slices.ContainsFunc(strings.Split(value, ","), func(header string) bool {
			name, value, ok := strings.Cut(header, "=")
			_, err := url.PathUnescape(value)
			return !ok || strings.TrimSpace(name) == "" || err != nil
		})
	}},
	{"OTEL_EXPORTER_OTLP_%sTIMEOUT", "a number of milliseconds", isNumber},
	{"OTEL_EXPORTER_OTLP_%sCOMPRESSION", "gzip or none", oneOf("gzip", "none")},
	{"OTEL_EXPORTER_OTLP_%sCERTIFICATE", "a PEM file with certificates", func(name string) bool {
		content, err := contentOf(name)
		return err == nil && x509.NewCertPool().AppendCertsFromPEM(content)
	}},
	{"OTEL_EXPORTER_OTLP_%sCLIENT_CERTIFICATE", "a PEM file that can be read", isFile},
	{"OTEL_EXPORTER_OTLP_%sCLIENT_KEY", "a PEM file that can be read", isFile},
	{"OTEL_TRACES_SAMPLER", "always_on, always_off, traceidratio, or one of these after parentbased_", oneOf(
		"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
	)},
	{"OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", func(value string) bool {
		ratio, err := strconv.ParseFloat(value, 64)
		return err == nil && ratio >= 0 && ratio <= 1
	}},
	{"OTEL_BSP_MAX_QUEUE_SIZE", "a number of spans, up to 1000000", isSize},
	{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "a number of spans, up to 1000000", isSize},
	{"OTEL_BSP_SCHEDULE_DELAY", "a number of milliseconds", isNumber},
	{"OTEL_BSP_EXPORT_TIMEOUT", "a number of milliseconds", isNumber},
}

func oneOf(values ...string) func(string) bool {
	return func(value string) bool { return slices.Contains(values, value) }
}

func isNumber(value string) bool {
	number, err := strconv.Atoi(value)
	return err == nil && number >= 0
}

// isSize reports whether value is a possible size of a queue, for which memory is taken at once.
func isSize(value string) bool {
	number, err := strconv.Atoi(value)
	return err == nil && number > 0 && number <= 1_000_000
}

func isFile(name string) bool {
	_, err := contentOf(name)
	return err == nil
}

// checkTraceVariables returns an error for each variable with a value that is not possible, if traces
// are wanted. It repeats no value: headers have passwords.
func checkTraceVariables() error {
	if !wantsTraces() {
		return nil
	}
	var errs []error
	for _, variable := range traceVariables {
		names := []string{variable.name}
		if general := strings.Replace(variable.name, "%s", "", 1); general != variable.name {
			names = []string{general, strings.Replace(variable.name, "%s", "TRACES_", 1)}
		}
		for _, name := range names {
			if value := strings.TrimSpace(os.Getenv(name)); value != "" && !variable.possible(value) {
				errs = append(errs, UsageErrorf("$%s must be %s", name, variable.must))
			}
		}
	}
	return errors.Join(errs...)
}
