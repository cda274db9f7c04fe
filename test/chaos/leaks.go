package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"preauth/test/chaos/system"
	"preauth/test/chaos/workload"
)

// codeMarks begin every code, as it is and as it appears in a link.
var codeMarks = [][]byte{[]byte("preauthcode@@@"), []byte("preauthcode%40%40%40")}

// searcher looks for tokens and codes where they must not be.
type searcher struct {
	mu    sync.Mutex
	leaks []string
}

// scraping reads the metrics of the replicas until ctx ends.
func (s *searcher) scraping(ctx context.Context, sys *system.System) {
	for system.Wait(ctx, 2*time.Second) {
		for _, r := range sys.Replicas {
			asked, cancel := context.WithTimeout(ctx, time.Second)
			if text, err := r.Metrics(asked); err == nil {
				s.search("metrics of "+r.Name, bytes.NewReader(text), true)
			}
			cancel()
		}
	}
}

// search records a leak if a text holds the beginning of a token, or of a code if codes are
// forbidden too.
func (s *searcher) search(name string, text io.Reader, codes bool) {
	marks := [][]byte{[]byte(workload.TokenMark)}
	if codes {
		marks = append(marks, codeMarks...)
	}
	const longest = 64 // more than any mark: what is kept of one piece for the next
	reader := bufio.NewReaderSize(text, 1<<20)
	buffer := make([]byte, 0, 1<<20+longest)
	for {
		n, err := io.ReadFull(reader, buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		for _, mark := range marks {
			if bytes.Contains(buffer, mark) {
				s.leak(fmt.Sprintf("%s: %s…", name, mark))
				return
			}
		}
		if err != nil {
			return
		}
		buffer = append(buffer[:0], buffer[max(0, len(buffer)-longest):]...)
	}
}

func (s *searcher) leak(where string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaks = append(s.leaks, where)
}

// files searches the logs of the replicas and the history for tokens and codes, and the database's
// files for tokens.
func (s *searcher) files(sys *system.System, dir string) error {
	names := []string{filepath.Join(dir, historyName)}
	for _, r := range sys.Replicas {
		names = append(names, r.Log())
	}
	for _, name := range names {
		if err := s.file(name, true); err != nil {
			return err
		}
	}
	return filepath.WalkDir(sys.MySQL.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // gone meanwhile: a server's temporary file
		}
		_ = s.file(path, false)
		return nil
	})
}

func (s *searcher) file(name string, codes bool) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	s.search(filepath.Base(name), file, codes)
	return nil
}

// tables searches the tables, without the column that holds the codes.
func (s *searcher) tables(ctx context.Context, db *sql.DB) error {
	for _, statement := range []string{
		"SELECT CONCAT_WS(' ', appid, token_stream, HEX(token_fingerprint), failure) FROM component",
		"SELECT CONCAT_WS(' ', appid, cause, claim_id, reference, authorizer_appid) FROM pre_auth_code",
		"SELECT CONCAT_WS(' ', message_id, appid, failure, authorized) FROM outbox",
	} {
		err := query(ctx, db, statement, func(rows *sql.Rows) error {
			var text []byte
			err := rows.Scan(&text)
			s.search("table: "+statement[strings.LastIndex(statement, " ")+1:], bytes.NewReader(text), true)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// found returns the leaks.
func (s *searcher) found() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaks
}
