package repo_test

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"preauth"
	"preauth/repo"
)

// After a failover the connections of the pool still lead to the old primary. What it last knew is
// no answer to a claim, a resolve, or the question what is true.
func TestReadsThatCountAreOfThePrimary(t *testing.T) {
	old, next := ownServer(t), ownServer(t)
	for _, d := range []*database{old, next} {
		if err := d.ApplySchema(within(t)); err != nil {
			t.Fatal(err)
		}
		d.save(t, succeeded("wx1", at(1), "a"))
	}
	address := func(dsn string) string { return dsn[strings.Index(dsn, "(")+1 : strings.Index(dsn, ")")] }
	old.exec(t, "SET GLOBAL read_only = 1")

	// What the new primary has, and the old one lacks.
	if _, err := next.InsertClaim(within(t), request("visitor", start), fresh("n", start)); err != nil {
		t.Fatal(err)
	}
	next.save(t, succeeded("wx1", at(2), "b"))
	for name, asked := range map[string]func(t *testing.T, r *repo.Repo){
		"resolve": func(t *testing.T, r *repo.Repo) {
			if got, err := r.Resolve(within(t), preauth.NewSecret("n")); err != nil || got.ClaimID != "visitor" {
				t.Errorf("%+v, %v", got, err)
			}
		},
		"claim": func(t *testing.T, r *repo.Repo) {
			if got, err := r.Claim(within(t), request("visitor", start)); err != nil || got.PreAuthCode.Reveal() != "n" {
				t.Errorf("%+v, %v", got, err)
			}
		},
		"new claim": func(t *testing.T, r *repo.Repo) {
			if got, err := r.InsertClaim(within(t), request("visitor", start), fresh("m", start)); err != nil || got.PreAuthCode.Reveal() != "n" {
				t.Errorf("%+v, %v", got, err)
			}
		},
		"components": func(t *testing.T, r *repo.Repo) {
			got, err := r.PrimaryComponents(within(t), []string{"wx1"})
			if err != nil || got["wx1"].Current.PreAuthCode.Reveal() != "b" {
				t.Errorf("%+v, %v", got, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			way, lead := forward(t, address(old.dsn))
			r, _ := open(t, strings.Replace(old.dsn, address(old.dsn), way, 1))
			known, err := r.Components(within(t), []string{"wx1"})
			if err != nil || known["wx1"].Current.PreAuthCode.Reveal() != "a" {
				t.Fatalf("the old primary does not answer: %+v, %v", known, err)
			}
			lead(address(next.dsn))
			asked(t, r)
		})
	}
}

// forward returns an address that leads to a server, and a function that lets it lead to another one.
// Connections stay with the server that they were made to.
func forward(t *testing.T, server string) (address string, lead func(server string)) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var target atomic.Pointer[string]
	target.Store(&server)
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", *target.Load())
			if err != nil {
				near.Close()
				continue
			}
			go func() {
				defer far.Close()
				_, _ = io.Copy(far, near)
			}()
			go func() {
				defer near.Close()
				_, _ = io.Copy(near, far)
			}()
		}
	}()
	return listener.Addr().String(), func(server string) { target.Store(&server) }
}
