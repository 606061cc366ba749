package tunnel

// Exports for the tests of pipes.
const (
	MaxPipes    = maxPipes
	MaxSpare    = maxSpare
	SetPipeSize = setPipeSize
)

// Pipes returns how many pipes e has, and how many of them are unused.
func Pipes(e *Engine) (made, spare int) {
	e.parking.mu.Lock()
	p := e.parking.poller
	e.parking.mu.Unlock()
	if p == nil {
		return 0, 0
	}
	p.pipes.mu.Lock()
	defer p.pipes.mu.Unlock()
	return p.pipes.made, len(p.pipes.spare)
}
