package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
)

// Settings are the values that may change while the demo serves.
type settings struct {
	demo   *demo
	codec  *cookie.Sealed         // of every policy
	store  stickiness.MemoryStore // of learnt sessions
	mode   atomic.Pointer[sticky] // in force
	policy stickiness.Switch

	mu      sync.Mutex // held during a change; the last change wins
	process string     // part of a version, different in each process
	version int
	targets []balancer.Target
	keys    [][]byte
	latest  stickiness.Policy // policy of mode, without the former policy
}

// newSettings returns the settings from the flags.
func newSettings(d *demo, o *options) (*settings, error) {
	s := &settings{demo: d, process: rand.Text()[:8], keys: o.keys}
	if len(s.keys) == 0 {
		s.keys = [][]byte{cookie.NewKey()}
	}
	var err error
	if s.codec, err = cookie.NewSealed(cookie.SealedOptions{Keys: s.keys}); err != nil {
		return nil, err
	}
	if s.latest, err = o.sticky.policy(s.codec, &s.store); err != nil {
		return nil, err
	}
	s.policy.Store(s.latest)
	s.mode.Store(&o.sticky)
	return s, nil
}

// A change is the content of a request. Nil fields stay unchanged.
type change struct {
	Version *string             `json:"version"` // the version to change; nil: any
	Targets *[]string           `json:"targets"` // as in -target
	TCP     map[string][]string `json:"tcp"`     // IDs by the address of a -tcp listener
	Grace   *string             `json:"grace"`   // grace of the drain of targets that are missing, a duration
	Sticky  *string             `json:"sticky"`  // as in -sticky
	Keys    *[]string           `json:"keys"`    // as in -seal-key
	NewKey  bool                `json:"new_key"` // add a random key before the present ones
}

// A view is the part of the settings that is shown. It has no keys.
type view struct {
	Version string              `json:"version"`
	Targets []string            `json:"targets"`
	TCP     map[string][]string `json:"tcp,omitempty"`
	Sticky  string              `json:"sticky"`
	Keys    int                 `json:"keys"` // number of keys
}

var (
	errStale   = errors.New("somebody has changed the settings meanwhile: look again")
	errNothing = errors.New("nothing to change: give one of targets, tcp, sticky, keys, new_key")
)

func (s *settings) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.viewLocked()
}

func (s *settings) viewLocked() view {
	v := view{Version: s.versionLocked(), Sticky: s.mode.Load().text, Keys: len(s.keys), Targets: []string{}}
	for _, t := range s.targets {
		v.Targets = append(v.Targets, t.String())
	}
	for _, f := range s.demo.fronts {
		if v.TCP == nil {
			v.TCP = make(map[string][]string)
		}
		v.TCP[f.Addr().String()] = slices.Clone(f.ids)
	}
	return v
}

func (s *settings) versionLocked() string { return s.process + "-" + strconv.Itoa(s.version) }

// A plan is a validated change.
type plan struct {
	moves   bool // targets or IDs of a front change
	targets []balancer.Target
	ids     map[string][]string // by address of a front
	drain   health.Drain
	mode    *sticky // nil: unchanged
	policy  stickiness.Policy
	keys    [][]byte // nil: unchanged
}

// apply makes a change completely, or returns an error and changes nothing. It logs who asked for
// the change.
func (s *settings) apply(c *change, who string) (view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.plan(c)
	if err != nil {
		return view{}, err
	}
	p.drain.By = who
	if p.moves {
		if err := s.demo.replace(p); err != nil {
			return view{}, err
		}
		s.targets = p.targets
	}
	if p.keys != nil {
		if err := s.codec.Store(p.keys...); err != nil {
			return view{}, err // cannot happen: plan has validated it
		}
		s.keys = p.keys
	}
	if p.mode != nil {
		s.policy.Store(takeOver(p, s.mode.Load(), s.latest))
		s.mode.Store(p.mode)
		s.latest = p.policy
	}
	s.version++
	v := s.viewLocked()
	s.demo.log.LogAttrs(context.Background(), slog.LevelInfo, "settings changed", p.attrs(&v, who)...)
	return v, nil
}

// takeOver returns the policy to put in force. Sessions that the former policy bound keep their
// targets: the new policy can read its cookies, or the former policy is asked after the new one.
func takeOver(p *plan, from *sticky, former stickiness.Policy) stickiness.Policy {
	if p.policy == nil || former == nil || p.mode.reads(from) {
		return p.policy
	}
	return stickiness.First(p.policy, stickiness.ReadOnly(former))
}

