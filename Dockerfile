# The service alone: a static binary that runs as nobody on an empty file system.

FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build

# Use another module proxy if the default one cannot be reached: --build-arg GOPROXY=...
ARG GOPROXY

WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The version that the service reports, a semantic version: --build-arg VERSION=1.2.3
ARG VERSION
ARG TARGETOS TARGETARCH
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH CGO_ENABLED=0 \
    go build -trimpath -ldflags "-s -w -X preauth/internal/app.release=$VERSION" -o /out/preauth ./cmd/preauth

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/preauth /preauth
USER 65532:65532
ENTRYPOINT ["/preauth"]
CMD ["serve"]
# Requests /readyz at the address in PREAUTH_ADMIN_LISTEN.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/preauth", "check"]
