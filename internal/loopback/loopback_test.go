package loopback_test

import (
	"net"
	"strings"
	"testing"

	"preauth/internal/loopback"
)

func TestAddressGivesEachCallerAFreePort(t *testing.T) {
	for _, listen := range []string{"", "127.0.0.1:0", "localhost:0"} {
		for range 20 {
			address, free, err := loopback.Address(listen)
			if err != nil {
				t.Fatal(err)
			}
			if !free || !strings.HasPrefix(address, "127.0.0.1:") {
				t.Errorf("Address(%q) = %q, free %t, want a free port of 127.0.0.1", listen, address, free)
			}
			// Held until the end, so that a port given out twice fails here.
			listener, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() })
		}
	}
}

func TestAddressTakesAPortThatIsGiven(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:4000": "127.0.0.1:4000",
		"127.0.0.2:4000": "127.0.0.2:4000",
		"localhost:4000": "127.0.0.1:4000",
		"[::1]:4000":     "[::1]:4000",
	} {
		address, free, err := loopback.Address(listen)
		if err != nil || free || address != want {
			t.Errorf("Address(%q) = %q, free %t, %v; want %q", listen, address, free, err, want)
		}
	}
}

func TestAddressRefuses(t *testing.T) {
	for name, listen := range map[string]string{
		"no port":          "127.0.0.1",
		"empty port":       "127.0.0.1:",
		"no number":        "127.0.0.1:mysql",
		"negative port":    "127.0.0.1:-1",
		"port too large":   "127.0.0.1:65536",
		"every address":    "0.0.0.0:0",
		"no host":          ":4000",
		"another machine":  "192.0.2.1:4000",
		"a name":           "example.org:4000",
		"a name as prefix": "localhost.example.org:4000",
	} {
		t.Run(name, func(t *testing.T) {
			if address, _, err := loopback.Address(listen); err == nil {
				t.Errorf("Address(%q) = %q, want an error", listen, address)
			}
		})
	}
}
