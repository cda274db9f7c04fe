// Package freeport finds loopback ports for servers that are started for development and tests and
// have to keep their port over a restart.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

// The range lies below the ports which the kernel gives to outgoing connections (from 32768 on
// Linux, 49152 elsewhere): one of those could take the port while its server is down.
const lowest, highest = 15000, 32000

// Loopback returns an address 127.0.0.1:PORT that nobody listens on at the moment. Another process
// may take it before the caller does, so a caller whose server then fails with "address in use"
// asks again.
func Loopback() (string, error) {
	for range 1000 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(highest-lowest)))
		listener, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find a free port: %w", err)
		}
		return address, listener.Close()
	}
	return "", fmt.Errorf("find a free port: every port tried between %d and %d is taken", lowest, highest)
}
