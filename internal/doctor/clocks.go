package doctor

import (
	"context"
	"fmt"
	"time"

	"preauth/consumer"
)

// tooFar is how far clocks may differ.
const tooFar = 2 * time.Second

// What goes by which clock.
const (
	natsClock   = "tokens seem to live longer or shorter than they do: their life counts from the time of the stream"
	mysqlClock  = "people who compare the tables with the server's time are misled; the service goes by its own"
	wechatClock = "the times that are announced are wrong for everybody else: subscribers drop living codes, or use dead ones"
)

// clock is another machine's time beside this one's.
type clock struct {
	name    string
	ahead   time.Duration // of here
	exact   time.Duration // within this
	matters string
}

// now is the service's time.
func now(cfg consumer.Config) time.Time {
	if cfg.Now != nil {
		return cfg.Now()
	}
	return time.Now()
}

// noteClock notes the time of another machine, which it told between two times of here. The most
// exact one counts.
func (e *examination) noteClock(name string, asked, answered, there time.Time, matters string) {
	half := answered.Sub(asked) / 2
	c := clock{name, there.Sub(asked.Add(half)), half, matters}
	for i, known := range e.clocks {
		if known.name == name {
			if c.exact < known.exact {
				e.clocks[i] = c
			}
			return
		}
	}
	e.clocks = append(e.clocks, c)
}

// examineClocks compares the clocks that the other checks have seen.
func (e *examination) examineClocks() {
	e.group = "clocks"
	for _, name := range []string{"NATS", "MySQL", "WeChat"} {
		e.check(context.Background(), name, func(context.Context) verdict {
			for _, c := range e.clocks {
				if c.name == name {
					return e.compare(c)
				}
			}
			if name == "NATS" && e.jsWorks {
				return skipped("it says its time with a stream, or with --nats-monitor")
			}
			return skipped("it did not answer")
		})
	}
}

func (e *examination) compare(c clock) verdict {
	apart := c.ahead.Abs()
	if apart-c.exact <= tooFar {
		return ok("")
	}
	direction := "ahead of"
	if c.ahead < 0 {
		direction = "behind"
	}
	do := "set the clock of " + c.name + "'s machine by NTP"
	if c.name == "WeChat" || e.allApart() {
		do = "set this machine's clock by NTP"
	}
	return warning(fmt.Sprintf("%v %s this machine: %s", apart.Round(100*time.Millisecond), direction, c.matters), do)
}

// allApart reports whether several clocks differ from this machine's, and none agrees with it.
func (e *examination) allApart() bool {
	for _, c := range e.clocks {
		if c.ahead.Abs()-c.exact <= tooFar {
			return false
		}
	}
	return len(e.clocks) > 1
}
