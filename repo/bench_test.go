package repo_test

import (
	"fmt"
	"sync/atomic"
	"testing"

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
