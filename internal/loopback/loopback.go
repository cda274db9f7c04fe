// Package loopback chooses addresses for servers that `preauth dev` and tests start. They ask for no
// password, and some have to keep their port while they are down.
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

// The range of free ports lies below the ports which the kernel gives to outgoing connections (from
// 32768 on Linux, 49152 elsewhere): one of those could take the port while its server is down.
const lowest, highest = 15000, 32000

// next counts through the range from a random start, so that this process gets no port twice.
var next = func() *atomic.Uint32 {
	var counter atomic.Uint32
	counter.Store(rand.Uint32N(highest - lowest))
	return &counter
}()

// Address returns the address to listen on, an IP address with a port. If listen is empty, it is
// 127.0.0.1 with a free port; if listen is host:0, it is that host with a free port. A host that is
// not this machine alone is an error.
//
// free reports whether the port was chosen here. Another process may take such a port before the
// caller does, so a caller whose server then fails with "address in use" asks again.
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
		return "", false, fmt.Errorf("listen address %q: the server asks for no password, so it listens on 127.0.0.1 or ::1 only", listen)
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
	return "", fmt.Errorf("find a free port: too many between %d and %d are taken", lowest, highest)
}

func join(ip net.IP, port int) string { return net.JoinHostPort(ip.String(), strconv.Itoa(port)) }
