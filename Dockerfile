# The service alone: a static binary that runs as nobody on an empty file system. "make dist" makes the
# same image without an engine, and reads from the last stage how it runs.

FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build

# Use another module proxy if the default one cannot be reached: --build-arg GOPROXY=...
ARG GOPROXY

WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What "preauth version" reports: --build-arg VERSION=1.2.3, --build-arg COMMIT="$(git rev-parse HEAD)", and
# the commit's date as RFC 3339 has it.
ARG VERSION COMMIT DATE
ARG TARGETOS TARGETARCH
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH CGO_ENABLED=0 \
    go build -trimpath -o /out/preauth -ldflags "-s -w -X preauth/internal/app.release=$VERSION \
    -X preauth/internal/app.commit=$COMMIT -X preauth/internal/app.date=$DATE" ./cmd/preauth

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/preauth /preauth
USER 65532:65532
ENTRYPOINT ["/preauth"]
CMD ["serve"]
# Requests /readyz at the address in PREAUTH_ADMIN_LISTEN.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/preauth", "check"]
