package database_test

import (
	"testing"
	"time"
)

func TestConnectionSaysWhatTheServerIs(t *testing.T) {
	db, _ := ownServer(t, "--max-allowed-packet=1M", "--max-connections=20")
	before := time.Now().Truncate(time.Microsecond)
	got, err := db.Connection(t.Context())
	if err != nil || got.Version == "" || got.Cipher != "" || got.MaxPacket != 1<<20 || got.MaxConnections != 20 {
		t.Errorf("%+v, %v", got, err)
	}
	if got.Now.Before(before.Add(-time.Second)) || got.Now.After(time.Now().Add(time.Second)) {
		t.Errorf("the server's time is %v", got.Now)
	}
}
