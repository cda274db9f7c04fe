package consumer

import "time"

// PollDue changes how often MySQL is asked for due components, for all services started afterwards.
func PollDue(every time.Duration) { duePoll = every }

// PurgeEvery changes how often codes to be deleted are looked for, for all services started afterwards.
func PurgeEvery(every time.Duration) { purgeEvery = every }
