package repo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"preauth"
	"preauth/repo"
	"preauth/repo/repotest"
)

var (
	deadlock = repotest.Answered(1213, "Deadlock found when trying to get lock; try restarting transaction")
	timeout  = repotest.Answered(1205, "Lock wait timeout exceeded; try restarting transaction")
	refusal  = repotest.Answered(1054, "Unknown column 'x' in 'SELECT'")
)

// work is a use of the repo to interrupt.
type work struct {
	// given fills the tables.
	given func(t *testing.T, d *database)
	// do returns a description of what the repo returned.
	do func(ctx context.Context, d *database) (string, error)
}

func works() map[string]work {
	return map[string]work{
		"Save": {
			given: func(t *testing.T, d *database) {
				d.save(t, succeeded("wx1", at(1), "a"), succeeded("wx2", at(2), "b"), succeeded("wx3", at(3), "c"))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				results, err := d.Save(ctx, []repo.Outcome{
					succeeded("wx1", at(11), "d"), failed("wx2", at(12), 2), repeated("wx3", at(13), at(3)), succeeded("wx4", at(14), "e"),
					succeeded("wx1", at(1), "late"), bad("", at(15)), succeeded("wx5", at(16), "b"),
					failed("wx6", at(17), 3, func(o *repo.Outcome) { o.FailureID = "" }),
				})
				return describeResults(results), err
			},
		},
		"Save several of one component": {
			given: func(t *testing.T, d *database) { d.save(t, succeeded("wx1", at(1), "a")) },
			do: func(ctx context.Context, d *database) (string, error) {
				results, err := d.Save(ctx, []repo.Outcome{
					succeeded("wx1", at(2), "b"), renewed("wx1", at(2), "c"), failed("wx1", at(3), 1), succeeded("wx1", at(4), "d"),
				})
				// A repeated call may find the outcomes before the last superseded.
				if err != nil || len(results) != 4 {
					return "", err
				}
				return describeResults(results[3:]), nil
			},
		},
		"LeaseDue": {
			given: func(t *testing.T, d *database) {
				d.save(t, succeeded("wx1", at(1), "a"), succeeded("wx2", at(2), "b"), failed("wx3", at(3), 1))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				now := start.Add(26 * time.Minute)
				taken, err := d.LeaseDue(ctx, now, now.Add(time.Minute), 10)
				text := ""
				for _, c := range taken {
					text += fmt.Sprintln(c.AppID, c.DueAt, c.Current.PreAuthCode.Reveal())
				}
				return text, err
			},
		},
		"Extend": {
			given: func(t *testing.T, d *database) {
				d.save(t, succeeded("wx1", at(1), "a", func(o *repo.Outcome) { o.DueAt = start }))
				d.leaseDue(t, start, 1)
			},
			do: func(ctx context.Context, d *database) (string, error) {
				extended, err := d.Extend(ctx, "wx1", start.Add(time.Minute), start.Add(2*time.Minute))
				return fmt.Sprint(extended), err
			},
		},
		"Lease": {
			given: func(t *testing.T, d *database) { d.save(t, succeeded("wx1", at(1), "a")) },
			do: func(ctx context.Context, d *database) (string, error) {
				c, taken, err := d.Lease(ctx, "wx1", 1, start.Add(time.Minute), start.Add(2*time.Minute))
				if err != nil || !taken {
					return "", err
				}
				return fmt.Sprintln(c.AppID, c.DueAt, c.Current.PreAuthCode.Reveal()), nil
			},
		},
		"Claim": {
			given: func(t *testing.T, d *database) { d.stock(t, start, "s") },
			do: func(ctx context.Context, d *database) (string, error) {
				c, err := d.Claim(ctx, request("visitor", start.Add(time.Minute)))
				return describeClaim(c), err
			},
		},
		"Claim after the old code expired": {
			given: func(t *testing.T, d *database) {
				d.stock(t, start, "s")
				d.claim(t, request("visitor", start))
				d.stock(t, start.Add(time.Hour), "t")
			},
			do: func(ctx context.Context, d *database) (string, error) {
				c, err := d.Claim(ctx, request("visitor", start.Add(time.Hour)))
				return describeClaim(c), err
			},
		},
		"InsertClaim": {
			given: func(t *testing.T, d *database) { d.stock(t, start, "s") },
			do: func(ctx context.Context, d *database) (string, error) {
				c, err := d.InsertClaim(ctx, request("visitor", start), fresh("n", start))
				return describeClaim(c), err
			},
		},
		"InsertClaim after the old code expired": {
			given: func(t *testing.T, d *database) {
				d.stock(t, start, "s")
				d.claim(t, request("visitor", start))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				c, err := d.InsertClaim(ctx, request("visitor", start.Add(time.Hour)), fresh("n", start.Add(time.Hour)))
				return describeClaim(c), err
			},
		},
		"InsertClaim of a claim id that has a code": {
			given: func(t *testing.T, d *database) {
				d.stock(t, start, "s")
				d.claim(t, request("visitor", start))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				c, err := d.InsertClaim(ctx, request("visitor", start), fresh("n", start))
				return describeClaim(c), err
			},
		},
		"AddSpares, Spares and Resolve": {
			given: func(t *testing.T, d *database) {
				d.stock(t, start, "s")
				d.claim(t, request("visitor", start))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				err1 := d.AddSpares(ctx, sparesOf(numbered("t", 120)...))
				spares, err2 := d.CountSpares(ctx, []string{"wx1", "wx2"}, start)
				c, err3 := d.Resolve(ctx, preauth.NewSecret("s"))
				return fmt.Sprintln(spares, describeClaim(claimOf(c, preauth.NewSecret("s")))), errors.Join(err1, err2, err3)
			},
		},
		"Spend of the current code": {
			given: func(t *testing.T, d *database) { d.save(t, succeeded("wx1", at(1), "a")) },
			do: func(ctx context.Context, d *database) (string, error) {
				spent, err := d.Spend(ctx, authorization("wx1", "a", start.Add(time.Minute)))
				return fmt.Sprintln(spent.WasCurrent, spent.Revision, describeAll(spent.Announcements)), err
			},
		},
		"Spend of the current code again": {
			given: func(t *testing.T, d *database) {
				d.save(t, succeeded("wx1", at(1), "a"))
				d.spend(t, authorization("wx1", "a", start.Add(time.Minute)))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				spent, err := d.Spend(ctx, authorization("wx1", "a", start.Add(time.Minute)))
				return fmt.Sprintln(spent.WasCurrent, spent.Revision, describeAll(spent.Announcements)), err
			},
		},
		"Spend of a spare": {
			given: func(t *testing.T, d *database) { d.stock(t, start, "s") },
			do: func(ctx context.Context, d *database) (string, error) {
				spent, err := d.Spend(ctx, authorization("wx1", "s", start.Add(time.Minute)))
				return describeAll(spent.Announcements), err
			},
		},
		"Claim after the old code was spent": {
			given: func(t *testing.T, d *database) {
				d.stock(t, start, "s")
				d.claim(t, request("visitor", start))
				d.spend(t, authorization("wx1", "s", start.Add(time.Minute)))
				d.stock(t, start, "t")
			},
			do: func(ctx context.Context, d *database) (string, error) {
				c, err := d.Claim(ctx, request("visitor", start.Add(time.Minute)))
				return describeClaim(c), err
			},
		},
		"Purge": {
			given: func(t *testing.T, d *database) {
				d.save(t, succeeded("wx1", at(1), "a"), succeeded("wx1", at(2), "b"), succeeded("wx2", at(2), "c"))
				d.stock(t, start, "s", "t")
				d.claim(t, request("visitor", start))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				_, err := d.Purge(ctx, start.Add(time.Hour), 10)
				return "", err
			},
		},
		"DeleteAnnounced": {
			given: func(t *testing.T, d *database) {
				d.save(t, succeeded("wx1", at(1), "a"), succeeded("wx2", at(2), "b"), failed("wx3", at(3), 1))
			},
			do: func(ctx context.Context, d *database) (string, error) {
				return "", d.DeleteAnnounced(ctx, []string{"wx2.1", "wx1.1", "wx1.0"})
			},
		},
		"Outbox, Current and Components": {
			given: func(t *testing.T, d *database) { d.save(t, succeeded("wx1", at(1), "a"), failed("wx3", at(3), 1)) },
			do: func(ctx context.Context, d *database) (string, error) {
				waiting, err1 := d.Outbox(ctx, start.Add(time.Hour), 10)
				rows, oldest, err2 := d.OutboxDepth(ctx)
				current, err3 := d.ListCurrent(ctx, "", 10)
				known, err4 := d.Components(ctx, []string{"wx1", "wx2", "wx3"})
				var codes []any
				for _, code := range current {
					codes = append(codes, code)
				}
				return fmt.Sprint(len(waiting), rows, oldest, codes, len(known)), errors.Join(err1, err2, err3, err4)
			},
		},
		"Status, Statuses and Census": {
			given: func(t *testing.T, d *database) { d.save(t, succeeded("wx1", at(1), "a")) },
			do: func(ctx context.Context, d *database) (string, error) {
				now := start.Add(time.Minute)
				status, _, err1 := d.Status(ctx, "wx1", now)
				statuses, err2 := d.Statuses(ctx, preauth.StatusRequest{}, now, 10)
				census, err3 := d.Census(ctx, now)
				return fmt.Sprint(status, statuses, census), errors.Join(err1, err2, err3)
			},
		},
		"Own": {
			given: func(t *testing.T, d *database) { d.exec(t, "DELETE FROM stream_set") },
			do: func(ctx context.Context, d *database) (string, error) {
				return "", d.Own(ctx, streamsOf("A_", "ONE"), start)
			},
		},
		"Own when the account gets known": {
			given: func(t *testing.T, d *database) {
				if _, err := d.Adopt(within(t), streamsOf("A_", ""), start); err != nil {
					t.Fatal(err)
				}
			},
			do: func(ctx context.Context, d *database) (string, error) {
				return "", d.Own(ctx, streamsOf("A_", "ONE"), start)
			},
		},
		"CheckOwner": {
			given: func(t *testing.T, d *database) { d.exec(t, "DELETE FROM stream_set") },
			do: func(ctx context.Context, d *database) (string, error) {
				return "", d.CheckOwner(ctx, streamsOf("A_", ""))
			},
		},
		"Adopt": {
			given: func(t *testing.T, d *database) { d.exec(t, "DELETE FROM stream_set") },
			do: func(ctx context.Context, d *database) (string, error) {
				_, err := d.Adopt(ctx, streamsOf("B_", ""), start)
				return "", err
			},
		},
		"ApplySchema": {
			given: func(t *testing.T, d *database) {},
			do:    func(ctx context.Context, d *database) (string, error) { return "", d.ApplySchema(ctx) },
		},
		"Check": {
			given: func(t *testing.T, d *database) {},
			do:    func(ctx context.Context, d *database) (string, error) { return "", d.Check(ctx) },
		},
	}
}

