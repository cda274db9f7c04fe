package repo_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"preauth/repo"
)

// BenchmarkSave replaces the codes of as many components as there are outcomes in one call.
func BenchmarkSave(b *testing.B) {
	for _, outcomes := range []int{1, 64} {
		b.Run(fmt.Sprint(outcomes), func(b *testing.B) {
			d := newDatabase(b)
			sequence := uint64(0)
			for b.Loop() {
				sequence++
				save(b, d.Repo, batch(0, outcomes, sequence)...)
			}
			b.ReportMetric(float64(outcomes*b.N)/b.Elapsed().Seconds(), "codes/s")
		})
		b.Run(fmt.Sprint(outcomes, " from several at once"), func(b *testing.B) {
			d := newDatabase(b)
			var worker atomic.Int64
			b.SetParallelism(4)
			b.RunParallel(func(p *testing.PB) {
				me, sequence := worker.Add(1), uint64(0)
				for p.Next() {
					sequence++
					save(b, d.Repo, batch(me, outcomes, sequence)...)
				}
			})
			b.ReportMetric(float64(outcomes*b.N)/b.Elapsed().Seconds(), "codes/s")
		})
	}
}

func batch(worker int64, size int, sequence uint64) []repo.Outcome {
	outcomes := make([]repo.Outcome, size)
	for i := range outcomes {
		outcomes[i] = succeeded(fmt.Sprintf("wx%d-%d", i, worker), at(sequence), fmt.Sprintf("code %d %d %d", worker, i, sequence))
	}
	return outcomes
}

// BenchmarkComponents reads components with their current codes.
func BenchmarkComponents(b *testing.B) {
	for _, components := range []int{1, 64} {
		b.Run(fmt.Sprint(components), func(b *testing.B) {
			d := newDatabase(b)
			outcomes := batch(0, components, 1)
			save(b, d.Repo, outcomes...)
			appids := make([]string, components)
			for i, outcome := range outcomes {
				appids[i] = outcome.AppID
			}
			b.ReportAllocs()
			for b.Loop() {
				if known, err := d.Components(b.Context(), appids); err != nil || len(known) != components {
					b.Fatalf("%d components, %v", len(known), err)
				}
			}
		})
	}
}

// BenchmarkDeleteAnnounced removes as many announcements as were saved in one call.
func BenchmarkDeleteAnnounced(b *testing.B) {
	for _, announcements := range []int{1, 64} {
		b.Run(fmt.Sprint(announcements), func(b *testing.B) {
			d := newDatabase(b)
			sequence := uint64(0)
			for b.Loop() {
				b.StopTimer()
				sequence++
				save(b, d.Repo, batch(0, announcements, sequence)...)
				var ids []string
				for _, announcement := range d.outbox(b) {
					ids = append(ids, announcement.MessageID)
				}
				b.StartTimer()
				if err := d.DeleteAnnounced(b.Context(), ids); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkClaim gives spares of one component to as many claims as connections allow at once.
func BenchmarkClaim(b *testing.B) {
	for _, claimants := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(claimants, " at once"), func(b *testing.B) {
			d := newDatabase(b)
			replica := openFor(b, d.dsn, claimants)
			stock(b, replica, b.N)
			claims := func(i int64) error {
				_, err := replica.Claim(b.Context(), request(fmt.Sprint("visitor ", i), start))
				return err
			}
			together(b, claimants, claims)
		})
	}
}

// BenchmarkClaimNew saves codes that were made for a claim.
func BenchmarkClaimNew(b *testing.B) {
	for _, claimants := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(claimants, " at once"), func(b *testing.B) {
			d := newDatabase(b)
			replica := openFor(b, d.dsn, claimants)
			together(b, claimants, func(i int64) error {
				_, err := replica.InsertClaim(b.Context(), request(fmt.Sprint("visitor ", i), start), fresh(fmt.Sprint("code ", i), start))
				return err
			})
		})
	}
}

// openFor returns a replica with a connection for each of those who use it at once.
func openFor(b *testing.B, dsn string, users int) *repo.Repo {
	b.Helper()
	r, err := repo.Open(dsn, users)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	return r
}

// stock adds spares of one component.
func stock(b *testing.B, r *repo.Repo, n int) {
	b.Helper()
	spares := make([]repo.Spare, n)
	for i := range spares {
		spares[i] = spare(fmt.Sprint("spare ", i), start.Add(time.Duration(i)*time.Microsecond))
	}
	if err := r.AddSpares(b.Context(), spares); err != nil {
		b.Fatal(err)
	}
}

// together runs the benchmark's iterations in as many goroutines as are given.
func together(b *testing.B, goroutines int, iteration func(i int64) error) {
	b.Helper()
	b.ResetTimer()
	var next atomic.Int64
	var working sync.WaitGroup
	for range goroutines {
		working.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := iteration(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	working.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
}

// BenchmarkClaimAgain gives its code to a claim id once more.
func BenchmarkClaimAgain(b *testing.B) {
	d := newDatabase(b)
	stock(b, d.Repo, 100)
	for b.Loop() {
		if _, err := d.Claim(b.Context(), request("visitor", start)); err != nil {
			b.Fatal(err)
		}
	}
}
