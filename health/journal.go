package health

// maxJournal is how many events may wait to be logged. The events of a restart of all targets in a
// large pool fit.
const maxJournal = 4096

// A journal has the events of a run that wait to be logged. Its memory and its goroutine exist only
// while events wait, because most pools have few events.
type journal struct {
	events  []Event
	missed  int  // events that were lost since the last one in events
	writing bool // a goroutine logs the events
}

// recordLocked appends e to the run's journal. It starts the goroutine that logs the events, unless
// that runs already or the run is stopping.
func (u *run) recordLocked(e Event) {
	j := &u.journal
	if len(j.events) == maxJournal {
		j.missed++
		return
	}
	e.Missed, j.missed = j.missed, 0
	j.events = append(j.events, e)
	if !j.writing && !u.stopping {
		j.writing = true
		u.tasks.Go(u.writeJournal)
	}
}

// writeJournal logs the events until none is left.
func (u *run) writeJournal() {
	for {
		u.r.mu.Lock()
		events := u.journal.events
		u.journal.events = nil
		u.journal.writing = len(events) > 0
		u.r.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			u.r.logEvent(e)
		}
	}
}
