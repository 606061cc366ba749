package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/stickylb/stickylb/wsproxy"
)

var errFull = errors.New("too many virtual hosts are in use")

const (
	batch    = 100  // frontends that are read at a time
	maxMarks = 1000 // marks that wait to be written
)

// Vhosts are the virtual hosts that are in use. They are made at the first request, follow what
// Redis says, and end when nobody has used them for a while.
type vhosts struct {
	*options
	store   *store
	metrics *metrics
	marks   chan mark
	hosts   *cache[*vhost] // by host

	mu    sync.Mutex
	all   map[string]*vhost // by frontend
	tasks sync.WaitGroup    // vhosts that end
	life  context.Context   // that of the vhosts, until close
	end   context.CancelFunc
}

func newVhosts(o *options, s *store) *vhosts {
	t := &vhosts{options: o, store: s, metrics: newMetrics(o.maxMetrics), marks: make(chan mark, maxMarks), all: map[string]*vhost{}}
	t.hosts = newCache(o, t.find)
	t.life, t.end = context.WithCancel(context.Background())
	return t
}

// find returns the vhost of a host, with what Redis says now.
func (t *vhosts) find(ctx context.Context, host string) (*vhost, error) {
	frontends, err := t.store.read(ctx, candidates(host)...)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(frontends, func(f frontend) bool { return f.exists() })
	if i < 0 {
		return nil, errUnknown
	}
	return t.make(frontends[i])
}

// make returns the vhost of a frontend. If there are too many, the one that was unused for the
// longest makes room. Nobody finds a new one before it has its backends. One that exists follows
// refresh alone, so that an answer that is older than that of refresh changes nothing.
func (t *vhosts) make(f frontend) (*vhost, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v := t.all[f.name]; v != nil {
		return v, nil
	}
	if len(t.all) >= t.max {
		var oldest *vhost
		for _, v := range t.all {
			if !t.inUse(v) && (oldest == nil || v.used.Before(oldest.used)) {
				oldest = v
			}
		}
		if oldest == nil {
			return nil, errFull
		}
		t.dropLocked(oldest)
	}
	v, err := newVhost(f.name, t.options, t.marks)
	if err != nil {
		return nil, err
	}
	v.used = time.Now()
	t.metrics.add(v)
	v.apply(f)
	t.all[f.name] = v
	return v, nil
}

func (t *vhosts) inUse(v *vhost) bool { return v.users > 0 || v.isBusy() }

// dropLocked ends a vhost that is not in use.
func (t *vhosts) dropLocked(v *vhost) {
	delete(t.all, v.name)
	t.metrics.remove(v)
	t.tasks.Go(v.end)
}

// acquire returns the vhost of a host for a request, which must call release. A frontend of the
// host's own name is found without the cache: no other name can push it out.
func (t *vhosts) acquire(ctx context.Context, host string) (v *vhost, release func(), err error) {
	v = t.use(host, nil)
	for range 3 { // a vhost may end at the same time
		if v != nil {
			break
		}
		found, err := t.hosts.get(ctx, host)
		if err != nil {
			return nil, nil, err
		}
		if v = t.use(found.name, found); v == nil {
			t.hosts.forget(host, found)
		}
	}
	if v == nil {
		return nil, nil, errFull
	}
	return v, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		v.users--
		v.used = time.Now()
	}, nil
}

// use counts a request for the vhost of a frontend. It returns nil if there is none, or if it is
// not the wanted one.
func (t *vhosts) use(name string, wanted *vhost) *vhost {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.all[name]
	if v == nil || wanted != nil && v != wanted {
		return nil
	}
	v.users++
	return v
}

// run follows Redis until ctx ends.
func (t *vhosts) run(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { t.writeMarks(ctx) })
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	away := false
	for answered := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t.sweep()
		switch err := t.refresh(ctx); {
		case err == nil:
			answered, away = time.Now(), false
		case ctx.Err() != nil:
			return
		default:
			if !away { // logged once
				away = true
				t.log.Warn("vhosts: Redis does not answer, the backends stay as they are", "error", err)
			}
			if time.Since(answered) > t.deadTTL { // no mark lives as long as that
				for _, v := range t.list() {
					v.revive()
				}
			}
		}
	}
}

func (t *vhosts) list() []*vhost {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*vhost, 0, len(t.all))
	for _, v := range t.all {
		all = append(all, v)
	}
	return all
}

// refresh reads the frontends of all vhosts. A vhost whose frontend is gone retires.
func (t *vhosts) refresh(ctx context.Context) error {
	for part := range slices.Chunk(t.list(), batch) {
		names := make([]string, len(part))
		for i, v := range part {
			names[i] = v.name
		}
		limited, cancel := context.WithTimeout(ctx, t.timeout)
		frontends, err := t.store.read(limited, names...)
		cancel()
		if err != nil {
			return err
		}
		for i, v := range part {
			if frontends[i].exists() {
				v.apply(frontends[i])
			} else {
				t.retire(v)
			}
		}
	}
	return nil
}

func (t *vhosts) retire(v *vhost) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all[v.name] == v {
		delete(t.all, v.name)
		t.metrics.remove(v)
		t.tasks.Go(func() { v.retire(t.life) })
	}
}

// sweep ends the vhosts that nobody has used for a while.
func (t *vhosts) sweep() {
	t.mu.Lock()
	for _, v := range t.all {
		if time.Since(v.used) > t.idle && !t.inUse(v) {
			t.dropLocked(v)
		}
	}
	t.mu.Unlock()
	t.hosts.drop(func(v *vhost) bool { return t.gone(v) })
}

// gone reports whether a vhost has ended or retires.
func (t *vhosts) gone(v *vhost) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all[v.name] != v
}

// shutdown closes the WebSockets of all vhosts, and waits for them.
func (t *vhosts) shutdown(ctx context.Context) error {
	all := t.list()
	proxies := make([]wsproxy.Shutdowner, len(all))
	for i, v := range all {
		proxies[i] = v.proxy
	}
	return wsproxy.Shutdown(ctx, proxies...)
}

// close ends all vhosts when no more requests come.
func (t *vhosts) close() {
	t.end()
	t.hosts.tasks.Wait()
	t.mu.Lock()
	for _, v := range t.all {
		t.dropLocked(v)
	}
	t.mu.Unlock()
	t.tasks.Wait()
}
