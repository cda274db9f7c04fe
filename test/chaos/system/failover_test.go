package system

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"preauth/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// echo serves connections. It answers each line with its own name and the line.
func echo(t *testing.T, name string) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					_, _ = io.WriteString(conn, name+" "+lines.Text()+"\n")
				}
			}()
		}
	}()
	return listener.Addr().String()
}

type client struct {
	net.Conn
	answers *bufio.Reader
}

func dial(t *testing.T, addr string) client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return client{conn, bufio.NewReader(conn)}
}

func (c client) ask(wait time.Duration) (string, error) {
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	return c.answers.ReadString('\n')
}

// A name that leads to another server does so for new connections. Open ones stay with the first, or
// lose what they send and are sent, until they are closed.
func TestNameLeadsNewConnectionsElsewhere(t *testing.T) {
	for _, mute := range []bool{false, true} {
		n, err := newName(echo(t, "first"))
		if err != nil {
			t.Fatal(err)
		}
		defer n.close()
		old := dial(t, n.addr())
		if answer, err := old.ask(time.Minute); answer != "first hello\n" {
			t.Fatalf("answered with %q, %v", answer, err)
		}
		closeOld := n.lead(echo(t, "second"), mute)
		if answer, err := dial(t, n.addr()).ask(time.Minute); answer != "second hello\n" {
			t.Errorf("a new connection is answered with %q, %v", answer, err)
		}
		wait, want := time.Minute, "first hello\n"
		if mute {
			wait, want = 100*time.Millisecond, ""
		}
		if answer, err := old.ask(wait); answer != want {
			t.Errorf("mute %v: an old connection is answered with %q, %v", mute, answer, err)
		}
		closeOld()
		if _, err := old.ask(time.Minute); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("mute %v: the old connection is not closed: %v", mute, err)
		}
	}
}