// attrs returns the log attributes of a change: who asked for it, and the new values.
func (p *plan) attrs(v *view, who string) []slog.Attr {
	attrs := []slog.Attr{slog.String("remote", who), slog.String("version", v.Version)}
	if p.moves {
		attrs = append(attrs, slog.Any("targets", v.Targets))
	}
	if p.moves && len(v.TCP) > 0 {
		attrs = append(attrs, slog.Any("tcp", v.TCP))
	}
	if p.mode != nil {
		attrs = append(attrs, slog.String("sticky", v.Sticky))
	}
	if p.keys != nil {
		attrs = append(attrs, slog.Int("keys", v.Keys))
	}
	return attrs
}

// plan validates a change. It changes nothing.
func (s *settings) plan(c *change) (*plan, error) {
	if c.Version != nil && *c.Version != s.versionLocked() {
		return nil, errStale
	}
	if c.Targets == nil && c.TCP == nil && c.Sticky == nil && c.Keys == nil && !c.NewKey {
		return nil, errNothing
	}
	p := &plan{targets: s.targets, ids: make(map[string][]string)}
	for _, step := range []func(*plan, *change) error{s.planTargets, s.planSticky, s.planKeys} {
		if err := step(p, c); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (s *settings) planTargets(p *plan, c *change) (err error) {
	p.moves = c.Targets != nil || c.TCP != nil
	if c.Grace != nil {
		if p.drain.Grace, err = time.ParseDuration(*c.Grace); err != nil || p.drain.Grace < 0 {
			return fmt.Errorf("grace %q is no duration such as 30s", *c.Grace)
		}
		if p.drain.Grace == 0 {
			p.drain.Grace = -1 // none
		}
		if !p.moves {
			return errors.New("grace is about targets: give them, too")
		}
	}
	if c.Targets != nil {
		if p.targets, err = balancer.ParseTargets(*c.Targets...); err != nil {
			return err
		}
	}
	for _, f := range s.demo.fronts {
		p.ids[f.Addr().String()] = f.ids
	}
	for addr, ids := range c.TCP {
		if _, ok := p.ids[addr]; !ok {
			return fmt.Errorf("no -tcp listener has the address %q", addr)
		}
		p.ids[addr] = ids
	}
	if !p.moves {
		return nil
	}
	return s.checkTargets(p)
}

// checkTargets returns an error if a listener would have no target, or a target no listener.
func (s *settings) checkTargets(p *plan) error {
	var behind [][]string
	for _, f := range s.demo.fronts {
		addr := f.Addr().String()
		if err := checkIDs(p.ids[addr], p.targets); err != nil {
			return fmt.Errorf("tcp %s: %w", addr, err)
		}
		behind = append(behind, p.ids[addr])
	}
	serves := slices.ContainsFunc(s.demo.listeners, func(l *listener) bool { return l.name == balancerName })
	if serves && !slices.ContainsFunc(p.targets, speaksHTTP) {
		return errors.New("no target speaks HTTP")
	}
	return checkReached(p.targets, behind)
}

func (s *settings) planSticky(p *plan, c *change) error {
	if c.Sticky == nil {
		return nil
	}
	mode, err := parseSticky(*c.Sticky)
	if err == nil {
		p.policy, err = mode.policy(s.codec, &s.store)
	}
	if err != nil {
		return fmt.Errorf("sticky %q: %w", *c.Sticky, err)
	}
	p.mode = &mode
	return nil
}

func (s *settings) planKeys(p *plan, c *change) (err error) {
	switch {
	case c.Keys != nil && c.NewKey:
		return errors.New("keys and new_key exclude each other")
	case c.NewKey:
		p.keys = append([][]byte{cookie.NewKey()}, s.keys[:min(len(s.keys), maxKeys-1)]...)
		return nil
	case c.Keys == nil:
		return nil
	case len(*c.Keys) == 0:
		return errors.New("keys is empty")
	}
	if p.keys, err = parseKeys(*c.Keys); err != nil {
		return err
	}
	_, err = cookie.NewSealed(cookie.SealedOptions{Keys: p.keys})
	return err
}

// replace sets the targets of the pools. Targets that are missing are drained.
func (d *demo) replace(p *plan) error {
	if err := d.registry.Replace(slices.DeleteFunc(slices.Clone(p.targets), speaksNoHTTP), p.drain); err != nil {
		return err
	}
	for _, f := range d.fronts {
		f.ids = p.ids[f.Addr().String()]
		if err := f.registry.Replace(f.behind(p.targets), p.drain); err != nil {
			return err
		}
	}
	return nil
}
