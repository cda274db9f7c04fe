# The service alone: a static binary that runs as nobody on an empty file system.

FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build

# A module proxy, where the default one cannot be reached: --build-arg GOPROXY=...
ARG GOPROXY

WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What the service calls itself, a semantic version: --build-arg VERSION=1.2.3
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
# Asks /readyz where PREAUTH_ADMIN_LISTEN says that it is.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/preauth", "check"]
