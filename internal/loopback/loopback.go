// Package loopback chooses addresses for the servers that preauth-dev and tests start. These
// servers require no password, so they listen on loopback addresses only, and some must keep their
// port while they are down.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
)

// The range of free ports lies below the ports that the kernel gives to outgoing connections (from
// 32768 on Linux, 49152 elsewhere). One of those could take the port of a server that is down.
const lowest, highest = 15000, 32000

// next counts through the range from a random start, so that this process never chooses a port
// twice.
var next = func() *atomic.Uint32 {
	var counter atomic.Uint32
	counter.Store(rand.Uint32N(highest - lowest))
	return &counter
}()

// Address returns the IP address and port to listen on. An empty listen means 127.0.0.1 with a free
// port, host:0 means a free port of that host. A host that other machines can reach is an error.
//
// The result free reports whether Address chose the port. Another process may take such a port
// before the caller does; if the server fails with "address in use", call Address again.
func Address(listen string) (address string, free bool, err error) {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	host, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return "", false, fmt.Errorf("listen address %q: %w; it looks like 127.0.0.1:4000", listen, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", false, fmt.Errorf("listen address %q: the port is a number from 0 (a free one) to 65535", listen)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if !ip.IsLoopback() {
		return "", false, fmt.Errorf("listen address %q: the server requires no password, so it must listen on 127.0.0.1 or ::1", listen)
	}
	if port != 0 {
		return join(ip, int(port)), false, nil
	}
	address, err = freeAddress(ip)
	return address, true, err
}

func freeAddress(ip net.IP) (string, error) {
	for range 1000 {
		address := join(ip, lowest+int(next.Add(1)%(highest-lowest)))
		listener, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find a free port: %w", err)
		}
		return address, listener.Close()
	}
	return "", fmt.Errorf("find a free port: too many ports between %d and %d are taken", lowest, highest)
}

func join(ip net.IP, port int) string { return net.JoinHostPort(ip.String(), strconv.Itoa(port)) }
