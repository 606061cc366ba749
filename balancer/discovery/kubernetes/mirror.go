package kubernetes

import (
	"errors"
	"maps"
	"slices"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// A mirror holds the EndpointSlices that the API server has. A reflector of client-go writes it,
// and Run reads it.
type mirror struct {
	changed chan struct{}

	mu       sync.Mutex
	byName   map[string]*discoveryv1.EndpointSlice // nil until the first list
	relisted bool                                  // a list has come since the latest look
	failed   *failure
}

func newMirror() *mirror { return &mirror{changed: make(chan struct{}, 1)} }

// look returns the slices in the order of their names, or nil before the first list. It reports
// whether a list has come since the last call, and returns the latest failure.
func (m *mirror) look() (found []*discoveryv1.EndpointSlice, relisted bool, failed *failure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byName != nil {
		found = make([]*discoveryv1.EndpointSlice, 0, len(m.byName))
		for _, name := range slices.Sorted(maps.Keys(m.byName)) {
			found = append(found, m.byName[name])
		}
	}
	relisted, m.relisted = m.relisted, false
	return found, relisted, m.failed
}

// tell records the outcome of a request: nil means that a watch has begun.
func (m *mirror) tell(f *failure) {
	m.mu.Lock()
	same := f == nil && m.failed == nil
	m.failed = f
	m.mu.Unlock()
	if !same {
		m.signal()
	}
}

func (m *mirror) signal() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// edit changes the slices.
func (m *mirror) edit(change func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	m.signal()
	return nil
}

// Add implements [cache.ReflectorStore].
func (m *mirror) Add(o any) error {
	return m.edit(func() {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok && m.byName != nil {
			m.byName[s.Name] = s
		}
	})
}

// Update implements [cache.ReflectorStore].
func (m *mirror) Update(o any) error { return m.Add(o) }

// Delete implements [cache.ReflectorStore].
func (m *mirror) Delete(o any) error {
	return m.edit(func() {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			delete(m.byName, s.Name)
		}
	})
}

// Replace implements [cache.ReflectorStore].
func (m *mirror) Replace(list []any, _ string) error {
	return m.edit(func() {
		m.byName = make(map[string]*discoveryv1.EndpointSlice, len(list))
		m.relisted = true
		for _, o := range list {
			if s, ok := o.(*discoveryv1.EndpointSlice); ok {
				m.byName[s.Name] = s
			}
		}
	})
}

// errRelist ends a watch, so that the reflector lists again.
var errRelist = errors.New("it is time for another list")

// Resync implements [cache.ReflectorStore].
func (m *mirror) Resync() error { return errRelist }