func describeClaim(c repo.Claim) string {
	return fmt.Sprintln(c.AppID, c.ClaimID, c.Reference, c.PreAuthCode.Reveal(), c.IssuedAt, c.ExpiresAt, c.ClaimedAt)
}

func describeResults(results []repo.Result) string {
	var text strings.Builder
	for _, r := range results {
		fmt.Fprintln(&text, r.Status, r.Revision, r.Err)
		if r.Announcement != nil {
			fmt.Fprintln(&text, describe(*r.Announcement))
		}
	}
	return text.String()
}

// Whichever operation fails, applied or not, the end is the same as after one call without a fault.
func TestFaultsLeaveNoTrace(t *testing.T) {
	for name, w := range works() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w.given(t, d)
			d.faults.Operations()
			wanted, err := w.do(within(t), d)
			if err != nil {
				t.Fatal(err)
			}
			wantedDump := d.dump(t)
			var operations []string
			for _, operation := range d.faults.Operations() {
				if operation != "connect" && !slices.Contains(operations, operation) {
					operations = append(operations, operation)
				}
			}

			again := func(t *testing.T, prepare func(), wantErr error) {
				t.Helper()
				d.clear(t)
				w.given(t, d)
				prepare()
				got, err := w.do(within(t), d)
				if unmet := d.faults.Unmet(); unmet > 0 && wantErr == nil {
					t.Errorf("%d faults were not met", unmet)
				}
				if !errors.Is(err, wantErr) {
					t.Fatalf("err = %v, want %v", err, wantErr)
				}
				if wantErr != nil {
					d.faults.Reset()
					// The caller repeats the same call.
					if got, err = w.do(within(t), d); err != nil {
						t.Fatal(err)
					}
				}
				if strings.HasPrefix(name, "Lease") && wantErr != nil && got == "" {
					got = wanted // leased by the call whose answer was lost
				}
				if got != wanted {
					t.Errorf("returned:\n%s\nwanted:\n%s", got, wanted)
				}
				if dump := d.dump(t); dump != wantedDump {
					t.Errorf("left:\n%s\nwanted:\n%s", dump, wantedDump)
				}
			}
			for _, operation := range operations {
				for how, fault := range map[string]repotest.Fault{
					"not applied": repotest.NotApplied, "applied": repotest.Applied, "deadlock": deadlock, "time-out": timeout,
				} {
					if operation == "rollback" && how != "not applied" && how != "applied" {
						continue // a server may go away instead of a ROLLBACK, but refuses none
					}
					t.Run(operation+" "+how, func(t *testing.T) {
						again(t, func() { d.faults.Script(operation, fault) }, nil)
					})
				}
				if operation == "rollback" {
					continue // its failure fails no call
				}
				t.Run(operation+" refused", func(t *testing.T) {
					d.clear(t)
					w.given(t, d)
					d.faults.Script(operation, refusal)
					_, err := w.do(within(t), d)
					if server, ok := errors.AsType[*mysql.MySQLError](err); !ok || server.Number != 1054 {
						t.Errorf("err = %v, want the server's", err)
					}
				})
				t.Run(operation+" applied again and again", func(t *testing.T) {
					again(t, func() { d.faults.Script(operation, slices.Repeat([]repotest.Fault{repotest.Applied}, 6)...) }, repo.ErrUnavailable)
				})
			}
			t.Run("connect", func(t *testing.T) {
				again(t, func() {
					d.faults.Script(operations[0], repotest.NotApplied)
					d.faults.Script("connect", repotest.NotApplied, repotest.Applied)
				}, nil)
			})
		})
	}
}

// The row of a new component is locked twice: it is not there the first time.
func TestAFaultAtTheSecondLockOfANewComponent(t *testing.T) {
	for how, fault := range map[string]repotest.Fault{"not applied": repotest.NotApplied, "applied": repotest.Applied, "deadlock": deadlock} {
		t.Run(how, func(t *testing.T) {
			d := newDatabase(t)
			d.faults.Script("lock", repotest.Fault{}, fault)
			if result := d.save(t, succeeded("wx1", at(1), "a"))[0]; result.Status != repo.Saved || result.Revision != 1 || d.faults.Unmet() > 0 {
				t.Errorf("got %+v, and %d faults were not met", result, d.faults.Unmet())
			}
		})
	}
}
