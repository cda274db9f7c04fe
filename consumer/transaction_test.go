package consumer_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"preauth"
	"preauth/consumer"
	"preauth/internal/mysqlserver"
	"preauth/wechat/wechattest"
)

// Promise 7: no transaction is open while the service waits for WeChat or NATS.
func TestNoTransactionIsOpenWhileWaiting(t *testing.T) {
	var c clock
	w := newWorld(t, wechattest.Options{Now: c.Now})
	wire := &wire{}
	r := w.start(w.onWire(wire), func(s *setup) { s.cfg.Now = c.Now }).ready()
	db := w.database
	open := "SELECT COUNT(*) FROM information_schema.innodb_trx JOIN information_schema.processlist p ON p.id = trx_mysql_thread_id WHERE p.db = DATABASE()"

	if mysql.Engine() == mysqlserver.TiDB {
		open = "SELECT COUNT(*) FROM information_schema.tidb_trx WHERE db = DATABASE() AND session_id <> CONNECTION_ID()"
	}
	transactions := func() (n int) {
		err := db.Get(&n, open)
		if failure, ok := errors.AsType[*driver.MySQLError](err); ok && failure.Number == 3854 {
			return 1 // MySQL cannot show a statement with binary arguments, so there is one
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// InnoDB caches this view: a query within 100 ms of the last one gets the same result.
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	none := func(waitingFor string) {
		t.Helper()
		w.eventually("no transaction open while the service waits for "+waitingFor, func() bool {
			<-tick.C
			return transactions() == 0
		})
	}
	tx := db.MustBegin()
	tx.MustExec("UPDATE component SET appid = appid")
	if n := transactions(); n == 0 {
		t.Fatal("the test's query does not see an open transaction")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	none("nothing")

	wechat := func(why string, begin func()) {
		t.Helper()
		hold := wechattest.NewHold()
		defer hold.Release()
		w.wechat.Next("wx1", wechattest.Fault{HoldAnswer: hold})
		begin()
		next(w, hold.Reached())
		none("WeChat, " + why)
	}
	wechat("first token", func() { w.announce("wx1", w.token("a")) })
	w.settled(r, "wx1")
	wechat("next token", func() { w.announce("wx1", w.token("b")) })
	w.settled(r, "wx1")
	wechat("renewal", func() { db.MustExec("UPDATE component SET due_at = ?", c.Now().UTC()) })
	r.await(consumer.StepCleared, "wx1", 3)
	var asking sync.WaitGroup
	defer asking.Wait()
	background := func(work func() error) func() {
		return func() {
			asking.Go(func() {
				if err := work(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	c.advance(40 * time.Second)
	wechat("demand", background(func() error {
		_, err := w.lookup(preauth.LookupRequest{AppID: "wx1", MinTTL: 1770 * time.Second})
		return err
	}))
	r.await(consumer.StepCleared, "wx1", 4)
	wechat("claim", background(func() error {
		_, err := w.claim(preauth.ClaimRequest{AppID: "wx1"})
		return err
	}))

	for _, message := range []string{"publish update", "ack"} {
		reached, release := wire.holdAt(message)
		w.announce("wx1", w.token("c"))
		next(w, reached)
		none("NATS, " + message)
		release()
		w.settled(r, "wx1")
	}
}
