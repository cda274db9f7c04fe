package repo

// MaxWriting is how many statements give spares away at a time.
const MaxWriting = maxWriting

// WaitingGifts returns how many claims have a spare and wait for a statement that gives it to them.
func (r *Repo) WaitingGifts() int {
	r.giver.mu.Lock()
	defer r.giver.mu.Unlock()
	return len(r.giver.waiting)
}
