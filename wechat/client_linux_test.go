package wechat_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"preauth/wechat"
	"preauth/wechat/wechattest"
)

// unanswered returns an address that answers no connection attempt: its queue of connections that
// wait to be accepted is full, so that Linux drops the next ones.
func unanswered(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for range 10 {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return address
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Skip("this kernel queues connections beyond the backlog")
	return ""
}

func TestHostThatAnswersNoConnectionLeavesTimeForTheNext(t *testing.T) {
	t.Parallel()
	server := start(t, wechattest.Options{})
	client := newClient(t, wechat.Config{BaseURLs: []string{"http://" + unanswered(t), server.URL()}, Timeout: 20 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := call(client, ctx); err != nil {
		t.Errorf("no code within the time-out of one host: %v", err)
	}
}
